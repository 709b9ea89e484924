"""The published augmentations by their statistics, and random crops."""

from __future__ import annotations

import pytest
import torch

from ecgecho.data import augment

VALID = torch.ones(256, 12, dtype=torch.bool)


def noise(num=256, length=336) -> torch.Tensor:
    return torch.randn((num, 12, length), generator=torch.Generator().manual_seed(0)) + 0.5


def otis(ecg, valid, seed, **options) -> torch.Tensor:
    """Of ECGs that a normaliser left as they were."""
    return augment.otis(ecg, valid, seed, recorded=augment.extent(ecg), **options)


def only(monkeypatch, **kept) -> None:
    """Every step that is not named does nothing."""
    for name in ("SURROGATE_CHANCE", "JITTER", "RESCALING", "FLIP_CHANCE"):
        monkeypatch.setattr(augment, name, kept.get(name, 0.0))


def correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


@pytest.mark.parametrize("length", [336, 337])
def test_a_surrogate_keeps_spectrum_and_mean_and_correlates_as_the_reference_does(length):
    ecg = noise(length=length)
    turns = torch.rand((256, 1, length // 2 + 1), generator=torch.Generator().manual_seed(1))
    turned = augment.surrogate(ecg, turns)
    before, after = torch.fft.rfft(ecg), torch.fft.rfft(turned)
    torch.testing.assert_close(after.abs(), before.abs(), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(turned.mean(-1), ecg.mean(-1), atol=1e-5, rtol=0)
    # mean of cos over U(0, 0.075 * 2 pi): sin(x) / x
    assert correlation(ecg, turned).mean() == pytest.approx(0.963, abs=0.003)
    angle = (after / before)[..., 1:-1].angle()
    assert 0.05 < angle.mean() < 0.075 * torch.pi * 1.05
    torch.testing.assert_close(angle, angle[:, :1].expand_as(angle), atol=1e-2, rtol=0)


def test_every_second_ecg_becomes_a_surrogate(monkeypatch):
    only(monkeypatch, SURROGATE_CHANCE=0.5)
    ecg = noise()
    same = (otis(ecg, VALID, 3) == ecg).all(-1).all(-1)
    assert 0.4 < same.float().mean() < 0.6


def test_jitter_is_multiplicative_and_by_sample(monkeypatch):
    only(monkeypatch, JITTER=augment.JITTER)
    ecg = noise()
    ratio = otis(ecg, VALID, 3) / ecg - 1
    assert ratio.std() == pytest.approx(0.12, rel=0.01)
    assert ratio.mean() == pytest.approx(0, abs=1e-3)
    assert correlation(ratio[:, 0], ratio[:, 1]).abs().mean() < 0.1


def test_rescaling_is_one_factor_an_ecg_and_turns_2_percent_over(monkeypatch):
    only(monkeypatch, RESCALING=augment.RESCALING)
    ecg = torch.ones(20000, 1, 2)
    factor = otis(ecg, torch.ones(20000, 1, dtype=torch.bool), 3)
    assert (factor[..., 0] == factor[..., 1]).all()
    assert factor.mean() == pytest.approx(1, abs=0.02)
    assert factor.std() == pytest.approx(0.5, abs=0.02)
    assert (factor[:, 0, 0] < 0).float().mean() == pytest.approx(0.0228, abs=0.004)
    wide = otis(noise(), VALID, 3) / noise()
    torch.testing.assert_close(wide, wide[:, :1, :1].expand_as(wide), rtol=1e-5, atol=1e-5)


def test_a_third_is_turned_round_and_a_third_upside_down_only_where_flips_are_asked_for(monkeypatch):
    only(monkeypatch, FLIP_CHANCE=augment.FLIP_CHANCE)
    ecg = noise(2000, 8)
    valid = torch.ones(2000, 12, dtype=torch.bool)
    assert torch.equal(otis(ecg, valid, 3), ecg)
    flipped = otis(ecg, valid, 3, flips=True)
    shares = {}
    for name, form in {"none": ecg, "time": ecg.flip(2), "sign": -ecg, "both": -ecg.flip(2)}.items():
        shares[name] = float((flipped == form).all(-1).all(-1).float().mean())
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["time"] + shares["both"] == pytest.approx(0.33, abs=0.04)
    assert shares["sign"] + shares["both"] == pytest.approx(0.33, abs=0.04)


@pytest.mark.parametrize("flips", [False, True])
def test_it_is_a_function_of_the_seed_and_keeps_invalid_leads_and_the_end_of_a_recording_zero(flips):
    ecg, valid = noise(64), VALID[:64].clone()
    valid[:, 5] = False
    ecg[:, 5] = 0
    ecg[::2, :, 300:] = 0
    one, again, other = (otis(ecg, valid, seed, flips=flips) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert (one[:, 5] == 0).all()
    ends = (one[::2] == 0).all(1)
    assert (ends[:, 300:].all(1) | ends[:, :36].all(1)).all()
    assert torch.isfinite(one).all()


def test_what_follows_a_recording_stays_what_the_normaliser_made_of_it():
    ecg = noise(64)
    ecg[:, :, 300:] = -0.25
    recorded = torch.full((64,), 300)
    varied = augment.otis(ecg, VALID[:64], 3, recorded=recorded)
    assert (varied[:, :, 300:] == -0.25).all()
    assert (varied[:, :, :300] != ecg[:, :, :300]).float().mean() > 0.99
    turned = augment.otis(ecg, VALID[:64], 3, recorded=recorded, flips=True)
    ends = (turned.abs() == 0.25).all(1)
    assert (ends[:, 300:].all(1) | ends[:, :36].all(1)).all()


def test_a_crop_is_a_stretch_of_the_ecg_from_anywhere_in_it():
    ecg = torch.arange(500.0).expand(4000, 2, 500) + 1
    cut = augment.crop(ecg, 100, 7)
    assert cut.shape == (4000, 2, 100)
    assert (cut.diff(dim=-1) == 1).all()
    assert torch.equal(cut[:, 0], cut[:, 1])
    starts = cut[:, 0, 0] - 1
    assert (starts.min(), starts.max()) == (0, 400)
    assert starts.mean() == pytest.approx(200, abs=10)
    assert torch.equal(cut, augment.crop(ecg, 100, 7))
    assert not torch.equal(cut, augment.crop(ecg, 100, 8))


def test_a_crop_holds_no_padding_where_the_recording_is_long_enough():
    ecg = noise(256, 500)
    ecg[..., 120:] = 0
    assert (augment.crop(ecg, 100, 7) != 0).all()
    short = augment.crop(ecg, 200, 7)
    assert torch.equal(short, ecg[..., :200])


def test_no_crop_is_the_whole():
    ecg = noise(4, 50)
    assert augment.crop(ecg, 0, 1) is ecg
    assert augment.crop(ecg, 50, 1) is ecg
