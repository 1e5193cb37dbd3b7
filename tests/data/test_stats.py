# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json

import pytest
from PIL import Image

from llamafactory_clinkd.data.stats import draw_modalities, statistics

from .samples import draw, sharegpt, write_source


BOX = "<|box_start|>(1,2),(3,4)<|box_end|>"


@pytest.fixture
def counted(tmp_path):
    draw(tmp_path, "ct_1.png", (40, 30))
    draw(tmp_path, "mr_1.png", (20, 20))
    rows = [
        sharegpt("ct_1.png", "<image>Where is the left hip?", f"Here: {BOX}{BOX}", task="VG"),
        sharegpt("ct_1.png", "<image>What now?", "Sacrum", task="MIA"),
        sharegpt("mr_1.png", "<image>What is it?", "A brain.", modality="mr"),
        sharegpt("../up.png", "<image>What is it?", "A brain.", modality="pet"),
    ]
    many = sharegpt("ct_1.png", task="MIXED")
    many["messages"] += [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": BOX}]
    path = write_source(tmp_path / "set.json", [*rows, many, [1], {"messages": "none"}])
    return statistics(path, image_folder=tmp_path)


def test_counts_by_hand(counted):
    assert (counted["rows"], counted["turns"], counted["unreadable_rows"]) == (5, 6, 2)
    assert counted["modalities"] == {"ct": 4, "mr": 1, "pet": 1}
    assert counted["tasks"] == {"MIA": 4, "VG": 2}
    assert counted["modality_tasks"] == {"ct": {"MIA": 2, "VG": 2}, "mr": {"MIA": 1}, "pet": {"MIA": 1}}
    assert counted["boxes_per_answer"] == {0: 4, 1: 1, 2: 1}
    assert counted["question_words"] == {1: 2, 2: 1, 3: 2, 5: 1}
    assert counted["question_words_quantiles"][50] == 2
    assert counted["question_words_quantiles"][100] == 5
    assert counted["image_sizes"] == {"40 x 30": 1, "20 x 20": 1}
    assert (counted["images"], counted["images_unread"]) == (3, 1)
    json.dumps(counted)


def test_quantiles_agree_with_a_sorted_list(tmp_path):
    values = [3, 3, 3, 7, 9, 9, 20]
    rows = [sharegpt("ct_1.png", answer="word " * value) for value in values]
    found = statistics(write_source(tmp_path / "set.json", rows))["answer_words_quantiles"]
    for percent, quantile in found.items():
        below = [value for value in sorted(values) if sum(v <= value for v in values) >= percent / 100 * len(values)]
        assert quantile == below[0]
    assert statistics(write_source(tmp_path / "none.json", [[1]]))["answer_words_quantiles"] == {}


def test_the_figure_is_a_picture_with_a_slice_for_each(tmp_path):
    draw_modalities({"ct": 60, "mr": 30, "pet": 10}, tmp_path / "sub" / "figure.png")
    with Image.open(tmp_path / "sub" / "figure.png") as figure:
        assert figure.format == "PNG"
        colours = {colour: count for count, colour in figure.convert("RGB").getcolors(1 << 20)}
    large = sorted((count for colour, count in colours.items() if len(set(colour)) > 1), reverse=True)[:3]
    shares = [count / sum(large) for count in large]
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.02)
    with pytest.raises(ValueError, match="No turn"):
        draw_modalities({}, tmp_path / "none.png")
