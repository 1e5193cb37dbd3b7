# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from kd_runs import check_under_engine

from llamafactory_clinkd.kd.vkd import VkdProjector, standardise, vkd_loss


WIDTHS = [(6, 6), (6, 9), (9, 6)]


def inputs(student_dim, teacher_dim, rows=8):
    torch.manual_seed(0)
    student = torch.randn(rows, student_dim, requires_grad=True)
    labels = torch.tensor([3, -100, 1, 0, -100, 7, 2, 5])[:rows]
    return VkdProjector(student_dim, teacher_dim), student, 3 * torch.randn(rows, teacher_dim) + 1, labels


def definition(weight, student, teacher, labels, num_items):
    """Rotated student against standardised teacher, smooth L1, number by number."""
    total = 0.0
    for h_s, h_t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        if y == -100:
            continue
        mean = sum(h_t) / len(h_t)
        deviation = (sum((x - mean) ** 2 for x in h_t) / len(h_t) + 1e-5) ** 0.5
        row = 0.0
        for w, x in zip(weight.tolist(), h_t, strict=True):
            distance = abs(sum(a * b for a, b in zip(w, h_s, strict=True)) - (x - mean) / deviation)
            row += 0.5 * distance**2 if distance < 1 else distance - 0.5
        total += row / len(h_t)
    return total / num_items


def assert_orthogonal(weight):
    tall = weight if weight.shape[0] >= weight.shape[1] else weight.t()
    torch.testing.assert_close(tall.t() @ tall, torch.eye(tall.shape[1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("student_dim", "teacher_dim"), WIDTHS)
@pytest.mark.parametrize("num_items", [None, 11, torch.tensor(11)])
def test_equals_the_definition(student_dim, teacher_dim, num_items):
    projector, student, teacher, labels = inputs(student_dim, teacher_dim)
    result = vkd_loss(projector, student, teacher, labels, num_items=num_items)
    wanted = definition(projector.projection.weight, student, teacher, labels, 6 if num_items is None else 11)
    assert result.loss.item() == pytest.approx(wanted, rel=1e-5)
    assert result.items.item() == 6


@pytest.mark.parametrize(("student_dim", "teacher_dim"), WIDTHS)
def test_the_weight_trains_and_stays_orthogonal(student_dim, teacher_dim):
    projector, student, teacher, labels = inputs(student_dim, teacher_dim)
    assert_orthogonal(projector.projection.weight)
    before = projector.projection.weight.detach().clone()
    optimizer = torch.optim.AdamW(projector.parameters(), lr=0.05, weight_decay=0.1)
    first = vkd_loss(projector, student, teacher, labels).loss.item()
    for _ in range(20):
        optimizer.zero_grad()
        vkd_loss(projector, student, teacher, labels).loss.backward()
        optimizer.step()
    assert vkd_loss(projector, student, teacher, labels).loss.item() < first
    assert not torch.allclose(before, projector.projection.weight)
    assert_orthogonal(projector.projection.weight)


def test_a_wider_teacher_keeps_lengths_and_angles():
    projector, student, _, _ = inputs(6, 9)
    projected = projector(student)
    torch.testing.assert_close(projected @ projected.t(), student @ student.t(), atol=1e-5, rtol=1e-5)


def test_the_teacher_is_standardised_whatever_its_scale():
    teacher = torch.randn(5, 64)
    for row in standardise(1000 * teacher + 7):
        assert row.mean().item() == pytest.approx(0, abs=1e-5)
        assert row.var(unbiased=False).item() == pytest.approx(1, abs=1e-3)


def test_gradients_reach_supervised_student_rows_and_never_the_teacher():
    projector, student, teacher, labels = inputs(6, 9)
    teacher.requires_grad_()
    vkd_loss(projector, student, teacher, labels).loss.backward()
    assert teacher.grad is None
    assert not student.grad[labels == -100].any()
    assert (student.grad[labels != -100] != 0).any(dim=1).all()


def test_all_masked_is_zero_with_a_finite_gradient():
    projector, student, teacher, labels = inputs(6, 9)
    result = vkd_loss(projector, student, teacher, torch.full_like(labels, -100), num_items=0)
    result.loss.backward()
    assert result.loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_bf16_features_under_autocast_are_projected_in_fp32():
    projector, student, teacher, labels = inputs(6, 9)
    exact = vkd_loss(projector, student.bfloat16(), teacher, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = vkd_loss(projector, student.bfloat16(), teacher, labels)
    assert cast.loss.dtype == torch.float32
    assert cast.loss.item() == exact.loss.item()


def test_the_state_survives_saving():
    projector, student, _, _ = inputs(6, 9)
    other = VkdProjector(6, 9)
    other.load_state_dict(projector.state_dict())
    assert torch.equal(other(student), projector(student))


def test_bad_input_says_what_was_expected():
    projector, student, teacher, labels = inputs(6, 9)
    with pytest.raises(ValueError, match="both must be at least 1"):
        VkdProjector(0, 9)
    with pytest.raises(ValueError, match=r"expected \[N, 6\]"):
        projector(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="the projector gives a width of 9"):
        vkd_loss(projector, student, teacher[:, :4], labels)
    with pytest.raises(ValueError, match="keep it in float32"):
        projector.bfloat16()(student)


@pytest.mark.parametrize("engine", [{"deepspeed": "ds_z2_config.json", "fp16": True}, {"fsdp": ["full_shard"]}])
def test_a_recipe_whose_engine_spoils_the_features_stops_before_anything_is_loaded(engine):
    with pytest.raises(ValueError, match="kd_method: vkd.*bf16: true.*without `fsdp`"):
        check_under_engine(engine, kd_method="vkd")
