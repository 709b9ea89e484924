"""Laws of the match loss: a loop-form oracle, closed forms, order, padding, ignored pairs and low precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ecgecho.losses.pcme import csd_logits, pcme_loss
from ecgecho.types import Embedding

FIVE = torch.tensor(5.0)


def gaussians(rows: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> Embedding:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    logvar = torch.randn(rows, dim, generator=generator, dtype=torch.float64) - 4
    return Embedding(mean=(mean / mean.norm(dim=-1, keepdim=True)).to(dtype), logvar=logvar.to(dtype))


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def loop_loss(a: Embedding, b: Embedding, scale: float, shift: float, ignore: Tensor, vib: float, pseudo: float) -> float:
    rows, dim = a.mean.shape
    logit = [
        [
            shift
            - scale
            * sum(float((a.mean[i, k] - b.mean[j, k]) ** 2 + a.logvar[i, k].exp() + b.logvar[j, k].exp()) for k in range(dim))
            for j in range(rows)
        ]
        for i in range(rows)
    ]
    kept = [(i, j) for i in range(rows) for j in range(rows) if i == j or not ignore[i, j]]
    bce = {(i, j): softplus(logit[i][j]) - logit[i][j] * (i == j) for i, j in kept}
    match = sum(bce.values()) / len(kept)
    by_row = sum(softplus(logit[i][j]) - logit[i][j] * (logit[i][j] >= logit[i][i]) for i, j in kept) / len(kept)
    by_column = sum(softplus(logit[i][j]) - logit[i][j] * (logit[i][j] >= logit[j][j]) for i, j in kept) / len(kept)
    kl = sum(-0.5 * float((1 + x.logvar - x.mean**2 - x.logvar.exp()).sum()) / (rows * dim) for x in (a, b))
    return 2 * match + vib * kl + pseudo * (by_row + by_column)


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_equals_its_loop_form(seed):
    a, b = gaussians(7, 5, seed), gaussians(7, 5, seed + 100)
    ignore = torch.rand(7, 7, generator=torch.Generator().manual_seed(seed)) < 0.3
    ignore = ignore | ignore.T | torch.eye(7, dtype=torch.bool)
    result = pcme_loss(a, b, torch.tensor(3.0), torch.tensor(2.0), ignore=ignore, vib_weight=0.01, pseudo_weight=0.5)
    assert float(result["loss"]) == pytest.approx(loop_loss(a, b, 3.0, 2.0, ignore, 0.01, 0.5), rel=1e-6)
    plain = pcme_loss(a, b, torch.tensor(3.0), torch.tensor(2.0), vib_weight=0.01, pseudo_weight=0.5)
    assert float(plain["loss"]) == pytest.approx(loop_loss(a, b, 3.0, 2.0, torch.zeros(7, 7), 0.01, 0.5), rel=1e-6)


def test_one_entry_with_itself_has_the_closed_form_value():
    one = Embedding(mean=torch.tensor([[1.0, 0.0]]), logvar=torch.full((1, 2), -4.0))
    parts = pcme_loss(one, one, FIVE, FIVE, ignore=torch.tensor([[True]]), vib_weight=1.0, pseudo_weight=1.0)
    bce = math.log1p(math.exp(-(5 - 5 * 4 * math.exp(-4))))
    kl = -0.5 * ((1 - 4 - 1 - math.exp(-4)) + (1 - 4 - math.exp(-4))) / 2
    assert float(parts["loss"]) == pytest.approx(2 * bce + 2 * kl + 2 * bce, rel=1e-5)
    assert int(parts["num_pseudo"]) == 0


def test_a_batch_of_one_subject_only_counts_its_diagonal():
    a, b = gaussians(6, 8, 1, torch.float32), gaussians(6, 8, 2, torch.float32)
    a.mean.requires_grad_(True)
    parts = pcme_loss(a, b, FIVE, FIVE, ignore=torch.ones(6, 6, dtype=torch.bool), vib_weight=0.0)
    parts["loss"].backward()
    logits = csd_logits(a, b, FIVE, FIVE).diagonal()
    torch.testing.assert_close(parts["match"], torch.nn.functional.softplus(-logits).mean())
    torch.testing.assert_close(parts["pseudo_ab"], parts["match"])
    assert torch.isfinite(parts["loss"])
    assert torch.isfinite(a.mean.grad).all()


def test_an_empty_block_costs_nothing():
    none = Embedding(mean=torch.zeros(0, 4), logvar=torch.zeros(0, 4))
    assert float(pcme_loss(none, none, FIVE, FIVE)["loss"]) == 0.0


def test_repeats_that_are_ignored_are_no_pseudo_positives():
    a, b = gaussians(3, 8, 1, torch.float32), gaussians(3, 8, 2, torch.float32)
    twice = torch.tensor([0, 1, 2, 0, 1, 2])
    a, b = a.rows(twice), b.rows(twice)
    repeats = twice[:, None] == twice[None]
    counted = pcme_loss(a, b, FIVE, FIVE)
    ignored = pcme_loss(a, b, FIVE, FIVE, ignore=repeats)
    single = pcme_loss(a.rows(torch.arange(3)), b.rows(torch.arange(3)), FIVE, FIVE)
    assert int(counted["num_pseudo"]) >= int(ignored["num_pseudo"]) + 6
    assert int(ignored["num_pseudo"]) == 4 * int(single["num_pseudo"])


@pytest.mark.parametrize("parity", [True, False])
def test_the_order_of_the_batch_does_not_matter(parity):
    a, b = gaussians(9, 6, 3), gaussians(9, 6, 4)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    first = pcme_loss(a, b, FIVE, FIVE, parity=parity)
    second = pcme_loss(a.rows(order), b.rows(order), FIVE, FIVE, parity=parity)
    for key in first:
        torch.testing.assert_close(first[key], second[key])


def test_entries_that_are_ignored_everywhere_are_padding():
    a, b = gaussians(5, 6, 3), gaussians(5, 6, 4)
    ignore = torch.zeros(5, 5, dtype=torch.bool)
    ignore[3:], ignore[:, 3:] = True, True
    changed = Embedding(mean=torch.cat([b.mean[:4], b.mean[4:] * 3]), logvar=b.logvar)
    first = pcme_loss(a, b, FIVE, FIVE, ignore=ignore, vib_weight=0.0)
    changed_loss = pcme_loss(a, changed, FIVE, FIVE, ignore=ignore, vib_weight=0.0)
    grid = csd_logits(a, b, FIVE, FIVE) - csd_logits(a, changed, FIVE, FIVE)
    assert bool((grid[:4, 4] != 0).all())
    own = [torch.nn.functional.softplus(-csd_logits(a, x, FIVE, FIVE)[4, 4]) for x in (b, changed)]
    kept = 3 * 3 + 2
    torch.testing.assert_close(first["match"] - own[0] / kept, changed_loss["match"] - own[1] / kept)


def test_both_sides_swapped_swap_the_parts():
    a, b = gaussians(5, 6, 3), gaussians(5, 6, 4)
    first, second = pcme_loss(a, b, FIVE, FIVE), pcme_loss(b, a, FIVE, FIVE)
    torch.testing.assert_close(first["loss"], second["loss"])
    torch.testing.assert_close(first["pseudo_ab"], second["pseudo_ba"])
    torch.testing.assert_close(first["kl_a"], second["kl_b"])


@pytest.mark.parametrize("rows", [4, 33, 128])
@pytest.mark.parametrize("dim", [8, 257, 512])
def test_equal_rows_have_equal_logits_in_the_exact_form(rows, dim):
    a, b = gaussians(rows, dim, 5, torch.float32), gaussians(rows, dim, 6, torch.float32)
    b = b.rows(torch.cat([torch.arange(rows - 1), torch.tensor([0])]))
    logits = csd_logits(a, b, FIVE, FIVE, exact=True)
    assert torch.equal(logits[:, 0], logits[:, -1])
    parts = pcme_loss(b, b, FIVE, FIVE, parity=True)
    assert int(parts["num_pseudo"]) >= 4


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("distance", ["csd", "wdist"])
def test_the_gradients_of_the_logits_are_right(distance, exact):
    a, b = gaussians(19, 3, 7), gaussians(4, 3, 8)
    leaves = [x.clone().requires_grad_(True) for x in (a.mean, a.logvar, b.mean, b.logvar)]
    scale, shift = torch.tensor([2.0], dtype=torch.float64, requires_grad=True), torch.zeros(1, dtype=torch.float64)

    def logits(mean_a, logvar_a, mean_b, logvar_b, scale):
        sides = Embedding(mean=mean_a, logvar=logvar_a), Embedding(mean=mean_b, logvar=logvar_b)
        return csd_logits(*sides, scale, shift, distance=distance, exact=exact)

    assert torch.autograd.gradcheck(logits, (*leaves, scale))


@pytest.mark.parametrize("parity", [True, False])
@pytest.mark.parametrize("logvar", [-20.0, 0.0, 4.0])
def test_the_loss_is_finite_and_in_fp32_for_bf16_inputs(parity, logvar):
    rows = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    a = Embedding(mean=rows.clone().requires_grad_(True), logvar=torch.full_like(rows, logvar, requires_grad=True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = pcme_loss(a, a, FIVE, FIVE, parity=parity)
    parts["loss"].backward()
    assert parts["loss"].dtype == torch.float32
    assert torch.isfinite(parts["loss"])
    assert torch.isfinite(a.mean.grad).all()
    assert torch.isfinite(a.logvar.grad).all()


def test_autocast_leaves_the_logits_bitwise():
    a, b = gaussians(16, 32, 1, torch.float32), gaussians(16, 32, 2, torch.float32)
    plain = csd_logits(a, b, FIVE, FIVE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(csd_logits(a, b, FIVE, FIVE), plain)


def test_parity_refuses_ignored_pairs():
    a = gaussians(3, 4, 1)
    with pytest.raises(ValueError, match="parity"):
        pcme_loss(a, a, FIVE, FIVE, ignore=torch.zeros(3, 3, dtype=torch.bool), parity=True)
