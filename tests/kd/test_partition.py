# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The loss of a teacher's likeliest ids and one tail, against its definition in fp64."""

import pytest
import torch

from llamafactory_clinkd.kd.loss import distill_loss, logits_distill_loss
from llamafactory_clinkd.kd.partition import TopLogprobs


N, H, V = 6, 5, 13
KINDS = [("forward_kl", None), ("reverse_kl", None), ("jsd", 0.3)]


def case(k, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    hidden, head = (torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype) for shape in ((N, H), (V, H)))
    labels = torch.randint(0, V, (N,), generator=g)
    labels[2] = -100
    teacher = (2 * torch.randn(N, V, generator=g, dtype=torch.float64)).log_softmax(-1)
    logprobs, ids = teacher.topk(k)
    return hidden.requires_grad_(), head.requires_grad_(), labels, teacher, TopLogprobs(ids, logprobs)


def definition(logits, labels, teacher, k, divergence, beta, alpha):
    """Cross-entropy and divergence over the cells, one row and one cell after the other."""
    total = ce = 0.0
    rows = [row for row, label in enumerate(labels.tolist()) if label != -100]
    for row in rows:
        q = logits[row].exp() / logits[row].exp().sum()
        p = teacher[row].exp()
        likely = sorted(range(V), key=lambda j: -float(p[j]))[:k]
        cells = [[j] for j in likely] + ([[j for j in range(V) if j not in likely]] if k < V else [])
        for cell in cells:
            a, b = sum(p[j] for j in cell), sum(q[j] for j in cell)
            m = {"jsd": None if beta is None else beta * a + (1 - beta) * b}.get(divergence)
            total = total + {
                "forward_kl": lambda a, b, m: a * torch.log(a / b),
                "reverse_kl": lambda a, b, m: b * torch.log(b / a),
                "jsd": lambda a, b, m: beta * a * torch.log(a / m) + (1 - beta) * b * torch.log(b / m),
            }[divergence](a, b, m)
        ce = ce - torch.log(q[labels[row]])
    return (ce + alpha * total) / (1 + alpha) / len(rows), total / len(rows)


@pytest.mark.parametrize(("divergence", "beta"), KINDS)
@pytest.mark.parametrize("k", [1, 4, V - 1, V])
def test_loss_and_gradient_are_those_of_the_definition(k, divergence, beta):
    hidden, head, labels, teacher, top = case(k)
    options = {"alpha": 0.7, "temperature": 1.0, "divergence": divergence, "beta": beta, "chunk_size": 2}
    wanted, kl = definition(hidden @ head.T, labels, teacher, k, divergence, beta, 0.7)
    gradients = torch.autograd.grad(wanted, (hidden, head))
    found = distill_loss(hidden, head, None, None, labels, teacher_top=top, **options)
    assert float(found.loss) == pytest.approx(float(wanted.detach()), rel=1e-12)
    assert float(found.kl) == pytest.approx(float(kl.detach()), rel=1e-12)
    for ours, theirs in zip(torch.autograd.grad(found.loss, (hidden, head)), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda x, w: distill_loss(x, w, None, None, labels, teacher_top=top, **options).loss, (hidden, head)
    )


@pytest.mark.parametrize(("divergence", "beta"), KINDS)
def test_all_ids_give_the_loss_over_the_vocabulary_and_fewer_never_more(divergence, beta):
    hidden, head, labels, teacher, _ = case(V)
    options = {"alpha": 0.5, "temperature": 1.0, "divergence": divergence, "beta": beta}
    logits = (hidden @ head.T).detach()
    full = logits_distill_loss(logits, teacher, labels, **options)
    found = [
        logits_distill_loss(logits, None, labels, teacher_top=TopLogprobs(*reversed(teacher.topk(k))), **options)
        for k in range(1, V + 1)
    ]
    kls = [float(each.kl) for each in found]
    assert kls == sorted(kls) and kls[0] < kls[-1] and kls[-1] == pytest.approx(float(full.kl), rel=1e-12)
    assert float(found[-1].loss) == pytest.approx(float(full.loss), rel=1e-12)
    assert float(found[0].agreement) == float(full.agreement)
    assert float(found[-1].teacher_entropy) == pytest.approx(float(full.teacher_entropy), rel=1e-12)


def test_on_policy_rows_have_the_divergence_alone():
    hidden, head, labels, teacher, top = case(4)
    _, kl = definition(hidden @ head.T, labels, teacher, 4, "reverse_kl", None, 0.0)
    options = {"alpha": 0.5, "temperature": 1.0, "divergence": "reverse_kl", "teacher_top": top}
    found = distill_loss(hidden, head, None, None, labels, on_policy=True, **options)
    assert float(found.loss) == pytest.approx(float(kl.detach()), rel=1e-12) and float(found.ce) == 0
    wanted = torch.autograd.grad(kl, (hidden, head))
    for ours, theirs in zip(torch.autograd.grad(found.loss, (hidden, head)), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_fp32_with_a_tail_below_its_resolution_stays_finite():
    """The sum of rounded probabilities may exceed 1; a student sure of another id has a tail of -inf in fp32."""
    logits = torch.tensor([[200.0, 0.0, 0.0, -float("inf")], [0.0, 200.0, 1.0, 2.0]], requires_grad=True)
    top = TopLogprobs(torch.tensor([[0, 1], [0, 1]]), torch.tensor([[1e-7, -17.0], [-0.5, -1.0]]))
    for divergence, beta in KINDS:
        options = {"alpha": 1.0, "temperature": 1.0, "divergence": divergence, "beta": beta, "teacher_top": top}
        found = logits_distill_loss(logits, None, torch.tensor([0, 1]), **options)
        assert found.loss.isfinite() and torch.autograd.grad(found.loss, logits)[0].isfinite().all()
        assert float(found.kl) >= 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.5}, "temperature 1 and without noise"),
        ({"noise_std": 0.1}, "temperature 1 and without noise"),
        ({"ids": V}, rf"span 0 to {V}, but the student has {V} ids"),
        ({"ids": -1}, "span -1 to"),
        ({"rows": N - 1}, r"expected \[N, k\] twice"),
    ],
)
def test_what_does_not_fit_says_so(change, message):
    hidden, head, labels, _, top = case(V)
    if "ids" in change:
        top.ids[3, -1] = change.pop("ids")
    if "rows" in change:
        top = TopLogprobs(*(tensor[: change["rows"]] for tensor in top))
        del change["rows"]
    with pytest.raises(ValueError, match=message):
        distill_loss(hidden, head, None, None, labels, teacher_top=top, **{"alpha": 0.5, "temperature": 1.0} | change)
