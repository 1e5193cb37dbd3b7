# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Content of the files that a recipe names: models, data sets, their images, any other file or folder.

A file is hashed once. Later it is read again only if its size, times or inode differ.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.problems import Reject
from ..data.reader import read_rows
from ..training.whole_rows import media_paths
from ..utils.io import (
    TWICE,
    content_hash,
    file_sha256,
    iter_jsonl,
    read_json,
    sampled_sha256,
    write_jsonl,
    write_text,
)
from ..utils.row_index import HashIndex, Texts, hash_of
from ..utils.value_checks import split_list


WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")
MODEL_SETTINGS = (
    "*config.json", "*.index.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*",
    "merges.txt", "*.model", "*.tiktoken", "chat_template.*", "additional_chat_templates/*", "*.py",
)  # fmt: skip
"""Files beside the weights that change what a model computes: configuration, tokenizer, processor, templates, code."""

MEDIA_COLUMNS = ("images", "videos", "audios")
LARGE_BYTES = 2**26  # of a data set whose list of media is kept on disk, for reading its rows takes a while
FRESH_NS = 2_000_000_000  # a file that changed so recently may change again without another time


class ContentHashes:
    """Hashes of files by path, kept with each file's size, times and inode in a JSON file (``None``: in memory)."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = read_json(path) if path is not None and path.is_file() else {}
        self._changed = False
        self._media: dict[str, Texts] = {}

    def media(self, key: Any, find: Callable[[], Iterable[str]], *, keep: bool) -> Texts:
        """The paths that ``find`` gives, which reads all rows: once for each ``key``; ``keep`` is for later runs."""
        name = content_hash(key)
        if name not in self._media:
            if self._path is None or not keep:
                self._media[name] = Texts(find())
            else:
                path = self._path.with_name(f"media_{name[:16]}.jsonl")
                if not path.is_file():
                    write_jsonl(path, ({"file": file} for file in find()))
                self._media[name] = Texts(row["file"] for row in iter_jsonl(path))
        return self._media[name]

    def of(self, path: str | Path) -> str:
        """32 hexadecimal digits of one file's SHA-256 (of weights: of samples, see ``sampled_sha256``)."""
        name = os.path.abspath(path)
        status = os.stat(name)
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        known = self._known.get(name)
        if known is not None and known[:-1] == stamp:
            return known[-1]
        digest = (sampled_sha256 if name.endswith((".safetensors", ".bin")) else file_sha256)(name)[:32]
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > FRESH_NS:
            self._known[name] = [*stamp, digest]
            self._changed = True
        return digest

    def of_all(self, paths: Iterable[str | Path], label: str = "") -> str:
        """One hash of many files' or folders' content, in order; missing ones count as missing."""
        bar = tqdm(paths, desc=f"Hashing {label}", leave=False, delay=5, disable=not label)
        return content_hash([self.of_path(path) for path in bar])[:32]

    def of_path(self, path: str | Path) -> Any:
        """The hash of a file; ``{name: hash}`` of a folder and its subfolders; ``None`` if there is neither."""
        if os.path.isdir(path):
            files = sorted(each for each in Path(path).rglob("*") if each.is_file())
            return {str(each.relative_to(path)): self.of(each) for each in files}
        return self.of(path) if os.path.isfile(path) else None

    def save(self) -> None:
        """Writes the hashes, if there are new ones."""
        if self._changed and self._path is not None:
            write_text(self._path, json.dumps(self._known))
            self._changed = False


def named_content(value: Any, hashes: ContentHashes) -> Any:
    """The content behind a recipe's value that is the path of a file or folder, or a list of such; otherwise ``None``.

    A plain word is no path: ``full`` stays a word beside a folder of that name.
    """
    if isinstance(value, (list, tuple)):
        found = [named_content(each, hashes) for each in value]
        return found if any(each is not None for each in found) else None
    if not isinstance(value, str) or not ("/" in value or os.sep in value or "." in value):
        return None
    path = os.path.expanduser(value)
    return hashes.of_all([path], value) if os.path.exists(path) and value.strip("./") else None


def model_fingerprint(name_or_path: str, hashes: ContentHashes | None = None, subfolder: str | None = None) -> Any:
    """A hub name unchanged; a local folder as the hashes of its weight files (sampled) and :data:`MODEL_SETTINGS`."""
    folder = Path(name_or_path, subfolder or "")
    if not folder.is_dir():
        return name_or_path
    hashes = hashes or ContentHashes()
    weights = sorted(path for pattern in WEIGHT_FILES for path in folder.glob(pattern))
    settings = sorted({path for pattern in MODEL_SETTINGS for path in folder.glob(pattern) if path.is_file()})
    configs = [path for path in settings if path.name in ("config.json", "adapter_config.json")]
    others = [path for path in settings if path not in configs]
    return {
        "weights": [(path.name, path.stat().st_size, hashes.of(path)[:16]) for path in weights],
        "configs": [hashes.of(path) for path in configs],
        "settings": content_hash({str(path.relative_to(folder)): hashes.of(path) for path in others})[:32],
    }


def dataset_fingerprint(names: Any, data: Any, hashes: ContentHashes) -> dict[str, dict[str, Any]]:
    """``data_files``, ``data_entries`` and ``data_media`` of data sets: each maps a name to what is recorded of it.

    That is the hash of its local files, its entry in ``dataset_info.json``, and the hash of the images, videos and
    audio files that its rows name. ``data`` is LLaMA-Factory's ``DataArguments``.

    Raises:
        ValueError: If a row of a JSON file has a key twice; stock would keep the last and drop the other in silence.
    """
    entries = _dataset_info(data.dataset_dir)
    found: dict[str, dict[str, Any]] = {"data_files": {}, "data_entries": {}, "data_media": {}}
    for name in split_list(names or []):
        entry = entries.get(name, {})
        files = _local_files(entry, data.dataset_dir)
        found["data_entries"][name] = entry
        if not files:
            continue
        found["data_files"][name] = hashes.of(files[0]) if len(files) == 1 else hashes.of_all(files, name)
        takes_first = isinstance(data.max_samples, int) and entry.get("num_samples") is None
        options = files, entry, data.media_dir, data.max_samples if takes_first else None
        keep = sum(map(os.path.getsize, files)) >= LARGE_BYTES
        media = hashes.media([found["data_files"][name], *options], partial(_media, *options), keep=keep)
        if len(media):
            found["data_media"][name] = f"{len(media)} files, {hashes.of_all(media, f'the media of {name}')}"
    return found


def _dataset_info(dataset_dir: Any) -> dict[str, Any]:
    if isinstance(dataset_dir, dict):
        return dataset_dir
    path = Path(dataset_dir, "dataset_info.json") if isinstance(dataset_dir, str) else None
    return read_json(path) if path is not None and path.is_file() else {}


def _local_files(entry: dict[str, Any], dataset_dir: Any) -> list[str]:
    """The files of a data set that is not on a hub; those of a script are the script itself."""
    name = entry.get("file_name") or entry.get("script_url")
    if name is None or not isinstance(dataset_dir, str):
        return []
    path = os.path.join(dataset_dir, name)
    if os.path.isdir(path):
        return sorted(str(each) for each in Path(path).rglob("*") if each.is_file())
    return [path] if os.path.isfile(path) else []


def _media(files: list[str], entry: dict[str, Any], media_dir: Any, limit: int | None) -> Iterator[str]:
    """The paths of the media that the first ``limit`` rows name, each once, found where stock finds them."""
    columns = [entry.get("columns", {}).get(kind) for kind in MEDIA_COLUMNS]
    columns = [column for column in columns if column]
    known = HashIndex()
    for number, row in enumerate(_rows(files, columns)):
        if limit is not None and number >= limit:
            return
        for path in media_paths([row.get(column) for column in columns]):
            local = os.path.join(media_dir, path) if isinstance(media_dir, str) else path
            path = local if os.path.exists(local) else path
            key = hash_of(os.fsencode(path))
            if key not in known:
                known.put(key, 0)
                yield path


def _rows(files: list[str], columns: list[str]) -> Iterator[dict[str, Any]]:
    for path in files:
        if path.endswith((".json", ".jsonl")):
            for number, row in read_rows(path):
                if not isinstance(row, Reject):
                    yield row
                elif row.detail.endswith(TWICE):
                    raise ValueError(f"{path}, row {number}: {row.detail}, and one of both would be lost. Correct it.")
        elif columns and path.endswith((".csv", ".parquet", ".arrow")):
            from datasets import load_dataset

            tables = load_dataset(path.rpartition(".")[2], data_files=[path], split="train", streaming=True)
            for table in tables.with_format("arrow").iter(batch_size=1000):  # as it is stored: no image is decoded
                yield from table.select([name for name in columns if name in table.column_names]).to_pylist()
