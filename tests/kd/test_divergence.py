# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafactory_clinkd.kd.loss import distill_loss, logits_distill_loss


KINDS = [
    ("forward_kl", None),
    ("reverse_kl", None),
    ("jsd", 0.0),
    ("jsd", 0.1),
    ("jsd", 0.5),
    ("jsd", 0.9),
    ("jsd", 1.0),
]
IDS = [f"{kind}-{beta}" for kind, beta in KINDS]


def divergence(p, q, kind, beta):
    """The definitions, on probabilities ``[n, V]``; GKD, Eq. 1, with TRL's ends."""

    def kl(a, b):
        return (a * (a.log() - b.log())).sum(-1)

    if kind == "forward_kl" or beta == 0:
        return kl(p, q)
    if kind == "reverse_kl" or beta == 1:
        return kl(q, p)
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def trl_jsd(student_logits, teacher_logits, beta, temperature):
    """The sum over tokens as TRL's GKDTrainer.generalized_jsd_loss defines it, in logarithms."""
    log_q = F.log_softmax(student_logits / temperature, -1)
    log_p = F.log_softmax(teacher_logits / temperature, -1)
    if beta == 0:
        return F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    if beta == 1:
        return F.kl_div(log_p, log_q, reduction="sum", log_target=True)
    b = torch.tensor(beta, dtype=log_q.dtype)
    log_m = torch.logsumexp(torch.stack([log_q + torch.log(1 - b), log_p + torch.log(b)]), dim=0)
    teacher = F.kl_div(log_m, log_p, reduction="sum", log_target=True)
    student = F.kl_div(log_m, log_q, reduction="sum", log_target=True)
    return beta * teacher + (1 - beta) * student


def draw(rows=7, h=5, v_s=11, v_t=11, masked=2, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, v_s, (rows,), generator=g)
    labels[torch.randperm(rows, generator=g)[:masked]] = -100
    hs, ws, ht, wt = (torch.randn(n, h, generator=g, dtype=torch.float64).to(dtype) for n in (rows, v_s, rows, v_t))
    on_policy = torch.rand(rows, generator=g) < 0.5
    return hs.requires_grad_(), ws.requires_grad_(), ht, wt, labels, on_policy


def reference(hs, ws, ht, wt, labels, on_policy, *, alpha, temperature, squared, kind, beta, num_items=None):
    """Loss, CE, KD off-policy and KD on-policy of the supervised rows in fp64, with gradients left in hs and ws."""
    keep = labels != -100
    z, t, y, sampled = (hs @ ws.t())[keep], (ht @ wt.t())[keep], labels[keep], on_policy[keep]
    shared = min(z.shape[1], t.shape[1])
    kd = divergence(
        torch.softmax(t[:, :shared] / temperature, -1), torch.softmax(z[:, :shared] / temperature, -1), kind, beta
    )
    kd = kd * (temperature**2 if squared else 1)
    ce = F.cross_entropy(z, y, reduction="none")
    n = num_items or len(y)
    ce, off, on = ce[~sampled].sum() / n, kd[~sampled].sum() / n, kd[sampled].sum() / n
    loss = (ce + alpha * off) / (1 + alpha) + on
    loss.backward()
    return loss.item(), ce.item(), off.item(), on.item()


def assert_equal(
    case, kind, beta, *, alpha=0.5, temperature=0.5, squared=True, num_items=None, tolerance=1e-9, **more
):
    exact = [x.detach().double().requires_grad_(x.requires_grad) for x in case[:4]] + list(case[4:])
    options = {"alpha": alpha, "temperature": temperature, "num_items": num_items}
    wanted = reference(*exact, **options, squared=squared, kind=kind, beta=beta)
    options |= {"divergence": kind, "beta": beta, "temperature_squared": squared, "on_policy": case[5]}
    result = distill_loss(*case[:5], **options, **more)
    result.loss.backward()
    found = [result.loss.item(), result.ce.item(), result.kl.item(), result.kl_on_policy.item()]
    assert found == pytest.approx(wanted, rel=tolerance, abs=tolerance)
    for ours, theirs in zip(case[:2], exact[:2], strict=True):
        assert (ours.grad.double() - theirs.grad).norm() <= tolerance * max(theirs.grad.norm().item(), 1e-3)


@pytest.mark.parametrize(("kind", "beta"), KINDS, ids=IDS)
@pytest.mark.parametrize(("v_s", "v_t"), [(11, 11), (11, 13), (13, 11)])
@pytest.mark.parametrize(("alpha", "temperature", "squared"), [(0.5, 0.5, True), (0.0, 1.0, True), (2.0, 3.0, False)])
def test_equals_the_definition_in_fp64(kind, beta, v_s, v_t, alpha, temperature, squared):
    case = draw(v_s=v_s, v_t=v_t)
    assert_equal(case, kind, beta, alpha=alpha, temperature=temperature, squared=squared, chunk_size=2)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    v_s=st.integers(2, 12),
    v_t=st.integers(2, 12),
    masked=st.integers(0, 8),
    chunk=st.integers(1, 10),
    beta=st.floats(0, 1),
    num_items=st.one_of(st.none(), st.integers(1, 50)),
    seed=st.integers(0, 2**16),
)
def test_jsd_equals_the_definition_for_any_shape(rows, v_s, v_t, masked, chunk, beta, num_items, seed):
    case = draw(rows, 4, v_s, v_t, min(masked, rows - 1), seed)
    assert_equal(case, "jsd", beta, num_items=num_items, tolerance=1e-6, chunk_size=chunk)


@pytest.mark.parametrize(("kind", "beta"), KINDS, ids=IDS)
def test_fp32_is_within_1e_5_of_fp64(kind, beta):
    case = draw(rows=40, h=32, v_s=2000, v_t=2000, dtype=torch.float32)
    assert_equal(case, kind, beta, temperature=1.0, tolerance=1e-5)


@pytest.mark.parametrize(("kind", "beta"), KINDS, ids=IDS)
def test_gradcheck(kind, beta):
    hs, ws, ht, wt, labels, on_policy = draw(rows=4, v_s=7, v_t=9, masked=1)

    def loss(hs, ws):
        options = {"alpha": 0.5, "temperature": 0.7, "divergence": kind, "beta": beta, "on_policy": on_policy}
        return distill_loss(hs, ws, ht, wt, labels, **options).loss

    assert torch.autograd.gradcheck(loss, (hs, ws))


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_on_policy_rows_equal_trl_s_generalised_jsd(beta):
    hs, ws, ht, wt, labels, _ = draw(rows=12, masked=0)
    every = torch.ones(12, dtype=torch.bool)
    options = {"alpha": 0.5, "temperature": 0.9, "temperature_squared": False, "num_items": 12}
    result = distill_loss(hs, ws, ht, wt, labels, **options, divergence="jsd", beta=beta, on_policy=every)
    ours = torch.autograd.grad(result.loss, (hs, ws))
    wanted = trl_jsd(hs @ ws.t(), ht @ wt.t(), beta, 0.9) / 12
    assert result.loss.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert result.ce.item() == result.kl.item() == 0.0
    for a, b in zip(ours, torch.autograd.grad(wanted, (hs, ws)), strict=True):
        torch.testing.assert_close(a, b)


def test_the_ends_of_the_jsd_are_the_two_kl_divergences():
    for beta, kind in ((0.0, "forward_kl"), (1.0, "reverse_kl")):
        values = [
            distill_loss(*draw()[:5], alpha=0.5, temperature=0.5, **options).loss.item()
            for options in ({"divergence": "jsd", "beta": beta}, {"divergence": kind})
        ]
        assert values[0] == values[1]


@pytest.mark.parametrize(("kind", "beta"), KINDS, ids=IDS)
def test_chunks_logits_and_noise_change_nothing(kind, beta):
    found = []
    for chunk in (1, 3, None, "logits"):
        hs, ws, ht, wt, labels, on_policy = draw(rows=9, v_s=37, v_t=41)
        options = {"alpha": 0.5, "temperature": 0.5, "noise_std": 0.3, "divergence": kind, "beta": beta}
        options |= {"on_policy": on_policy, "generator": torch.Generator().manual_seed(5)}
        if chunk == "logits":
            result = logits_distill_loss(hs @ ws.t(), ht @ wt.t(), labels, **options)
        else:
            result = distill_loss(hs, ws, ht, wt, labels, **options, chunk_size=chunk)
        found.append((torch.stack([x.double() for x in result]), *torch.autograd.grad(result.loss, (hs, ws))))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_no_on_policy_row_is_the_loss_without_the_mask():
    a, b = draw(), draw()
    plain = distill_loss(*a[:5], alpha=0.5, temperature=0.5)
    masked = distill_loss(*b[:5], alpha=0.5, temperature=0.5, on_policy=torch.zeros(7, dtype=torch.bool))
    assert [x.item() for x in plain] == [x.item() for x in masked]
    plain.loss.backward()
    masked.loss.backward()
    torch.testing.assert_close(a[0].grad, b[0].grad, rtol=1e-14, atol=1e-14)


def test_ids_that_a_model_forbids():
    """A logit of -inf has no mass; only the reverse KL of a student that uses such an id is infinite."""
    g = torch.Generator().manual_seed(0)
    z, t = (torch.randn(5, 9, generator=g, dtype=torch.float64) for _ in "zt")
    labels, forbidden = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([6, 7, 8])
    options = {"alpha": 0.5, "temperature": 0.5}
    for kind, beta in KINDS:
        wanted = logits_distill_loss(z[:, :6], t[:, :6], labels, **options, divergence=kind, beta=beta)
        masked = [x.index_fill(1, forbidden, -torch.inf) for x in (z, t)]
        result = logits_distill_loss(
            masked[0].requires_grad_(), masked[1], labels, **options, divergence=kind, beta=beta
        )
        assert result.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-12)
        assert torch.autograd.grad(result.loss, masked[0])[0].isfinite().all()
    for beta in (0.0, 0.3, 0.9):
        result = logits_distill_loss(z.requires_grad_(), masked[1], labels, **options, divergence="jsd", beta=beta)
        assert torch.autograd.grad(result.loss, z)[0].isfinite().all()
    with pytest.raises(ValueError, match="'reverse_kl' is not finite.*-inf"):
        logits_distill_loss(z, masked[1], labels, **options, divergence="reverse_kl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "kl"}, "must be one of forward_kl, reverse_kl, jsd"),
        ({"divergence": "jsd", "beta": 1.5}, "beta is 1.5; it must be between 0"),
        ({"divergence": "jsd", "beta": float("nan")}, "beta is nan"),
        ({"divergence": "reverse_kl", "beta": 0.5}, "has none. Remove it"),
        ({"on_policy": torch.ones(3, dtype=torch.bool)}, r"on_policy is \[3\] torch.bool; expected bool"),
        ({"on_policy": torch.ones(7)}, r"on_policy is \[7\] torch.float32; expected bool"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        distill_loss(*draw()[:5], alpha=0.5, temperature=0.5, **options)


def test_on_policy_rows_need_a_teacher():
    hs, ws, _, _, labels, on_policy = draw()
    with pytest.raises(ValueError, match="there is no teacher"):
        distill_loss(hs, ws, None, None, labels, alpha=0, temperature=1, on_policy=on_policy)
