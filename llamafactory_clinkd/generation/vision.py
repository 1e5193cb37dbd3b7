# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The vision tower once per image, not once per candidate."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..utils.patching import patch_instance
from .eval_mode import base_model


# One tuple of per-image features from `get_image_features`, no per-layer extras (Qwen3-VL's deepstack has them).
SHARED_VISION_MODELS = ("qwen2_vl", "qwen2_5_vl")


@contextmanager
def shared_vision_tower(model: nn.Module, repeats: int) -> Iterator[bool]:
    """Runs the vision tower once per image inside ``generate``, however many candidates are asked for.

    ``generate`` copies each sample's pixels ``repeats`` times (beams or sampled sequences) and Qwen2-VL would encode
    every copy. Here the pixels stay single, and the features of each image are handed out ``repeats`` times instead.

    Args:
        model: Any model; only those in ``SHARED_VISION_MODELS`` are changed, others run as they are.
        repeats: The expansion that ``generate`` will make: ``max(num_beams, num_return_sequences)``.

    Yields:
        Whether the sharing is active.
    """
    hf_model = base_model(model)
    if repeats < 2 or getattr(hf_model.config, "model_type", None) not in SHARED_VISION_MODELS:
        yield False
        return

    expand, encode = hf_model._expand_inputs_for_generation, hf_model.model.get_image_features
    copies: list[int] = []  # the image that each expanded image is a copy of

    def expand_all_but_pixels(expand_size: int = 1, is_encoder_decoder: bool = False, input_ids=None, **kwargs):
        pixels = kwargs.pop("pixel_values", None)
        if pixels is not None:
            counts, _ = hf_model._get_image_nums_and_video_nums(input_ids, kwargs.get("inputs_embeds"))
            images = torch.arange(int(counts.sum())).split(counts.tolist())
            copies[:] = torch.cat([image.repeat(expand_size) for image in images]).tolist()
        input_ids, kwargs = expand(expand_size, is_encoder_decoder, input_ids, **kwargs)
        if pixels is not None:
            kwargs["pixel_values"] = pixels
        return input_ids, kwargs

    def encode_once(pixel_values: Tensor, image_grid_thw: Tensor, **kwargs):
        first = [copies.index(image) for image in range(max(copies) + 1)]
        output = encode(pixel_values, image_grid_thw[first], **kwargs)
        output.pooler_output = tuple(output.pooler_output[image] for image in copies)
        return output

    with patch_instance(hf_model, "_expand_inputs_for_generation", expand_all_but_pixels):
        with patch_instance(hf_model.model, "get_image_features", encode_once):
            yield True
