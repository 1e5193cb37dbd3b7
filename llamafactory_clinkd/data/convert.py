# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""`clinkd data convert`: any known format to a ShareGPT data set that LLaMA-Factory trains on."""

import itertools
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..utils.box_forms import unread_numbers
from ..utils.boxes import IMAGE_PLACEHOLDER, TASKS, UNIT_OF_MODEL, VQA, TagStyle, task_of
from ..utils.io import content_hash, file_lock, refuse_link
from .baking import any_reader_picture, keyed_hash, with_extension, write_embedded
from .box_convention import BOXES_KEY, scale_of, size_warning, unit_of_source
from .conversation import Conversation, Embedded, kept_columns
from .coordinates import IMAGE_MAX_PIXELS, Coordinates, ModelType
from .formats import FORMATS, Format, detect_format
from .images import known_modality, relative_path
from .problems import CHOICES, Reject
from .row_check import text_problems
from .scans import Slice, Window, is_scan, scan_to_png
from .sharegpt import ResumableWriter, check_name, sharegpt_row
from .sources import first_rows, read_source
from .text import check_unicode, clean_text, unread_box


OF_PIXELS = (
    "Boxes are written as pixels of the resized picture. In the recipe: image_square: false, image_max_pixels: {}. "
    "The report and the region scorers take boxes as thousandths."
)
_LOST = ("video", "videos", "audio", "audios", "tools")  # of a row
MIXED = "MIXED"  # the task of a row whose turns have different ones


class StrictError(ValueError):
    """The first bad row under ``strict``."""


@dataclass(frozen=True)
class Options:
    """How rows are built."""

    tags: TagStyle = "qwen2_vl"
    coordinates: Coordinates = "auto"  # of the boxes in the source
    split_turns: bool = False  # one row per turn, with ids x#1, x#2 ..., instead of one per conversation
    image_folder: str | Path | None = None  # LLaMA-Factory's media_dir; by default the source's, or the output's
    image_prefix: str = ""  # put before every image path, for instance "images"
    default_slice: Slice = Slice()  # of volumes whose path names none
    window: Window | None = None  # centre and width in HU for CT, instead of the file's own
    model_type: ModelType = "qwen2_vl"  # whose convention the boxes are written in
    image_max_pixels: int = IMAGE_MAX_PIXELS  # the recipe's, for a model that reads pixels
    upright: bool = True  # whether an EXIF orientation is applied; else dropped, for boxes drawn on the stored pixels
    patient_column: str = ""  # of the source, for `split --by patient`: written as a keyed hash

    def __post_init__(self) -> None:
        if self.image_prefix:
            relative_path(self.image_prefix)  # raises a ValueError that explains what is wrong with it


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion."""

    path: Path
    rejects_path: Path
    format: str
    unit: str  # of the source's boxes
    image_folder: Path
    rows_in: int  # converted + rejected
    converted: int
    rows_out: int  # equals converted, unless turns are split
    rejected: int
    reasons: dict[str, int]
    tasks: dict[str, int]
    modalities: dict[str, int]
    pictures: dict[str, int]  # rows of each remark on their images: see `data.baking`
    warnings: list[str]  # the first hundred
    warned: int  # number of all warnings
    answers: int
    unread: int  # answers with numbers in a form that is not read as a box
    resumed_at: int  # number of rows that an interrupted run had finished

    def as_json(self) -> dict[str, Any]:
        """The same with plain paths."""
        return asdict(self) | {key: str(getattr(self, key)) for key in ("path", "rejects_path", "image_folder")}


def convert(
    source: str | Path,
    output: str | Path,
    *,
    name: str | None = None,
    format: str | None = None,
    split: str | None = None,
    options: Options | None = None,
    strict: bool = False,
    on_format: Callable[[Format, bool], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Conversion:
    """Converts one source to ``output/<name>.json``, ``output/dataset_info.json`` and ``output/rejects.jsonl``.

    The source (see ``sources.py``) is streamed. After an interruption the same arguments resume from the last
    checkpoint, to the same files. By default ``name`` is the source's without extension, ``format`` (a key of
    ``FORMATS``) is detected, and images are in the source's folder, or in the output's if the source holds them.
    ``split`` is the part of a source that has several. ``strict`` stops at the first bad row, leaving nothing.
    ``on_format`` is called with the format and whether it was detected, ``on_bytes`` with the bytes read.

    Raises:
        StrictError: With ``strict``, for the first bad row.
        BrokenFileError: If the file cannot be read to its end; the rows before are kept for a later run.
        ValueError: If the format is unknown, no format fits, or another run writes a data set of this name.
    """
    path, options = Path(source), options or Options()
    name = name or path.name.partition(".")[0]
    check_name(name)
    if path.resolve() == (Path(output) / f"{name}.json").resolve():
        raise ValueError(f"{source} would be overwritten by its own conversion: give another --name or folder.")
    if format is not None and format not in FORMATS:
        raise ValueError(f"Unknown format {format!r}: expected one of {', '.join(FORMATS)}.")
    sample = first_rows(source, split, required=format is None)
    source_format = detect_format(sample) if format is None else FORMATS[format]
    if on_format:
        on_format(source_format, format is None)

    if options.image_folder is None:
        beside = path.is_file() and not _has_pictures(sample, source_format)
        options = replace(options, image_folder=path.parent if beside else output)
    pictures = Path(options.image_folder) / options.image_prefix.strip("/")
    unit, notes = unit_of_source(
        read_source(source, split), source_format, options.coordinates, pictures, options.upright
    )
    options = replace(options, coordinates=unit)
    stat = path.stat() if path.exists() else None
    inputs = [str(path.resolve()) if stat else str(source), split, stat and stat.st_size, stat and stat.st_mtime_ns]
    inputs += [source_format.name, name, repr(options)]
    # A strict run does not resume a run that may have rejected rows.
    signature = content_hash([*inputs, "strict"] if strict else inputs)
    with file_lock(Path(output) / f".{name}.lock", wait=False, holder=f"another conversion to {name!r}"):
        partial = Path(output) / ".convert" / name
        for path in (partial.parent, partial, *(partial.iterdir() if partial.is_dir() else ())):
            refuse_link(path)
        written = UNIT_OF_MODEL[options.model_type]
        entry = {} if written == "thousandths" else {BOXES_KEY: written}
        notes += [OF_PIXELS.format(options.image_max_pixels)] if entry else []
        writer = ResumableWriter(output, name, signature, **entry)
        resumed_at = writer.done
        try:
            for number, row in itertools.islice(read_source(source, split, on_bytes), writer.done, None):
                try:
                    _write_row(writer, number, row, source_format, options)
                except Reject as reject:
                    if strict and reject.reason not in CHOICES:
                        raise StrictError(f"{source}, row {number} ({_identity(row)!r}): {reject}.") from reject
                    writer.reject(number, _identity(row), reject.reason, reject.detail)
        except BaseException as error:
            writer.close(keep=not isinstance(error, StrictError))
            raise
        with file_lock(Path(output) / ".clinkd.lock", wait=True):  # of the files that data sets share
            writer.finish()
    counts = writer.counts
    by_kind = {"reasons": "reject", "tasks": "task", "modalities": "modality", "pictures": "picture"}
    numbers = {"rows_out": "rows", "unread": "unread answers"} | {n: n for n in ("converted", "rejected", "answers")}
    return Conversion(
        path=writer.path,
        rejects_path=writer.rejects_path,
        format=source_format.name,
        unit=unit,
        image_folder=Path(options.image_folder),
        rows_in=writer.done,
        warnings=notes + writer.warnings,
        warned=len(notes) + counts["warnings"],
        resumed_at=resumed_at,
        **{name: counts[key] for name, key in numbers.items()},
        **{name: writer.counts_of(kind) for name, kind in by_kind.items()},
    )


def _write_row(writer: ResumableWriter, number: int, row: Any, source_format: Format, options: Options) -> None:
    """Converts and writes one row of the source; raises :class:`Reject`."""
    if isinstance(row, Reject):
        raise row
    if lost := [key for key in _LOST if row.get(key) not in (None, "", "[]", [])]:
        raise Reject("wrong_type", f"the row has {', '.join(lost)}, which would be lost")
    conversation = source_format.parse(row)
    in_row = any(isinstance(image, Embedded) for image in conversation.images)
    prefix = f"{writer.name}-" if in_row else ""  # no file distinguishes the rows of two sets
    conversation.id = conversation.id or f"{prefix}row-{number}"
    conversation.columns |= kept_columns(row)
    conversation.task = conversation.task or row.get("task")
    patient = conversation.columns.pop("patient", None)
    rows, warnings, remarks = build_rows(conversation, options, source_format.task)
    if options.patient_column or patient:
        patient = row.get(options.patient_column) if options.patient_column else patient
        if not isinstance(patient, str | int) or not str(patient).strip():
            raise Reject("missing_field", f"no {options.patient_column!r}, the column of the patient")
        patient = keyed_hash(options.image_folder, f"patient {str(patient).strip()}")
        rows = [converted | {"patient": patient} for converted in rows]
    writer.counts.update(f"picture {code}" for code in remarks)
    writer.write(rows, warnings + _unread(rows, writer.counts))


def _has_pictures(rows: list[dict[str, Any]], source_format: Format) -> bool:
    for row in rows:
        with suppress(Reject):
            if any(isinstance(image, Embedded) for image in source_format.parse(row).images):
                return True
    return False


def _unread(rows: list[dict[str, Any]], counts: Counter[str]) -> list[str]:
    """Counts answers with numbers that are not read as boxes; a warning for each, and for each such question."""
    texts: dict[str, list[str]] = {"user": [], "assistant": [], "system": []}
    for message in itertools.chain.from_iterable(row["messages"] for row in rows):
        texts[message["role"]].append(message["content"])
    answers = [unread for text in texts["assistant"] if (unread := unread_box(text))]
    questions = [unread for text in texts["user"] if (unread := unread_numbers(text))]
    counts.update({"answers": len(texts["assistant"]), "unread answers": len(answers)})
    return [f"Numbers in a form that is not read: {text[:60]!r}" for text in questions + answers]


def _identity(row: Any) -> Any:
    """The row's own id, or what comes closest, so that the user finds it."""
    fields = ("id", "qid", "question_id", "image", "image_name") if isinstance(row, dict) else ()
    return next((row[field] for field in fields if isinstance(row.get(field), str | int)), None)


def build_rows(
    conversation: Conversation, options: Options, without_box: str = "MIA"
) -> tuple[list[dict[str, Any]], list[str], set[str]]:
    """The ShareGPT rows of one conversation, which is rejected as a whole, warnings about scans, codes of remarks.

    ``without_box`` is the task of turns without a box.
    """
    if not conversation.turns:
        raise Reject("no_turns", "expected a question and an answer")
    placeholders = sum(question.count(IMAGE_PLACEHOLDER) for question, _ in conversation.turns)
    if placeholders not in (0, len(conversation.images)):
        raise Reject("image_count", f"{placeholders} <image> placeholders, {len(conversation.images)} images")
    if problems := text_problems(conversation.turns, conversation.system):
        raise Reject(*problems[0])
    check_unicode(conversation.id)

    prefix, folder = options.image_prefix.strip("/"), options.image_folder or "."
    images = [
        write_embedded(folder, image)
        if isinstance(image, Embedded)
        else with_extension(folder, f"{prefix}/{image}" if prefix else image)
        for image in conversation.images
    ]
    modality = known_modality(conversation.modality, images[0] if images else None)
    warnings, remarks = [], set()
    for index, image in enumerate(images):
        if is_scan(image):
            scan = {"modality": modality, "default_slice": options.default_slice, "window": options.window}
            image, scan_warnings, found = scan_to_png(folder, image, **scan)
            warnings += scan_warnings
            modality = found if found and index == 0 else modality
        images[index], codes = any_reader_picture(folder, image, upright=options.upright)
        remarks |= codes

    frame = (folder, options.model_type, options.image_max_pixels)
    scale = scale_of(conversation, images, options.coordinates, *frame)
    turns = [[clean_text(text, scale) for text in turn] for turn in conversation.turns]
    system = clean_text(conversation.system, scale) if conversation.system else None
    if warning := size_warning(conversation, images, folder):
        warnings.append(warning)
    columns = conversation.columns | {"images": images, "system": system, "modality": modality}
    rows = [columns | {"id": conversation.id, "turns": turns}]
    if options.split_turns and len(turns) > 1:
        for turn in turns:
            if turn[0].count(IMAGE_PLACEHOLDER) != len(images):  # each row shows every image of the conversation
                turn[0] = IMAGE_PLACEHOLDER * len(images) + turn[0].replace(IMAGE_PLACEHOLDER, "")
        rows = [columns | {"id": f"{conversation.id}#{n}", "turns": [turn]} for n, turn in enumerate(turns, start=1)]
    for row in rows:
        row["task"] = _task(conversation.task, row["turns"], without_box)
    return [sharegpt_row(row, tags=options.tags) for row in rows], warnings, remarks


def _task(source_task: Any, turns: list[list[str]], without_box: str) -> str:
    if isinstance(source_task, str) and source_task.strip().upper() in (*TASKS, VQA):
        return source_task.strip().upper()
    tasks = {task_of(question, answer) for question, answer in turns}
    tasks = {without_box if task == "MIA" else task for task in tasks}
    return tasks.pop() if len(tasks) == 1 else MIXED
