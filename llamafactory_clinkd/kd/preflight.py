# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Checks before distillation that teacher and student read the same tokens and the same pixels.

With another token map or image processor the teacher's distributions mean something else, and the loss still falls.
Every difference is reported before the first model is loaded.
"""

from typing import Any


IMAGE_SETTINGS = (
    "patch_size", "temporal_patch_size", "merge_size", "min_pixels", "max_pixels", "size", "image_mean", "image_std",
    "do_rescale", "rescale_factor", "do_normalize", "do_resize", "do_convert_rgb", "resample",
)  # fmt: skip


def check_teacher(student: dict[str, Any], teacher: dict[str, Any]) -> None:
    """Compares the results of stock's ``load_tokenizer`` for both models; raises ValueError with every difference."""
    differences = compare_tokenizers(student["tokenizer"], teacher["tokenizer"])
    differences += compare_processors(student.get("processor"), teacher.get("processor"))
    if differences:
        raise ValueError(
            f"Teacher and student do not read the same input: {'; '.join(differences)}. Distillation compares them "
            "token by token: choose a `ref_model` of the same family and save both with the same processor settings."
        )


def compare_tokenizers(student: Any, teacher: Any) -> list[str]:
    """Differences between two token -> id maps, the first few by name."""
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    different = sorted(
        (token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)),
        key=lambda token: (ours.get(token, theirs.get(token)), token),
    )
    if not different:
        return []
    shown = ", ".join(f"{token!r} is {ours.get(token)} and {theirs.get(token)}" for token in different[:3])
    return [f"{len(different)} tokens have other ids in student and teacher: {shown}"]


def compare_processors(student: Any, teacher: Any) -> list[str]:
    """Differences between two image processors' settings."""
    ours, theirs = getattr(student, "image_processor", None), getattr(teacher, "image_processor", None)
    if (ours is None) != (theirs is None):
        return [f"student {'has' if ours else 'has no'} image processor, teacher {'has' if theirs else 'has no'} one"]
    if ours is None:
        return []
    settings = ((key, getattr(ours, key, None), getattr(theirs, key, None)) for key in IMAGE_SETTINGS)
    return [
        f"image processor's {key} is {a} for the student and {b} for the teacher"
        for key, a, b in settings
        if _plain(a) != _plain(b)
    ]


def _plain(value: Any) -> Any:
    return dict(value) if hasattr(value, "items") else list(value) if isinstance(value, tuple) else value
