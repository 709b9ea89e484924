"""CLIP's loss equals the reference; repeats are negatives, ignored or positives."""

from __future__ import annotations

import math

import golden_rules as golden
import pytest
import torch

from ecgecho.losses.clip import MAX_LOG_SCALE, clip_loss, log_scale

TOPIC = "echo2ecg_aggregator"


def scale_of(temperature: float) -> torch.Tensor:
    return torch.tensor([log_scale(temperature)])


def pairs(count: int = 6, dim: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return tuple(torch.randn((count, dim), generator=random, dtype=torch.float64) for _ in range(2))


def by_loop(ecg, echo, temperature, weight, positive, ignore):
    """The same in plain Python."""
    unit_a, unit_b = (x / x.norm(dim=1, keepdim=True) for x in (ecg, echo))
    count, total = len(ecg), 0.0
    for share, one, two in ((weight, unit_a, unit_b), (1 - weight, unit_b, unit_a)):
        for i in range(count):
            seen = [j for j in range(count) if i == j or positive[i, j] or not ignore[i, j]]
            score = {j: float(one[i] @ two[j]) / temperature for j in seen}
            whole = math.log(sum(math.exp(s) for s in score.values()))
            own = [j for j in seen if i == j or positive[i, j]]
            total -= share * sum(score[j] - whole for j in own) / len(own) / count
    return torch.tensor(total, dtype=torch.float64)


@pytest.mark.parametrize(("count", "dim"), [(4, 8), (16, 32), (33, 32)])
def test_the_loss_and_its_gradients_equal_the_reference(count, dim):
    case = golden.case(TOPIC, "clip_loss")
    found = 0
    for temperature in (0.5, 0.1):
        for weight in (0.0, 0.25, 0.5, 1.0):
            for learned in (0, 1):
                name = f"B{count}_D{dim}_T{temperature}_lam{weight}_learn{learned}"
                ecg = torch.from_numpy(golden.series((count, dim))).requires_grad_()
                echo = (0.7 * ecg.detach() + torch.from_numpy(golden.series((count, dim), 3000, 0.8))).requires_grad_()
                scale = scale_of(temperature).requires_grad_()
                loss = clip_loss(ecg, echo, scale, ecg_weight=weight)
                loss.backward()
                golden.assert_matches(case, f"{name}/loss", loss)
                for given, grad in (("g_ecg", ecg.grad), ("g_echo", echo.grad), ("g_logit_scale", scale.grad.squeeze())):
                    if f"{name}/{given}" in case or f"{name}/{given}__sample" in case:
                        golden.assert_matches(case, f"{name}/{given}", grad)
                        found += 1
    assert found >= 8


@pytest.mark.parametrize("repeats", ["negatives", "ignored", "positives", "both"])
def test_the_loss_equals_a_loop(repeats):
    ecg, echo = pairs()
    same = torch.tensor([0, 0, 1, 2, 2, 2])
    study = same[:, None] == same
    person = torch.tensor([0, 0, 0, 1, 1, 1])
    subject = person[:, None] == person
    none = torch.zeros(6, 6, dtype=torch.bool)
    positive = study if repeats in ("positives", "both") else none
    ignore = subject if repeats in ("ignored", "both") else none
    ours = clip_loss(ecg, echo, scale_of(0.2), ecg_weight=0.3, positive=positive, ignore=ignore)
    torch.testing.assert_close(ours, by_loop(ecg, echo, 0.2, 0.3, positive, ignore), rtol=1e-6, atol=1e-6)


def test_a_batch_given_twice_costs_less_with_its_repeats_ignored_than_as_negatives():
    ecg, echo = pairs()
    ecg2, echo2, same = ecg.repeat(2, 1), echo.repeat(2, 1), torch.arange(6).repeat(2)
    ignored = clip_loss(ecg2, echo2, scale_of(0.5), ignore=same[:, None] == same)
    counted = clip_loss(ecg2, echo2, scale_of(0.5))
    positives = clip_loss(ecg2, echo2, scale_of(0.5), positive=same[:, None] == same)
    assert clip_loss(ecg, echo, scale_of(0.5)) < ignored < counted
    torch.testing.assert_close(positives, counted)  # equal vectors: the mean over them is each of them


def test_a_batch_of_one_study_has_the_loss_of_a_guess():
    ecg, echo = pairs()
    everything = torch.ones(6, 6, dtype=torch.bool)
    assert float(clip_loss(ecg, echo, scale_of(0.5), ignore=everything)) == pytest.approx(0.0, abs=1e-12)
    same = echo[:1].expand(6, -1)
    assert float(clip_loss(ecg[:1].expand(6, -1), same, scale_of(0.5), positive=everything)) == pytest.approx(math.log(6))


def test_order_and_lengths_of_the_vectors_do_not_matter_and_the_directions_swap():
    ecg, echo = pairs()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    loss = clip_loss(ecg, echo, scale_of(0.5), ecg_weight=0.2)
    torch.testing.assert_close(clip_loss(ecg[order], echo[order], scale_of(0.5), ecg_weight=0.2), loss)
    torch.testing.assert_close(clip_loss(7 * ecg, echo / 3, scale_of(0.5), ecg_weight=0.2), loss)
    torch.testing.assert_close(clip_loss(echo, ecg, scale_of(0.5), ecg_weight=0.8), loss)


def test_bf16_autocast_changes_nothing_and_an_empty_batch_is_zero():
    ecg, echo = (x.float() for x in pairs())
    with torch.autocast("cpu", torch.bfloat16):
        inside = clip_loss(ecg, echo, scale_of(0.5))
    assert torch.equal(inside, clip_loss(ecg, echo, scale_of(0.5)))
    assert float(clip_loss(ecg[:0], echo[:0], scale_of(0.5))) == 0.0


def test_the_multiplier_starts_at_one_over_the_temperature_within_the_references_bounds():
    assert math.exp(log_scale(0.5)) == pytest.approx(2.0)
    assert log_scale(0.001) == MAX_LOG_SCALE
    assert log_scale(3.0) == 0.0
