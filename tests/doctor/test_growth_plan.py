# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The table of a 7B student under a 72B teacher: one row worked out by hand, and the page that shows it."""

import growth_plan
import pytest


V, GPUS, MICRO = 152064, 16, 4


def decoder(h, i, layers, kv):
    layer = (h * h + h) + 2 * (h * kv + kv) + h * h + 3 * h * i + 2 * h
    return layer, layers * layer + h + 2 * V * h


def vision(h):
    block = 4 * 1280 + (3 * 1280 * 1280 + 3 * 1280) + (1280 * 1280 + 1280) + (2 * 1280 * 5120 + 5120 + 1280)
    merger = 2 * 1280 + (5120 * 5120 + 5120) + (5120 * h + h)
    return 3 * 2 * 14 * 14 * 1280 + 32 * block, merger


@pytest.fixture(scope="module")
def rows():
    return growth_plan.plan_rows()


def test_distillation_on_16_gpus_under_zero3(rows):
    (row,) = [r for r in rows if (r["engine"], r["gpus"], r["phase"]) == ("ZeRO-3", GPUS, "distill")]
    layer, seven = decoder(3584, 18944, 28, 512)
    large_layer, large = decoder(8192, 29568, 80, 1024)
    (tower, merger), (_, large_merger) = vision(3584), vision(8192)
    trained, student = seven, seven + merger + tower  # stock freezes the projector, too
    teacher, head = large + large_merger + tower, V * 8192

    gathered = (2 * student + teacher + head) * 2 + 2 * trained
    assert row["step_bytes"] == pytest.approx(15 / 16 * MICRO * gathered)
    blocks = 2 * (28 + 32 + 3) + (80 + 32 + 3) + 1 + (28 + 3)
    assert row["step_messages"] == MICRO * blocks * 15

    tokens, answer, image = 334 + 64 + 64, 64, 334  # 262144 pixels, 64 for the question, 64 for the answer
    patches = 4 * image

    def forward(h, layers, layer, head_tokens):
        return 2 * tokens * layers * layer + 2 * tokens**2 * h * layers + 2 * head_tokens * V * h

    student_step = 4 * forward(3584, 28, layer, answer) + 2 * patches * (tower + merger / 4)
    trunk = forward(8192, 80, large_layer, 0) + 2 * patches * (tower + large_merger / 4)
    labelled = 938  # steps of two epochs: 2 * ceil(30000 / 64)
    flops = labelled * MICRO * (student_step + trunk / 2 + 2 * answer * V * 8192)
    assert row["steps"] == labelled and row["flops"] == pytest.approx(flops)
    assert row["hours"] == pytest.approx(flops / (0.4 * 312e12) / 3600)

    states = (2 * student + 2 * trained + 12 * trained + 2 * teacher) / GPUS
    # activations, a gathered layer and head, the head's gradient in fp32 with its copy, CUDA
    assert 6 * 2**30 < row["peak_bytes"] - states < 12 * 2**30 and row["fits"]
    cache = 30000 * (64 * 8192 * 2 + 160) + 2 * head
    assert row["disk_bytes"] == pytest.approx(cache + 2 * (student - trained) + 14 * trained)


def test_what_does_not_fit_is_marked(rows):
    assert not any(row["fits"] for row in rows if row["engine"] == "ZeRO-2" and row["phase"] == "distill")
    assert "**does not fit**" in growth_plan.tables(rows)


def test_page_has_the_tables_of_the_script(rows):
    assert growth_plan.tables(rows) in growth_plan.DOC.read_text(encoding="utf-8")
