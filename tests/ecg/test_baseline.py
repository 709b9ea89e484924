"""The chain of OTiS: against golden numbers and a dense solution, over whole recordings, with leads that are missing or flat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from golden_rules import assert_matches, case, series
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgecho.ecg import baseline, contract
from ecgecho.ecg.contract import apply_contract
from ecgecho.types import STANDARD_LEADS, EcgContract, EcgRecord, ItemError

OTIS = EcgContract(name="t", fs_hz=500, num_samples=1500, chain="otis", least_samples=1008)


def hearts(num_samples: int = 2000, seed: int = 0) -> np.ndarray:
    """(12, L) mV: narrow waves on a wandering line with noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(num_samples) / 500
    beats = np.exp(-np.square((t % 0.8 - 0.4) / 0.02))
    line = 0.3 * np.sin(2 * np.pi * 0.25 * t + rng.uniform(0, 6, (12, 1)))
    return (rng.uniform(-1, 2, (12, 1)) * beats + line + rng.normal(0, 0.02, (12, num_samples))).astype(np.float32)


def record(signal: np.ndarray, leads: tuple[str, ...] = STANDARD_LEADS, fs_hz: float = 500.0, unit="mv") -> EcgRecord:
    signal = signal.astype(np.float32)
    return EcgRecord(signal=signal, leads=leads, lead_valid=np.isfinite(signal).all(1), unit=unit, fs_hz=fs_hz)


def dense(lead: np.ndarray) -> np.ndarray:
    """The same line by a full matrix."""
    length = len(lead)
    difference = np.diff(np.eye(length), 2, axis=0) if length > 2 else np.zeros((0, length))
    weight = np.ones(length)
    for _ in range(5):
        line = np.linalg.solve(np.diag(weight) + 1e7 * difference.T @ difference, weight * lead)
        weight = np.where(lead > line, 0.3, 0.7)
    return line


def test_the_chain_equals_the_reference():
    golden = case("otis_encoder", "preprocess")
    signal = series((12, 1200), dtype=np.float64) * np.arange(1, 13)[:, None] + np.linspace(0, 3, 1200)
    assert_matches(golden, "process_ecg", baseline.otis(signal, STANDARD_LEADS), tolerance=1e-8)
    assert_matches(golden, "norm_group_wise", baseline.by_groups(signal, STANDARD_LEADS), tolerance=1e-12)
    assert_matches(golden, "baseline_als_lam1e7_p0.3_n5", baseline.baseline(signal[:1])[0], tolerance=1e-6)


@settings(max_examples=20, deadline=None)
@given(length=st.integers(1, 90), seed=st.integers(0, 99), scale=st.sampled_from([1e-3, 1.0, 1e5]))
def test_the_line_under_a_lead_is_that_of_the_full_matrix(length, seed, scale):
    leads = scale * (np.random.default_rng(seed).normal(size=(2, length)) + np.linspace(0, 9, length))
    expected = np.stack([dense(lead) for lead in leads])
    np.testing.assert_allclose(baseline.baseline(leads), expected, atol=1e-6 * np.abs(leads).max())


def test_a_spike_is_cut_at_four_deviations_around_zero_not_around_the_mean():
    signal = np.full((2, 1000), 1.0)
    signal[0, 5] = 90.0
    cut = baseline.clip(signal)
    assert cut.max() == pytest.approx(4 * signal.std())
    assert (cut[1] == 1.0).all()


@settings(max_examples=15, deadline=None)
@given(kept=st.sets(st.sampled_from(STANDARD_LEADS), min_size=1), seed=st.integers(0, 9))
def test_each_group_of_leads_that_are_there_has_mean_0_and_deviation_1(kept, seed):
    leads = tuple(name for name in STANDARD_LEADS if name in kept)
    values = hearts(300, seed).astype(np.float64)[: len(leads)]
    result = baseline.otis(values, leads)
    for names in baseline.GROUPS:
        rows = [row for row, name in enumerate(leads) if name in names]
        if rows:
            assert result[rows].mean() == pytest.approx(0, abs=1e-9)
            assert result[rows].std() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("flat", [0.0, 5.0, -3e4])
def test_flat_leads_and_groups_become_zeros_and_leave_the_others_finite(flat):
    signal = hearts().astype(np.float64)
    signal[[0, 3, 4, 5]] = flat
    signal[6] = np.linspace(-1, 1, 2000)  # a ramp is all line
    result = baseline.otis(signal, STANDARD_LEADS)
    assert np.isfinite(result).all()
    assert (result[3:6] == 0).all()
    assert np.abs(result).max() < 60
    assert result[0].std() < 1e-3
    only = baseline.otis(np.full((12, 50), flat), STANDARD_LEADS)
    assert (only == 0).all()


def test_a_unit_of_the_signal_does_not_matter():
    signal = hearts().astype(np.float64)
    np.testing.assert_allclose(baseline.otis(1000 * signal, STANDARD_LEADS), baseline.otis(signal, STANDARD_LEADS), atol=1e-6)


def test_a_lead_of_no_group_is_refused():
    with pytest.raises(ValueError, match="'X' is in no group"):
        baseline.otis(np.ones((1, 9)), ["X"])


def test_a_contract_chains_the_whole_recording_and_then_cuts_it():
    signal = hearts(2400)
    values, lead_valid = apply_contract(record(signal), OTIS)
    assert lead_valid.all()
    whole = baseline.otis(signal, STANDARD_LEADS)
    np.testing.assert_array_equal(values, whole[:, :1500].astype(np.float32))
    assert np.abs(values - baseline.otis(signal[:, :1500], STANDARD_LEADS)).max() > 0.01


def test_a_short_recording_is_padded_after_the_chain_and_one_below_the_least_is_refused():
    values, _ = apply_contract(record(hearts(1008)), OTIS)
    assert (values[:, 1008:] == 0).all()
    np.testing.assert_array_equal(values[:, :1008], baseline.otis(hearts(1008), STANDARD_LEADS).astype(np.float32))
    with pytest.raises(ItemError) as caught:
        apply_contract(record(hearts(1007)), OTIS)
    assert (caught.value.code, caught.value.outcome) == ("too_short", "excluded")


def test_another_rate_is_changed_before_the_chain():
    slow = replace(OTIS, num_samples=1000, least_samples=0)
    values, _ = apply_contract(record(hearts(1000)[:, ::2], fs_hz=250.0), slow)
    filtered = contract.resample(hearts(1000)[:, ::2], 250.0, 500.0)
    np.testing.assert_array_equal(values, baseline.otis(filtered, STANDARD_LEADS).astype(np.float32))


def test_leads_that_are_missing_or_hold_a_nan_are_zeros_and_change_nothing_else():
    signal = hearts()
    kept = tuple(name for name in STANDARD_LEADS if name not in ("V2", "V5"))
    rows = [STANDARD_LEADS.index(name) for name in kept]
    without, lead_valid = apply_contract(record(signal[rows], kept), OTIS)
    signal[[7, 10], 40] = np.nan, np.inf
    broken, also_valid = apply_contract(record(signal), OTIS)
    np.testing.assert_array_equal(without, broken)
    np.testing.assert_array_equal(lead_valid, also_valid)
    assert (without[[7, 10]] == 0).all()
    np.testing.assert_array_equal(without[rows], baseline.otis(signal[rows], kept)[:, :1500].astype(np.float32))


def test_of_a_long_recording_a_bounded_part_is_looked_at(monkeypatch):
    monkeypatch.setattr(contract, "WHOLE_S", 4.0)
    signal = hearts(4000)
    values, _ = apply_contract(record(signal), OTIS)
    expected, _ = apply_contract(record(signal[:, :2000]), OTIS)
    np.testing.assert_array_equal(values, expected)


def test_z_scores_are_refused_in_millivolts_and_chained_where_the_contract_takes_them():
    signal = hearts()
    with pytest.raises(ItemError) as caught:
        apply_contract(record(signal, unit="zscore"), OTIS)
    assert caught.value.code == "unit_not_mv"
    values, _ = apply_contract(record(signal, unit="zscore"), replace(OTIS, unit="zscore"))
    np.testing.assert_array_equal(values, apply_contract(record(signal), OTIS)[0])
