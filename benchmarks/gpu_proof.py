# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

r"""What this package does on a GPU, in at most twelve minutes: one JSON file and one Markdown table.

    make gpu-proof                                    # one CUDA device; results in runs/gpu-proof
    python benchmarks/gpu_proof.py --device cpu --tiny  # every part with tiny shapes: the script itself is tested

Nothing is fetched: models are random, in the shapes of Qwen2-VL, and the demo's models are in the package. Each part
runs in a process of its own within a time limit. If one fails or lacks a library, that is reported and the rest runs.
Parts marked * need only torch, transformers and this package; the others need LLaMA-Factory or the named library.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple


HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "llamafactory_clinkd"


class Part(NamedTuple):
    """One measurement."""

    title: str
    needs: tuple[str, ...]
    seconds: int
    """Time limit on a GPU."""
    command: list[str]
    """Its ``--json FILE`` is added where it writes one; else its last line is JSON."""
    writes_json: bool = True


def parts_of(device: str, tiny: bool) -> dict[str, Part]:
    """The parts, with the shapes of a 2B model or tiny ones."""
    shape, rows, vocabulary = ("tiny", "64", "2000") if tiny else ("2b", "2048", "151936")
    on = ["--device", device]
    loss = ["kd_loss.py", *on, "--methods", "dense CE + KL", "ours", "--rows", rows, "--vocabulary", vocabulary]
    step = ["kd_step.py", *on, "--shape", shape, "--dtype", "bf16", "--repeats", "1" if tiny else "5"]
    step += ["--lengths", "64"] if tiny else []
    on_policy = [
        "on_policy_step.py",
        "--steps",
        "1" if tiny else "5",
        "--repeats",
        "1",
        "--new-tokens",
        "8" if tiny else "64",
    ]
    on_policy += (
        ["--hidden", "64", "--layers", "2", "--side", "112"] if tiny else ["--hidden", "1536", "--layers", "28"]
    )
    inline = ["gpu_proof_parts.py", device, shape]
    return {
        "loss": Part("loss and its gradient error in bf16 *", (), 150, loss),
        "step": Part(
            "whole steps against stock SFT *", (), 150, [*step, "--methods", "sft", "ours", "bound_products"]
        ),
        "attention": Part("a step with SDPA and FlashAttention-2 *", (), 60, [*inline, "attention"], False),
        "quantised": Part("teachers in 4 and 8 bit", ("bitsandbytes",), 90, [*inline, "quantised"], False),
        "offloaded": Part("a teacher in the machine's memory", ("accelerate",), 60, [*inline, "offloaded"], False),
        "procedure": Part(
            "the five phases on the demo's models", ("llamafactory",), 150, [*inline, "procedure"], False
        ),
        "on_policy": Part("an on-policy step", ("llamafactory",), 90, on_policy),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to test the script")
    parser.add_argument("--parts", nargs="+", help="only these")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-proof"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine(options.device), "parts": {}}
    for name, part in parts_of(options.device, options.tiny).items():
        if options.parts and name not in options.parts:
            continue
        began = time.perf_counter()
        found = run(part, options.out / f"{name}.json")
        results["parts"][name] = {"title": part.title, "wall_s": round(time.perf_counter() - began, 1), **found}
        (options.out / "gpu_proof.json").write_text(json.dumps(results, indent=1) + "\n")
        (options.out / "gpu_proof.md").write_text(markdown(results))
        print(f"{name}: {found['status']}", flush=True)
    print(f"Results: {options.out / 'gpu_proof.md'}")


def machine(device: str) -> dict[str, Any]:
    """Card, driver and versions."""
    import torch

    names = ("torch", "transformers", "llamafactory", "accelerate", "bitsandbytes", "flash_attn")
    found: dict[str, Any] = {"platform": platform.platform(), "cpus": os.cpu_count()}
    for name in names:
        module = importlib.import_module(name) if importlib.util.find_spec(name) else None
        found[name] = getattr(module, "__version__", "installed") if module else None
    if device == "cuda":
        found["card"] = torch.cuda.get_device_name()
        query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
        found["driver"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    return found


def run(part: Part, json_path: Path) -> dict[str, Any]:
    """``{"status": "ok" | "missing" | "failed", ...}`` with the result or the reason."""
    missing = [name for name in part.needs if importlib.util.find_spec(name) is None]
    if missing:
        return {"status": "missing", "reason": f"needs {', '.join(missing)}"}
    script, *arguments = part.command
    command = [
        sys.executable,
        str(HERE / script),
        *arguments,
        *(["--json", str(json_path)] if part.writes_json else []),
    ]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=part.seconds * 4)
    except subprocess.TimeoutExpired:
        return {"status": "failed", "reason": f"took more than {part.seconds * 4} s"}
    if done.returncode != 0:
        return {"status": "failed", "reason": (done.stderr.strip().splitlines() or ["no message"])[-1][:500]}
    text = json_path.read_text() if part.writes_json else done.stdout.strip().splitlines()[-1]
    return {"status": "ok", "result": json.loads(text)}


def markdown(results: dict[str, Any]) -> str:
    """The results as a table of figures, one line for each case."""
    lines = ["# GPU proof", "", ", ".join(f"{k} {v}" for k, v in results["machine"].items() if v is not None), ""]
    lines += ["| part | case | figures |", "|---|---|---|"]
    for part in results["parts"].values():
        if part["status"] != "ok":
            lines.append(f"| {part['title']} | {part['status']} | {part['reason']} |")
            continue
        result = part["result"]
        cases = result.get("cases") or [{"method": key, **value} for key, value in result.get("table", result).items()]
        for case in cases:
            figures = {k: v for k, v in case.items() if isinstance(v, float) or k in ("peak_mib", "failed", "missing")}
            shown = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
            title = " ".join(str(case[key]) for key in ("method", "rows", "dtype", "head") if key in case)
            lines.append(f"| {part['title']} | {title} | {shown} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
