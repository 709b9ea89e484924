"""Laws of InfoNCE: a loop-form oracle, closed forms, order, ignored pairs and low precision."""

from __future__ import annotations

import math

import pytest
import torch

from ecgecho.losses.info_nce import info_nce


def rows(count: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    x = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x / x.norm(dim=-1, keepdim=True)).to(dtype)


def loop_loss(a, b, tau, ignore):
    total = 0.0
    for x, y, left_out in ((a, b, ignore), (b, a, ignore.T)):
        for i in range(len(x)):
            kept = [j for j in range(len(x)) if j == i or not left_out[i, j]]
            logits = [tau * float(x[i] @ y[j]) for j in kept]
            total += math.log(sum(math.exp(v) for v in logits)) - tau * float(x[i] @ y[i])
    return total / (2 * len(a))


def test_info_nce_equals_its_loop_form():
    a, b = rows(6, 5, 1), rows(6, 5, 2)
    ignore = torch.rand(6, 6, generator=torch.Generator().manual_seed(3)) < 0.4
    result = info_nce(a, b, torch.tensor(7.0), ignore)
    assert float(result) == pytest.approx(loop_loss(a, b, 7.0, ignore), rel=1e-9)
    assert float(info_nce(a, b, torch.tensor(7.0))) == pytest.approx(loop_loss(a, b, 7.0, torch.zeros(6, 6)), rel=1e-9)


def test_equal_rows_cost_the_logarithm_of_their_number():
    same = rows(1, 4, 0).expand(8, 4)
    assert float(info_nce(same, same, torch.tensor(3.0))) == pytest.approx(math.log(8))


def test_a_batch_whose_pairs_are_all_ignored_costs_nothing_and_has_finite_gradients():
    a = rows(5, 4, 1, torch.float32).requires_grad_(True)
    loss = info_nce(a, rows(5, 4, 2, torch.float32), torch.tensor(3.0), torch.ones(5, 5, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-7)
    assert torch.isfinite(a.grad).all()


def test_one_entry_or_none_costs_nothing():
    none = torch.zeros(0, 4)
    assert float(info_nce(none, none, torch.tensor(3.0))) == 0.0
    assert float(info_nce(rows(1, 4, 1), rows(1, 4, 2), torch.tensor(3.0))) == 0.0


def test_the_order_of_the_batch_does_not_matter_to_info_nce():
    a, b, order = rows(7, 4, 1), rows(7, 4, 2), torch.randperm(7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(info_nce(a[order], b[order], torch.tensor(5.0)), info_nce(a, b, torch.tensor(5.0)))


def test_entries_ignored_by_all_others_are_padding():
    a, b = rows(5, 4, 1), rows(5, 4, 2)
    ignore = torch.zeros(5, 5, dtype=torch.bool)
    ignore[3:], ignore[:, 3:] = True, True
    torch.testing.assert_close(5 * info_nce(a, b, torch.tensor(5.0), ignore), 3 * info_nce(a[:3], b[:3], torch.tensor(5.0)))


def test_a_log_scale_is_exponentiated_and_never_exceeds_one_hundred():
    a, b = rows(6, 4, 1), rows(6, 4, 2)
    log = torch.tensor(math.log(14.3), dtype=torch.float64)
    torch.testing.assert_close(info_nce(a, b, log, log_scale=True), info_nce(a, b, log.exp()))
    torch.testing.assert_close(info_nce(a, b, log + 50, log_scale=True), info_nce(a, b, torch.tensor(100.0).double()))


def test_info_nce_is_finite_and_in_fp32_for_bf16_inputs():
    a = rows(16, 8, 1, torch.bfloat16).requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = info_nce(a, rows(16, 8, 2, torch.bfloat16), torch.tensor(100.0))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(a.grad).all()
