# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Selective generation with n candidates: this package against the naive loop, in one run, on the same candidates.

    python benchmarks/selection.py [--json FILE]

``naive``: for each row n ``generate`` calls, the i-th keeping the i-th beam (each encodes the image for each beam),
then each candidate is scored alone, image and text encoded again. ``ours``: ``generate_rows`` and ``select_rows``.
Both use the same randomly initialised Qwen2-VL and open_clip model, built here; nothing is downloaded. They take turns
in each repetition; medians count.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from qwen2vl import qwen2vl_config, special_ids
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    logging,
)

from llamafactory_clinkd.generation import generate_rows
from llamafactory_clinkd.generation.decode import decode_batch, generation_settings, model_inputs
from llamafactory_clinkd.select import load_scorer, rank_scores, select_rows
from llamafactory_clinkd.utils.boxes import strip_boxes


SPECIALS = ("<|endoftext|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
WORDS = tuple(f"word{i}" for i in range(4000))
PIXELS = 224


def build_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate([*SPECIALS, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIALS[0]))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=SPECIALS[1], pad_token=SPECIALS[0], padding_side="left"
    )


def build_model(tokenizer) -> Qwen2VLForConditionalGeneration:
    config = qwen2vl_config(
        hidden_size=256,
        layers=4,
        heads=4,
        kv_heads=2,
        intermediate_size=768,
        vocab_size=len(tokenizer),
        tokens=special_ids(tokenizer),
        vision={"depth": 4, "embed_dim": 128, "num_heads": 4, "mlp_ratio": 4},
        tie_word_embeddings=True,
    )
    model = Qwen2VLForConditionalGeneration(config).eval()
    with torch.no_grad():  # wide enough for beams to differ clearly, so that rounding cannot reorder them
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.1)
    return model


def build_scorer(folder: Path):
    config = {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 224, "layers": 4, "width": 192, "head_width": 48, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 4},
    }
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    state = {name: tensor.contiguous() for name, tensor in open_clip.CLIP(**config).state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return load_scorer(str(folder))


def build_rows(tokenizer, folder: Path, n: int):
    """Tokenised prompts with an image each, and the same rows as the selection needs them."""
    rng = np.random.default_rng(0)
    tokens = (PIXELS // 28) ** 2
    dataset, rows = [], []
    for i in range(n):
        path = folder / f"ct_{i}.png"
        Image.fromarray(rng.integers(0, 255, (PIXELS, PIXELS, 3), dtype=np.uint8)).save(path)
        words = " ".join(rng.choice(WORDS, size=rng.integers(4, 12)))
        ids = tokenizer("<|vision_start|> " + "<|image_pad|> " * tokens + "<|vision_end|> " + words)["input_ids"]
        dataset.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [], "images": [str(path)]})
        rows.append({"id": f"row-{i}", "image": str(path), "question": words, "annotation": ""})
    return dataset, rows


def build_collate():
    processor = Qwen2VLImageProcessor(min_pixels=PIXELS**2, max_pixels=PIXELS**2)

    def collate(features):
        longest = max(len(feature["input_ids"]) for feature in features)
        images = [Image.open(path).convert("RGB") for feature in features for path in feature["images"]]
        batch = {
            key: torch.tensor([[0] * (longest - len(feature[key])) + feature[key] for feature in features])
            for key in ("input_ids", "attention_mask")
        }
        return {**batch, **processor(images, return_tensors="pt")}

    return collate


def naive(model, tokenizer, dataset, rows, collate, scorer, settings):
    """The loop of Algorithm 1 as it reads."""
    seconds = {"generate": 0.0, "score": 0.0}
    results = []
    for features, row in zip(dataset, rows, strict=True):
        start = time.perf_counter()
        texts = []
        for i in range(settings["num_return_sequences"]):
            inputs = model_inputs(model, collate([dict(features)]), "cpu")
            with torch.no_grad():
                output = model.generate(**inputs, **settings, use_cache=True)
            answer = output[i, inputs["input_ids"].size(1) :].tolist()
            ends = [k for k, token in enumerate(answer) if token in settings["eos_token_id"]]
            texts.append(tokenizer.decode(answer[: ends[0]] if ends else answer))
        seconds["generate"] += time.perf_counter() - start

        start = time.perf_counter()
        scores = [scorer.score([Image.open(row["image"])], [[strip_boxes(text)]])[0][0] for text in texts]
        seconds["score"] += time.perf_counter() - start
        results.append((texts, texts[rank_scores(scores).index(1)]))
    return results, seconds


def ours(model, tokenizer, dataset, rows, collate, scorer, settings, folder: Path, batch_size: int):
    start = time.perf_counter()
    generated = generate_rows(
        model,
        tokenizer,
        dataset,
        collate,
        [row["id"] for row in rows],
        folder / "generated.jsonl",
        gen_kwargs={"max_new_tokens": settings["max_new_tokens"]},
        num_candidates=settings["num_return_sequences"],
        batch_size=batch_size,
    )
    middle = time.perf_counter()
    selected = select_rows(
        [{**row, "candidates": answer["candidates"]} for row, answer in zip(rows, generated, strict=True)],
        scorer,
        lambda row: Image.open(row["image"]),
        out_path=folder / "predictions.jsonl",
    )
    seconds = {"generate": middle - start, "score": time.perf_counter() - middle}
    return [([c["text"] for c in row["candidates"]], row["response"]) for row in selected], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--candidates", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()

    logging.set_verbosity_error()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    encoded = []
    model.model.visual.register_forward_hook(
        lambda module, args, kwargs, output: encoded.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    settings = generation_settings(
        model, tokenizer, {"max_new_tokens": arguments.max_new_tokens}, arguments.candidates
    )
    collate, runs, images = build_collate(), {"naive": [], "ours": []}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scorer = build_scorer(folder / "clip")
        dataset, rows = build_rows(tokenizer, folder, arguments.rows)
        common = (model, tokenizer, dataset, rows, collate, scorer, settings)
        decode_batch(model, tokenizer, model_inputs(model, collate([dict(dataset[0])]), "cpu"), settings)  # warm up
        for repeat in range(arguments.repeats):
            encoded.clear()
            naive_results, seconds = naive(*common)
            runs["naive"].append(seconds)
            images["naive"] = sum(encoded)
            encoded.clear()
            (folder / str(repeat)).mkdir()
            our_results, seconds = ours(*common, folder / str(repeat), arguments.batch_size)
            runs["ours"].append(seconds)
            images["ours"] = sum(encoded)

    report = {
        "machine": f"{platform.machine()}, {arguments.threads} CPU threads, torch {torch.__version__}",
        "rows": arguments.rows,
        "candidates": arguments.candidates,
        "batch_size": arguments.batch_size,
        "max_new_tokens": arguments.max_new_tokens,
        "repeats": arguments.repeats,
        "same_candidates": [texts for texts, _ in naive_results] == [texts for texts, _ in our_results],
        "same_responses": [response for _, response in naive_results] == [response for _, response in our_results],
    }
    for way, times in runs.items():
        median = {part: statistics.median(seconds[part] for seconds in times) for part in ("generate", "score")}
        median["total"] = statistics.median(sum(seconds.values()) for seconds in times)
        report[way] = {**median, "images_through_the_vision_tower": images[way]}
    report["speedup"] = {part: report["naive"][part] / report["ours"][part] for part in ("generate", "score", "total")}

    table = Table(title=f"SASG, {arguments.rows} rows, n = {arguments.candidates} ({report['machine']})")
    for column in ("", "generate s", "score s", "total s", "images encoded"):
        table.add_column(column, justify="right" if column else "left")
    for way in ("naive", "ours"):
        values = report[way]
        parts = [f"{values[part]:.2f}" for part in ("generate", "score", "total")]
        table.add_row(way, *parts, str(values["images_through_the_vision_tower"]))
    table.add_row("times faster", *(f"{report['speedup'][part]:.1f}" for part in ("generate", "score", "total")), "")
    console = Console()
    console.print(table)
    console.print(
        f"same candidates: {report['same_candidates']}, same responses: {report['same_responses']}; medians of "
        f"{arguments.repeats} runs, random weights"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if not (report["same_candidates"] and report["same_responses"]):
        sys.exit("The two ways gave different results, so their times cannot be compared.")


if __name__ == "__main__":
    main()
