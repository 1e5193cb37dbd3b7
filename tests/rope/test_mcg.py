# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafactory_clinkd.rope import mcg

from .conftest import STOCK_FRAMES, require_stock_positions
from .layouts import (
    Row,
    batch_of,
    image,
    mcg_reference,
    released_reference,
    rope_2d_reference,
    rows,
    text,
    video,
)


examples = settings(max_examples=50, deadline=None)  # tests assert no time
alphas = st.integers(1, 4)
gaps = st.integers(1, 5)
VARIANTS = {
    "mrope": mcg.mrope,
    "mcg": mcg.mcg,
    "mcg_released": mcg.mcg_released,
    "rope_2d": mcg.rope_2d,
}


def assert_follows(drawn, found, references):
    """Compares positions and deltas of a batch with per-row 1-based references; padding must be 0."""
    ids, deltas = found
    assert ids.dtype == torch.int64 and deltas.dtype == torch.int64
    assert deltas.shape == (len(drawn), 1)
    for index, (row, (expected, following)) in enumerate(zip(drawn, references, strict=True)):
        own = slice(row.left_pad, row.left_pad + row.tokens)
        assert ids[:, index, own].t().tolist() == [[p - 1 for p in token] for token in expected]
        outside = torch.ones(ids.shape[2], dtype=torch.bool)
        outside[own] = False
        assert not ids[:, index, outside].any()
        assert row.tokens + int(deltas[index]) == following - 1


@examples
@given(rows(), alphas, alphas)
def test_mcg_equals_the_equations_token_by_token(drawn, alpha_h, alpha_w):
    found = mcg.mcg(**batch_of(drawn), alpha_h=alpha_h, alpha_w=alpha_w)
    assert_follows(drawn, found, [mcg_reference(row.segments, alpha_h, alpha_w) for row in drawn])


@examples
@given(rows(), gaps)
def test_mcg_released_equals_its_reference(drawn, gap):
    found = mcg.mcg_released(**batch_of(drawn), gap=gap)
    assert_follows(drawn, found, [released_reference(row.segments, gap) for row in drawn])


@examples
@given(rows())
def test_rope_2d_equals_its_reference(drawn):
    assert_follows(drawn, mcg.rope_2d(**batch_of(drawn)), [rope_2d_reference(row.segments) for row in drawn])


@examples
@given(rows(), alphas, alphas)
def test_eq_3_both_gaps_are_equal_or_a_half_was_floored(drawn, alpha_h, alpha_w):
    ids, deltas = mcg.mcg(**batch_of(drawn), alpha_h=alpha_h, alpha_w=alpha_w)
    for index, row in enumerate(drawn):
        at = row.left_pad
        for segment in row.segments:
            if segment.kind:
                own = ids[:, index, at : at + segment.tokens]
                before, after = at - row.left_pad - 1, at - row.left_pad + segment.tokens
                for axis, alpha in enumerate((1, alpha_h, alpha_w)):
                    first_gap, last_gap = int(own[axis, 0]) - before, after - int(own[axis, -1])
                    halves = segment.tokens + 1 - alpha * (segment.size[axis] + 1)
                    assert last_gap - first_gap == halves % 2
            at += segment.tokens
    assert not deltas.any()


@pytest.mark.parametrize(("side", "before", "lam"), [(4, 5, 11), (2, 1, 2), (3, 0, 3), (16, 20, 140)])
def test_eq_4_of_a_square_image(side, before, lam):
    # lambda = l + (w h + 1 - (h + 1)) / 2, whole numbers where w = h; computed by hand for the four cases.
    drawn = [Row((*([text(before)] if before else []), image(side, side), text(2)))]
    ids, _ = mcg.mcg(**batch_of(drawn))
    paper = ids[:, 0] + 1
    for token, (row, column) in enumerate((r, c) for r in range(1, side + 1) for c in range(1, side + 1)):
        assert paper[1:, before + token].tolist() == [row + lam, column + lam]
    assert paper[:, before + side * side].tolist() == [before + side * side + 1] * 3


@examples
@given(rows(), st.sampled_from(sorted(VARIANTS)))
def test_text_increases_by_one_inside_a_segment(drawn, variant):
    ids, _ = VARIANTS[variant](**batch_of(drawn))
    for index, row in enumerate(drawn):
        at = row.left_pad
        for segment in row.segments:
            own = ids[:, index, at : at + segment.tokens]
            if segment.kind == 0:
                assert (own.diff(dim=1) == 1).all()
                assert (own == own[0]).all()
            at += segment.tokens


@examples
@given(rows(), st.sampled_from(sorted(VARIANTS)))
def test_a_row_does_not_depend_on_its_neighbours_or_padding(drawn, variant):
    ids, deltas = VARIANTS[variant](**batch_of(drawn))
    for index, row in enumerate(drawn):
        alone = batch_of([Row(row.segments)])
        del alone["attention_mask"]
        own_ids, own_delta = VARIANTS[variant](**alone)
        assert torch.equal(own_ids[:, 0], ids[:, index, row.left_pad : row.left_pad + row.tokens])
        assert torch.equal(own_delta, deltas[index : index + 1])


@examples
@given(rows(videos=False), st.sampled_from(sorted(VARIANTS)), st.integers(1, 3))
def test_decoding_with_the_delta_continues_a_full_pass(drawn, variant, more):
    _, deltas = VARIANTS[variant](**batch_of(drawn))
    longer = [Row((*row.segments, text(more)), row.left_pad) for row in drawn]
    batch = batch_of(longer)
    full, _ = VARIANTS[variant](**batch)
    decoded = batch["attention_mask"].cumsum(1) - 1 + deltas
    for index, row in enumerate(drawn):
        end = row.left_pad + row.tokens
        assert (full[:, index, end : end + more] == decoded[index, end : end + more]).all()


@examples
@given(rows(videos=False, adjacent=False))
def test_released_with_gap_one_is_stock_for_images(drawn):
    batch = batch_of(drawn)
    stock = _stock(batch)
    for own, expected in zip(mcg.mcg_released(**batch, gap=1), stock, strict=True):
        assert torch.equal(own, expected)


@examples
@given(rows(videos=STOCK_FRAMES, adjacent=False))
def test_mrope_is_stock(drawn):
    batch = batch_of(drawn)
    for own, expected in zip(mcg.mrope(**batch), _stock(batch), strict=True):
        assert torch.equal(own, expected)


def _stock(batch):
    """``Qwen2VLModel.get_rope_index`` itself, which reads nothing but the merge size from the model."""
    from types import SimpleNamespace

    from transformers import Qwen2VLModel

    require_stock_positions()
    config = SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=2))
    stub = SimpleNamespace(config=config)
    stub.get_vision_position_ids = Qwen2VLModel.get_vision_position_ids.__get__(stub)
    return Qwen2VLModel.get_rope_index(stub, torch.zeros_like(batch["mm_token_type_ids"]), **batch)


def test_adjacent_images_are_split_by_their_grids():
    apart = batch_of([Row((text(2), image(2, 3), image(4, 1), text(1)))])
    assert (apart["mm_token_type_ids"][0, 2:12] == 1).all()
    ids, _ = mcg.mcg(**apart)
    expected, _ = mcg_reference((text(2), image(2, 3), image(4, 1), text(1)))
    assert (ids[:, 0].t() + 1).tolist() == [list(token) for token in expected]


def test_a_wide_interval_reaches_below_the_text_and_stays_an_integer():
    # n = 10, alpha * (h + 1) = 44: lambda = 0 + floor((11 - 44) / 2) = -17, so the first row is at 4 - 17 = -13.
    ids, _ = mcg.mcg(**batch_of([Row((image(10, 1), text(1)))]), alpha_h=4)
    assert (ids[1, 0, :10] + 1).tolist() == [4 * r - 17 for r in range(1, 11)]
    assert ids.dtype == torch.int64


def test_video_intervals_space_the_frames():
    batch = batch_of([Row((text(1), video(3, 2, 2), text(1)))])
    ids, _ = mcg.mrope(**batch, video_intervals=torch.tensor([4]))
    assert ids[0, 0, 1:13:4].tolist() == [1, 5, 9]
    ids, _ = mcg.mcg(**batch, video_intervals=torch.tensor([2]))
    assert ids[0, 0, 1:13:4].diff().tolist() == [2, 2]


def test_text_only_and_empty_rows():
    batch = batch_of([Row((text(4),)), Row((), 2)])
    for function in VARIANTS.values():
        ids, deltas = function(**batch)
        assert ids[:, 0].tolist() == [[0, 1, 2, 3]] * 3
        assert not ids[:, 1].any() and deltas.tolist() == [[0], [0]]


@pytest.mark.parametrize("with_grid", [True, False])
def test_a_masked_dummy_image_is_dropped(with_grid):
    batch = batch_of([Row((text(3), image(2, 2)))])
    batch["attention_mask"][0, 3:] = 0
    if not with_grid:
        batch["image_grid_thw"] = None
    for function in VARIANTS.values():
        ids, deltas = function(**batch)
        assert ids[:, 0].tolist() == [[0, 1, 2, 0, 0, 0, 0]] * 3
        assert deltas.tolist() == [[0]]


def test_a_cut_image_is_an_error_that_says_so():
    batch = batch_of([Row((text(2), image(3, 3)))])
    cut = {
        key: value[:, :-2] if key != "image_grid_thw" else value for key, value in batch.items() if value is not None
    }
    for function in VARIANTS.values():
        with pytest.raises(ValueError, match=r"7 image tokens .*\[9\] tokens.*cut off in the middle.*cutoff_len"):
            function(**cut)


def test_tokens_that_only_add_up_are_an_error():
    batch = batch_of([Row((text(1), image(2, 2), text(1))), Row((image(2, 2), text(2)))])
    batch["mm_token_type_ids"][0, 4], batch["mm_token_type_ids"][1, 4] = 0, 1
    with pytest.raises(ValueError, match=r"grid \[1, 2, 2\].*own 4 consecutive tokens from token 1 of row 0"):
        mcg.mcg(**batch)


def test_a_mask_over_part_of_an_image_is_an_error():
    batch = batch_of([Row((text(1), image(2, 2), text(1)))])
    batch["attention_mask"][0, 4] = 0
    with pytest.raises(ValueError, match="all masked or none"):
        mcg.mcg(**batch)


def test_images_without_a_grid_are_an_error():
    batch = batch_of([Row((text(1), image(2, 2)))])
    batch["image_grid_thw"] = None
    with pytest.raises(ValueError, match="a grid is missing"):
        mcg.mcg(**batch)


def test_a_grid_without_a_token_is_an_error():
    batch = batch_of([Row((text(1), image(2, 2)))])
    batch["image_grid_thw"] = torch.tensor([[1, 1, 4]])
    with pytest.raises(ValueError, match="side below 2 patches"):
        mcg.mcg(**batch)


def test_a_4d_mask_is_refused():
    batch = batch_of([Row((text(1), image(2, 2)))])
    batch["attention_mask"] = torch.ones(1, 1, 5, 5)
    with pytest.raises(ValueError, match="4D mask of packed sequences"):
        mcg.mcg(**batch)


def test_packed_sequences_are_computed_one_by_one():
    # LLaMA-Factory's collator computes each sub-sequence separately and concatenates: packing is a restart at 0.
    parts = [(text(2), image(2, 3), text(1)), (image(1, 4), text(3))]
    packed = torch.cat([mcg.mcg(**batch_of([Row(part)]))[0] for part in parts], 2)
    expected = [token for part in parts for token in mcg_reference(part)[0]]
    assert (packed[:, 0].t() + 1).tolist() == [list(token) for token in expected]
