# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The same picture reaches the vision tower as the same pixels in training, prediction, chat and API."""

import pytest

from .runs import VARIANTS, ask_api, chat, infer_keys, recorded_pixels, train


pytestmark = pytest.mark.slow
ONE_ROW = {"dataset": "tiny_big", "eval_dataset": "tiny_big", "per_device_train_batch_size": 1}


@pytest.mark.parametrize(("square", "grid"), [(True, [[1, 18, 18]]), (False, [[1, 14, 22]])])
def test_pixels_are_the_same_on_every_path(square, grid, sharp_workspace, tmp_path):
    from llamafactory.chat import ChatModel

    image, seen = sharp_workspace / "data" / "images" / "ct_big.png", {}
    with recorded_pixels() as seen["training"]:
        keys = {"rope_variant": "mcg", "image_square": square, **ONE_ROW}
        saved = train(sharp_workspace, tmp_path / "model", **keys)
    with recorded_pixels() as seen["prediction"]:
        keys |= {"model_name_or_path": str(saved), "clinkd_phases": "predict", "do_train": False, "dataset": None}
        train(sharp_workspace, tmp_path / "predicted", **keys)
    model = ChatModel(infer_keys(saved))
    with recorded_pixels() as seen["chat"]:
        chat(model, image)
    with recorded_pixels() as seen["api"]:
        ask_api(model, image)

    pixels, found_grid = seen["training"][0]
    assert found_grid == grid
    for path, passes in seen.items():
        assert passes, f"nothing was seen in {path}"
        assert all(other_grid == grid and other.equal(pixels) for other, other_grid in passes), path


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_s_recipe_squares_by_default(variant, trained, sharp_workspace):
    from llamafactory.chat import ChatModel

    model = ChatModel(infer_keys(trained(variant)))
    with recorded_pixels() as passes:
        chat(model, sharp_workspace / "data" / "images" / "ct_big.png")
    assert [grid for _, grid in passes] == [[[1, 18, 18]]]
