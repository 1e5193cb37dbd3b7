# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafactory_clinkd.kd.loss import distill_loss, logits_distill_loss


PAPER = {"alpha": 0.5, "temperature": 0.5}


def reference(case, *, alpha, temperature, temperature_squared=True, noise=None, num_items=None):
    """Eq. 12-16, one row after the other, in fp64; returns loss, L_CE, L_KD and leaves gradients in the inputs.

    ``noise[i]`` holds epsilon_t and epsilon_s of the i-th supervised row.
    """
    ce, kd, rows = 0.0, 0.0, 0
    for h_s, h_t, y in zip(case["hs"], case["ht"], case["labels"].tolist(), strict=True):
        if y == -100:
            continue
        z_s, z_t = case["ws"] @ h_s, case["wt"] @ h_t
        if case["bs"] is not None:
            z_s, z_t = z_s + case["bs"], z_t + case["bt"]
        ce = ce - torch.log(torch.exp(z_s[y]) / torch.exp(z_s).sum())  # Eq. 12
        shared = min(len(z_s), len(z_t))
        z_s, z_t = z_s[:shared], z_t[:shared]
        if noise is not None:
            z_t, z_s = z_t + noise[rows][0], z_s + noise[rows][1]
        p_s = torch.exp(z_s / temperature) / torch.exp(z_s / temperature).sum()  # Eq. 15
        p_t = torch.exp(z_t / temperature) / torch.exp(z_t / temperature).sum()
        kd = kd + (p_t * torch.log(p_t / p_s)).sum()  # Eq. 14
        rows += 1
    kd = kd * (temperature**2 if temperature_squared else 1.0)  # Eq. 13
    ce, kd = ce / (num_items or rows), kd / (num_items or rows)
    loss = (ce + alpha * kd) / (1 + alpha)  # Eq. 16
    loss.backward()
    return loss.detach(), ce.detach(), kd.detach()


def make_case(rows=7, h_s=5, h_t=6, v_s=11, v_t=11, masked=2, bias=False, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, v_s, (rows,), generator=g)
    labels[torch.randperm(rows, generator=g)[:masked]] = -100

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    case = {"hs": draw(rows, h_s), "ws": draw(v_s, h_s), "ht": draw(rows, h_t), "wt": draw(v_t, h_t), "labels": labels}
    case["bs"], case["bt"] = (draw(v_s), draw(v_t)) if bias else (None, None)
    for key in ("hs", "ws", "bs"):
        if case[key] is not None:
            case[key].requires_grad_()
    return case


def fp64(case):
    return {
        key: x if x is None or key == "labels" else x.detach().double().requires_grad_(x.requires_grad)
        for key, x in case.items()
    }


def ours(case, **options):
    bias = {"student_bias": case["bs"], "teacher_bias": case["bt"]}
    return distill_loss(case["hs"], case["ws"], case["ht"], case["wt"], case["labels"], **bias, **options)


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def assert_matches(case, tolerance, options, noise=None):
    """Loss, its parts and every gradient equal the reference's, computed in fp64 from the same numbers."""
    exact = fp64(case)
    wanted = dict(zip(("loss", "ce", "kl"), reference(exact, noise=noise, **_known(options)), strict=True))
    result = ours(case, **options)
    result.loss.backward()
    for name, value in wanted.items():
        assert getattr(result, name).item() == pytest.approx(value.item(), rel=tolerance, abs=tolerance), name
    for key in ("hs", "ws", "bs"):
        if case[key] is not None:
            scale = max(exact[key].grad.norm().item(), 1e-3)
            assert (case[key].grad.double() - exact[key].grad).norm().item() <= tolerance * scale, key
            assert case[key].grad.dtype == case[key].dtype


def _known(options):
    return {
        key: x for key, x in options.items() if key in ("alpha", "temperature", "temperature_squared", "num_items")
    }


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(
    ("v_s", "v_t"), [(11, 11), (11, 13), (13, 11)], ids=["same", "teacher-wider", "student-wider"]
)
@pytest.mark.parametrize("squared", [True, False], ids=["T2", "no-T2"])
@pytest.mark.parametrize(("alpha", "temperature"), [(0.5, 0.5), (0.0, 1.0), (2.0, 3.0)])
def test_equals_equations_12_to_16_in_fp64(alpha, temperature, squared, v_s, v_t, bias):
    options = {"alpha": alpha, "temperature": temperature, "temperature_squared": squared, "chunk_size": 2}
    assert_matches(make_case(v_s=v_s, v_t=v_t, bias=bias), 1e-9, options)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    h_s=st.integers(1, 6),
    h_t=st.integers(1, 6),
    v_s=st.integers(2, 12),
    v_t=st.integers(2, 12),
    chunk=st.integers(1, 10),
    masked=st.integers(0, 8),
    num_items=st.one_of(st.none(), st.integers(1, 50)),
    seed=st.integers(0, 2**16),
)
def test_equals_the_equations_for_any_shape(rows, h_s, h_t, v_s, v_t, chunk, masked, num_items, seed):
    case = make_case(rows, h_s, h_t, v_s, v_t, min(masked, rows - 1), seed=seed)
    assert_matches(case, 1e-6, {**PAPER, "chunk_size": chunk, "num_items": num_items})


def test_fp32_is_within_1e_5_of_fp64():
    assert_matches(make_case(rows=40, h_s=32, h_t=48, v_s=2000, v_t=2000, dtype=torch.float32), 1e-5, PAPER)


def test_gradcheck_of_every_differentiable_input():
    case = make_case(rows=4, v_s=7, v_t=9, masked=1, bias=True)

    def loss(hs, ws, bs):
        return ours({**case, "hs": hs, "ws": ws, "bs": bs}, **PAPER, chunk_size=2).loss

    assert torch.autograd.gradcheck(loss, (case["hs"], case["ws"], case["bs"]))


def test_second_derivatives_are_refused_instead_of_wrong():
    case = make_case()
    (gradient,) = torch.autograd.grad(ours(case, **PAPER).loss, case["hs"], create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


@pytest.mark.parametrize("teacher", [True, False])
def test_all_masked_is_zero_with_a_finite_zero_gradient(teacher):
    case = make_case(rows=3, masked=3)
    if teacher:
        result = ours(case, **PAPER)
    else:
        result = distill_loss(case["hs"], case["ws"], None, None, case["labels"], alpha=0, temperature=1)
    result.loss.backward()
    assert [x.item() for x in result] == [0.0] * 8
    assert torch.equal(case["hs"].grad, torch.zeros_like(case["hs"]))
    assert torch.equal(case["ws"].grad, torch.zeros_like(case["ws"]))


def test_all_masked_with_no_items_in_the_whole_window():
    assert ours(make_case(rows=3, masked=3), **PAPER, num_items=torch.tensor(0)).loss.item() == 0.0


def test_ignored_rows_never_reach_a_head():
    clean, poisoned = make_case(masked=3), make_case(masked=3)
    ignored = poisoned["labels"] == -100
    with torch.no_grad():
        poisoned["hs"][ignored] = float("nan")
        poisoned["ht"][ignored] = float("nan")
    for case in (clean, poisoned):
        ours(case, **PAPER).loss.backward()
    assert torch.equal(clean["hs"].grad, poisoned["hs"].grad)
    assert torch.equal(clean["ws"].grad, poisoned["ws"].grad)
    assert not poisoned["hs"].grad[ignored].any()


@pytest.mark.parametrize("noise_std", [0.0, 0.3])
def test_chunk_size_changes_nothing(noise_std):
    results = []
    for chunk in (1, 3, None):
        case = make_case(rows=9, v_s=37, v_t=41)
        generator = torch.Generator().manual_seed(5)
        result = ours(case, **PAPER, noise_std=noise_std, generator=generator, chunk_size=chunk)
        result.loss.backward()
        results.append((torch.stack([x.detach().double() for x in result]), case["hs"].grad, case["ws"].grad))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_noise_enters_both_softmaxes_as_equation_14_says():
    case = make_case(v_s=11, v_t=13, masked=2)
    generator = torch.Generator().manual_seed(3)
    noise = [0.7 * torch.randn(2, 11, generator=generator, dtype=torch.float64) for _ in range(5)]
    options = {**PAPER, "noise_std": 0.7, "generator": torch.Generator().manual_seed(3), "chunk_size": 2}
    assert_matches(case, 1e-9, options, noise=noise)


def test_noise_follows_its_seed_and_leaves_cross_entropy_alone():
    def run(seed):
        return ours(make_case(), **PAPER, noise_std=0.5, generator=torch.Generator().manual_seed(seed))

    without = ours(make_case(), **PAPER)
    assert run(1).loss.item() == run(1).loss.item()
    assert run(1).kl.item() != run(2).kl.item()
    assert run(1).ce.item() == without.ce.item()
    assert run(1).agreement.item() == without.agreement.item()


def test_microbatches_with_the_window_denominator_add_up():
    whole = make_case(rows=8, masked=3)
    result = ours(whole, **PAPER)
    result.loss.backward()
    parts = make_case(rows=8, masked=3)
    window = torch.tensor(5)
    losses = []
    for rows in (slice(0, 3), slice(3, 8)):
        part = {**parts, "hs": parts["hs"][rows], "ht": parts["ht"][rows], "labels": parts["labels"][rows]}
        losses.append(ours(part, **PAPER, num_items=window).loss)
        losses[-1].backward()
    assert sum(x.item() for x in losses) == pytest.approx(result.loss.item(), rel=1e-12)
    torch.testing.assert_close(parts["hs"].grad, whole["hs"].grad)
    torch.testing.assert_close(parts["ws"].grad, whole["ws"].grad)


@pytest.mark.parametrize(("v_s", "v_t"), [(11, 11), (11, 13), (13, 11)])
def test_figures_beside_the_loss(v_s, v_t):
    case = make_case(rows=40, v_s=v_s, v_t=v_t, masked=5)
    result = ours(case, alpha=0.5, temperature=2.0)
    keep, shared = case["labels"] != -100, min(v_s, v_t)
    z, t = (case["hs"] @ case["ws"].t())[keep], (case["ht"] @ case["wt"].t())[keep]
    p = torch.softmax(t[:, :shared] / 2, dim=-1)
    agree = (z[:, :shared].argmax(-1) == t[:, :shared].argmax(-1)).double().mean()
    assert result.items.item() == 35
    assert result.agreement.item() == pytest.approx(agree.item())
    assert result.teacher_entropy.item() == pytest.approx(-(p * p.log()).sum(-1).mean().item())
    dropped = torch.softmax(t / 2, dim=-1)[:, shared:].sum(-1).mean().item()
    assert result.teacher_dropped_mass.item() == pytest.approx(dropped)
    assert (dropped > 0) == (v_t > v_s)


def test_without_a_teacher_it_is_plain_cross_entropy():
    case, dense = make_case(bias=True), make_case(bias=True)
    result = distill_loss(
        case["hs"], case["ws"], None, None, case["labels"], alpha=0, temperature=1, student_bias=case["bs"]
    )
    result.loss.backward()
    wanted = F.cross_entropy(F.linear(dense["hs"], dense["ws"], dense["bs"]), dense["labels"], ignore_index=-100)
    wanted.backward()
    assert result.loss.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert result.kl.item() == 0.0
    for key in ("hs", "ws", "bs"):
        torch.testing.assert_close(case[key].grad, dense[key].grad)


def test_evaluation_without_gradients():
    case = make_case()
    with torch.no_grad():
        result = ours(case, **PAPER)
    assert not result.loss.requires_grad
    assert result.loss.item() == ours(case, **PAPER).loss.item()


def test_a_frozen_head_gets_no_gradient_and_changes_nothing_else():
    frozen, trained = make_case(), make_case()
    frozen["ws"].requires_grad_(False)
    for case in (frozen, trained):
        ours(case, **PAPER).loss.backward()
    assert frozen["ws"].grad is None
    assert torch.equal(frozen["hs"].grad, trained["hs"].grad)


def test_only_the_loss_carries_a_graph_and_the_teacher_gets_nothing():
    case = make_case()
    case["ht"].requires_grad_()
    case["wt"].requires_grad_()
    result = ours(case, **PAPER)
    assert result.loss.requires_grad
    assert not any(x.requires_grad for x in result[1:])
    result.loss.backward()
    assert case["ht"].grad is None and case["wt"].grad is None


def test_the_gradient_is_scaled_once_however_often_backward_runs():
    case = make_case()
    loss = ours(case, **PAPER).loss
    first = torch.autograd.grad(loss, (case["hs"], case["ws"]), retain_graph=True)
    scaled = torch.autograd.grad(3 * loss, (case["hs"], case["ws"]), retain_graph=True)
    again = torch.autograd.grad(loss, (case["hs"], case["ws"]))
    for a, b, c in zip(first, scaled, again, strict=True):
        torch.testing.assert_close(3 * a, b)
        assert torch.equal(a, c)


def test_a_tied_embedding_collects_both_gradients():
    case = make_case(h_s=6)
    tied, dense = (torch.randn(11, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) for _ in "ab")
    tokens = torch.arange(7)
    for weight in (tied.requires_grad_(), dense.requires_grad_()):
        hidden = torch.tanh(F.embedding(tokens, weight))
        if weight is tied:
            loss = distill_loss(hidden, weight, case["ht"], case["wt"], case["labels"], **PAPER).loss
        else:
            z, t = hidden @ weight.t(), case["ht"] @ case["wt"].t()
            keep = case["labels"] != -100
            kd = F.kl_div(F.log_softmax(z / 0.5, -1), F.softmax(t / 0.5, -1), reduction="none").sum(-1)[keep].mean()
            loss = (F.cross_entropy(z, case["labels"]) + 0.5 * 0.25 * kd) / 1.5
        loss.backward()
    torch.testing.assert_close(tied.grad, dense.grad)


def test_autocast_does_not_round_the_logits():
    case = make_case(rows=30, h_s=64, h_t=64, v_s=500, v_t=500, dtype=torch.float32)
    plain = ours(case, **PAPER)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ours(case, **PAPER)
    assert cast.loss.item() == plain.loss.item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_head_gradient_is_accumulated_in_fp32(dtype):
    case = make_case(rows=64, h_s=16, h_t=16, v_s=300, v_t=300, masked=0, dtype=dtype)
    exact = fp64(case)
    reference(exact, **PAPER)
    ours(case, **PAPER, chunk_size=1, num_items=64).loss.backward()
    assert case["ws"].grad.dtype == dtype
    assert relative(case["ws"].grad, exact["ws"].grad) < 3e-3
    assert relative(case["hs"].grad, exact["hs"].grad) < 3e-3


@pytest.mark.parametrize("chunk_size", [None, 5])
@pytest.mark.parametrize(("rows", "few"), [(32, True), (33, False)])
def test_few_rows_keep_the_gradient_of_their_logits(rows, few, chunk_size):
    """With 2 n <= H the graph holds no tensor of the head's size, and the head's gradient is rounded once."""
    case = make_case(rows=rows, h_s=64, h_t=16, v_s=300, v_t=300, masked=0, bias=True, dtype=torch.bfloat16)
    exact = fp64(case)
    reference(exact, **PAPER, num_items=7)
    loss = ours(case, **PAPER, chunk_size=chunk_size, num_items=7).loss
    assert (max(x.numel() for x in loss.grad_fn.saved_tensors if x is not None) < case["ws"].numel()) is few
    loss.backward(retain_graph=True)
    once = case["ws"].grad.clone()
    if few:
        assert (once != exact["ws"].grad.bfloat16()).float().mean() < 0.002
    assert relative(once, exact["ws"].grad) < 3e-3
    assert relative(case["bs"].grad, exact["bs"].grad) < 3e-3
    assert relative(case["hs"].grad, exact["hs"].grad) < 3e-3
    case["ws"].grad = None
    loss.backward()
    assert torch.equal(case["ws"].grad, once)


@pytest.mark.parametrize(("logit", "spread"), [(12, 0.2), (15, 0.2), (22, 0.05)], ids=["late", "later", "last"])
def test_bf16_gradient_late_in_training_is_within_0_3_percent(logit, spread):
    """Late in training the student is sure of its labels: a bf16 softmax then has a gradient error of about 50 %."""
    g = torch.Generator().manual_seed(0)
    rows, hidden, vocabulary = 24, 128, 50000
    heads = [torch.randn(vocabulary, hidden, generator=g) * 2 / hidden**0.5 for _ in "st"]
    labels = torch.randint(0, vocabulary, (rows,), generator=g)
    states = [logit * w[labels] / w[labels].pow(2).sum(-1, keepdim=True) for w in heads]
    states = [h + spread * torch.randn(h.shape, generator=g) for h in states]
    hs, ht, ws, wt = (x.bfloat16() for x in (*states, *heads))
    hs.requires_grad_()
    result = distill_loss(hs, ws, ht, wt, labels, **PAPER)
    result.loss.backward()

    exact = hs.detach().double().requires_grad_()
    z, t = exact @ ws.double().t(), ht.double() @ wt.double().t()
    kd = F.kl_div(F.log_softmax(2 * z, -1), F.log_softmax(2 * t, -1), reduction="none", log_target=True).sum(-1).mean()
    ((F.cross_entropy(z, labels) + 0.5 * 0.25 * kd) / 1.5).backward()
    assert result.agreement.item() == 1.0
    assert relative(hs.grad, exact.grad) < 3e-3


@pytest.mark.parametrize(("v_s", "v_t"), [(11, 11), (11, 13), (13, 11)])
@pytest.mark.parametrize("noise_std", [0.0, 0.4])
def test_logits_give_the_same_result(v_s, v_t, noise_std):
    case, dense = make_case(v_s=v_s, v_t=v_t), make_case(v_s=v_s, v_t=v_t)
    options = {**PAPER, "noise_std": noise_std, "num_items": 9, "chunk_size": 2}
    wanted = ours(case, **options, generator=torch.Generator().manual_seed(2))
    z, t = dense["hs"] @ dense["ws"].t(), dense["ht"] @ dense["wt"].t()
    result = logits_distill_loss(z, t, dense["labels"], **options, generator=torch.Generator().manual_seed(2))
    for a, b in zip(result, wanted, strict=True):
        torch.testing.assert_close(a, b)
    wanted.loss.backward()
    result.loss.backward()
    torch.testing.assert_close(case["hs"].grad, dense["hs"].grad)
    torch.testing.assert_close(case["ws"].grad, dense["ws"].grad)


def test_logits_without_teacher_and_all_masked():
    z = torch.randn(4, 7, requires_grad=True)
    labels = torch.tensor([1, -100, 3, 6])
    result = logits_distill_loss(z, None, labels, alpha=0, temperature=1)
    assert result.loss.item() == pytest.approx(F.cross_entropy(z, labels).item(), rel=1e-6)
    logits_distill_loss(z, None, torch.full((4,), -100), alpha=0, temperature=1).loss.backward()
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_ids_masked_with_minus_infinity_have_no_mass():
    """Some models forbid ids by a logit of -inf; 0 * log 0 is 0 there."""
    g = torch.Generator().manual_seed(0)
    z, t = (torch.randn(5, 9, generator=g, dtype=torch.float64) for _ in "zt")
    labels = torch.tensor([0, 1, 2, 3, 4])
    wanted = logits_distill_loss(z.requires_grad_()[:, :6], t[:, :6], labels, **PAPER)
    (expected,) = torch.autograd.grad(wanted.loss, z)
    masked = [x.detach().index_fill(1, torch.tensor([6, 7, 8]), -torch.inf) for x in (z, t)]
    result = logits_distill_loss(masked[0].requires_grad_(), masked[1], labels, **PAPER)
    (gradient,) = torch.autograd.grad(result.loss, masked[0])
    assert result.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-12)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": -1}, "alpha is -1"),
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"noise_std": -0.1}, "noise_std is -0.1"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"num_items": 0}, "num_items is 0 with 5 supervised rows"),
    ],
)
def test_options_out_of_range_say_so(change, message):
    with pytest.raises(ValueError, match=message):
        ours(make_case(), **{**PAPER, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([11, -100, 0, 0, 0, 0, 0])}, "labels span 0 to 11, but the student has 11 ids"),
        ({"labels": torch.tensor([-1, -100, 0, 0, 0, 0, 0])}, "labels span -1 to 0"),
        ({"labels": torch.zeros(6, dtype=torch.int64)}, r"student_hidden is \[7, 5\] and labels are \[6\]"),
        ({"ws": torch.zeros(0)}, r"student_head is \[0\].*gather the weight first"),
        ({"wt": torch.zeros(11, 4)}, r"teacher_head is \[11, 4\], but teacher_hidden is \[7, 6\]"),
        ({"bs": torch.zeros(3)}, r"student_bias is \[3\]; expected \[11\]"),
        ({"ht": None, "wt": None}, "alpha is 0.5 but there is no teacher"),
        ({"wt": None}, "belong together"),
    ],
)
def test_inputs_that_do_not_fit_say_so(change, message):
    with pytest.raises(ValueError, match=message):
        ours({**make_case(), **change}, **PAPER)
