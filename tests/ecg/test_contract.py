"""What a recording becomes under an encoder's contract."""

from __future__ import annotations

import time

import numpy as np
import pytest
from golden_rules import assert_matches, case, series
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgecho.ecg.contract import LIMB, apply_contract, canonical_leads
from ecgecho.ecg.filters import band_pass, resample
from ecgecho.ecg.normalise import fit, standardise
from ecgecho.ecg.quantise import from_int16, to_int16
from ecgecho.types import STANDARD_LEADS, EcgContract, EcgRecord, ItemError

TEN_SECONDS = EcgContract(name="t", fs_hz=100, num_samples=1000, band_hz=(0.5, 40.0))
RAW = EcgContract(name="raw", fs_hz=500, num_samples=100)
NATIVE = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")  # MIMIC-IV-ECG's order


def hearts(num_samples: int = 5000, fs_hz: float = 500.0, seed: int = 0) -> np.ndarray:
    """(12, L) whose limb leads obey Einthoven and Goldberger."""
    rng = np.random.default_rng(seed)
    t = np.arange(num_samples) / fs_hz
    two = np.stack([np.sin(2 * np.pi * (1.2 + k) * t + rng.normal()) for k in range(2)])
    chest = np.stack([np.sin(2 * np.pi * (2 + k) * t) for k in range(6)])
    return np.concatenate([np.array(list(LIMB.values())) @ two, chest]).astype(np.float32)


def record(signal: np.ndarray, leads: tuple[str, ...] = STANDARD_LEADS, fs_hz: float = 500.0, unit="mv") -> EcgRecord:
    lead_valid = np.isfinite(signal).all(1)
    return EcgRecord(signal=signal.astype(np.float32), leads=leads, lead_valid=lead_valid, unit=unit, fs_hz=fs_hz)


def of(signal: np.ndarray, leads: tuple[str, ...], order: tuple[str, ...] = STANDARD_LEADS) -> np.ndarray:
    return signal[[order.index(name) for name in leads]]


@pytest.mark.parametrize(("name", "length", "fs_hz"), [("downsample_512_100", 5120, 512), ("downsample_500_100", 5000, 500)])
def test_filtering_and_resampling_equal_the_reference(name, length, fs_hz):
    golden = case("echoingecg_ecg_encoder", "ecg_preprocess")
    signal = series((12, length), dtype=np.float64)
    assert_matches(golden, name, resample(band_pass(signal, fs_hz, (0.5, 40.0), 100), fs_hz, 100))
    if fs_hz == 500:
        assert_matches(golden, f"{name}_noband", resample(signal, fs_hz, 100))


def test_a_contract_equals_the_reference_in_float32():
    golden = case("echoingecg_ecg_encoder", "ecg_preprocess")
    values, lead_valid = apply_contract(record(series((12, 5000))), TEN_SECONDS)
    assert values.dtype == np.float32
    assert lead_valid.all()
    assert_matches(golden, "downsample_500_100", values)


def test_z_scores_equal_the_reference():
    golden = case("echoingecg_ecg_encoder", "ecg_preprocess")
    centre, scale = series((12,), 5), np.abs(series((12,), 9)) + np.float32(0.3)
    assert_matches(golden, "center", centre)
    assert_matches(golden, "scale", scale)
    assert_matches(golden, "scale_ecg", standardise(series((12, 40)), centre, scale))


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(STANDARD_LEADS))
def test_the_order_of_the_leads_in_the_file_does_not_matter(order):
    signal = hearts(600)
    expected, _ = apply_contract(record(signal), RAW)
    values, lead_valid = apply_contract(record(of(signal, tuple(order)), tuple(order)), RAW)
    assert lead_valid.all()
    assert np.array_equal(values, expected)


@pytest.mark.parametrize("known", [(a, b) for a in LIMB for b in LIMB if a != b])
def test_any_two_limb_leads_give_the_other_four(known):
    signal = hearts(200)
    leads = (*known, "V1", "V2", "V3", "V4", "V5", "V6")
    derived = canonical_leads(record(of(signal, leads), leads))
    assert derived.leads == STANDARD_LEADS
    assert derived.lead_valid.all()
    np.testing.assert_allclose(derived.signal, signal, atol=2e-6)


def test_a_missing_chest_lead_is_zeros_and_not_valid():
    leads = tuple(name for name in STANDARD_LEADS if name != "V3")
    values, lead_valid = apply_contract(record(of(hearts(), leads), leads), TEN_SECONDS)
    assert np.array_equal(lead_valid, [name != "V3" for name in STANDARD_LEADS])
    assert not values[STANDARD_LEADS.index("V3")].any()
    assert values[lead_valid].any(1).all()


@pytest.mark.parametrize("name", ["I", "aVF", "V5"])
def test_a_lead_with_a_nan_is_zeros_and_not_valid_and_leaves_the_others(name):
    signal = hearts()
    clean, _ = apply_contract(record(signal), TEN_SECONDS)
    row = STANDARD_LEADS.index(name)
    signal[row, 123] = np.nan
    values, lead_valid = apply_contract(record(signal), TEN_SECONDS)
    assert not lead_valid[row]
    assert not values[row].any()
    assert lead_valid.sum() == 11
    assert np.array_equal(np.delete(values, row, 0), np.delete(clean, row, 0))


def test_a_contract_in_z_scores_takes_either_unit_and_forgets_the_scale():
    wanted = EcgContract(name="z", fs_hz=100, num_samples=1000, band_hz=(0.5, 40.0), unit="zscore")
    signal = hearts(4000)  # 8 s: the end is padding, and stays zero
    signal[7] = 0.3
    values, lead_valid = apply_contract(record(signal), wanted)
    np.testing.assert_allclose(values[:, :800].mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(values[:, :800].std(axis=1), [0 if k == 7 else 1 for k in range(12)], atol=1e-5)
    assert not values[:, 800:].any()
    assert lead_valid.all()
    scaled, _ = apply_contract(record(signal * np.float32(3), unit="zscore"), wanted)
    np.testing.assert_allclose(scaled, values, atol=1e-4)


def test_a_lead_with_a_nan_is_never_a_source_of_derived_leads():
    signal = hearts(300)
    signal[0, 5] = np.nan
    leads = ("I", "II", "V1")
    made = canonical_leads(record(of(signal, leads), leads))
    assert [name for name, ok in zip(made.leads, made.lead_valid, strict=True) if ok] == ["II", "V1"]
    leads = ("I", "II", "III")
    made = canonical_leads(record(of(signal, leads), leads))
    assert [name for name, ok in zip(made.leads, made.lead_valid, strict=True) if ok] == ["II", "III", "aVR", "aVL", "aVF"]


def test_a_short_recording_is_padded_with_zeros_or_refused():
    values, _ = apply_contract(record(hearts(2500)), TEN_SECONDS)
    assert values.shape == (12, 1000)
    assert not values[:, 500:].any()
    assert values[:, :500].any()
    refusing = EcgContract(name="r", fs_hz=100, num_samples=1000, short="refuse")
    with pytest.raises(ItemError, match=r"5\.00 s recorded, 10\.00 s wanted") as caught:
        apply_contract(record(hearts(2500)), refusing)
    assert (caught.value.code, caught.value.outcome) == ("too_short", "excluded")


@pytest.mark.parametrize("num_samples", [1, 2, 9, 40])
def test_a_tiny_recording_is_no_crash(num_samples):
    values, lead_valid = apply_contract(record(hearts(num_samples)), TEN_SECONDS)
    assert lead_valid.all()
    assert np.isfinite(values).all()


def test_a_long_recording_gives_its_first_window():
    signal = hearts(20_000)
    values, _ = apply_contract(record(signal), RAW)
    assert np.array_equal(values, signal[:, :100])


@pytest.mark.parametrize("fs_hz", [100.0, 240.0, 250.0, 257.0, 360.0, 500.0, 977.5, 1000.0])
def test_a_tone_keeps_its_height_and_place_at_every_rate(fs_hz):
    t = np.arange(int(10 * fs_hz)) / fs_hz
    burst = np.tile(np.sin(2 * np.pi * 5 * t) * np.exp(-((t - 5) ** 2)), (12, 1))  # dies away before the edges
    values, _ = apply_contract(record(burst, fs_hz=fs_hz), TEN_SECONDS)
    t = np.arange(1000) / 100
    np.testing.assert_allclose(values[0], np.sin(2 * np.pi * 5 * t) * np.exp(-((t - 5) ** 2)), atol=0.01)


def test_what_lies_outside_the_band_is_removed():
    t = np.arange(5000) / 500
    drift_and_hum = np.tile(3 * np.sin(2 * np.pi * 0.1 * t) + np.sin(2 * np.pi * 60 * t), (12, 1))
    values, _ = apply_contract(record(drift_and_hum), TEN_SECONDS)
    assert np.abs(values[:, 200:800]).max() < 0.1


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (lambda: record(hearts(100), unit="zscore"), "unit_not_mv"),
        (lambda: record(np.full((12, 100), np.nan)), "no_valid_lead"),
        (lambda: record(hearts(100)[:3], ("X", "Y", "Z")), "no_valid_lead"),
    ],
)
def test_a_recording_that_cannot_be_used_says_why(made, code):
    with pytest.raises(ItemError) as caught:
        apply_contract(made(), TEN_SECONDS)
    assert caught.value.code == code


def test_the_record_itself_is_left_as_it_was():
    signal = hearts()
    made = record(signal, NATIVE)
    apply_contract(made, TEN_SECONDS)
    assert np.array_equal(made.signal, signal)


def test_a_contract_takes_less_than_ten_milliseconds():
    made = record(hearts())
    apply_contract(made, TEN_SECONDS)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        apply_contract(made, TEN_SECONDS)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.010


@given(seed=st.integers(0, 2**31), exponent=st.integers(-30, 12), hole=st.booleans())
@settings(max_examples=50, deadline=None)
def test_quantising_is_within_half_a_step_and_twice_is_once(seed, exponent, hole):
    signal = (np.random.default_rng(seed).normal(size=(3, 50)) * 2.0**exponent).astype(np.float32)
    if hole:
        signal[1, 7] = np.nan
    stored, scale = to_int16(signal)
    back = from_int16(stored, scale)
    assert np.array_equal(np.isnan(back), np.isnan(signal))
    assert np.nanmax(np.abs(back - signal) / scale[:, None]) <= 0.5
    again, same_scale = to_int16(back)
    assert np.array_equal(again, stored)
    assert np.array_equal(same_scale, scale)
    assert np.abs(stored[0].astype(int)).max() > 32767 // 2 - 1


def test_quantising_keeps_the_extremes():
    signal = np.array([[0, 0, 0], [np.nan, np.nan, np.nan], [np.inf, 1, -1], [32767, -32767, 1], [1e-45, 0, 0]], np.float32)
    stored, scale = to_int16(signal)
    back = from_int16(stored, scale)
    assert not back[0].any()
    assert np.isnan(back[1]).all()
    assert np.isnan(back[2, 0])
    np.testing.assert_allclose(back[2, 1:], [1, -1])
    assert np.array_equal(back[3], signal[3])
    assert np.isfinite(scale).all()
    assert (scale > 0).all()


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=25, deadline=None)
def test_statistics_of_blocks_equal_statistics_of_the_whole(sizes, seed):
    rng = np.random.default_rng(seed)
    blocks = [((rng.normal(size=(n, 3, 20)) + 5).astype(np.float32), rng.random((n, 3)) < 0.7) for n in sizes]
    fitted = fit(blocks)
    for lead in range(3):
        values = np.concatenate([signal[valid[:, lead], lead].ravel() for signal, valid in blocks]).astype(np.float64)
        assert fitted.mean_mv[lead] == pytest.approx(values.mean() if values.size else 0.0)
        assert fitted.std_mv[lead] == pytest.approx(values.std() if values.size else 1.0)


def test_z_scores_are_alike_in_torch():
    import torch

    signal, mean, std = hearts(50), np.arange(12, dtype=np.float32), np.zeros(12, np.float32)
    expected = standardise(signal, mean, std)
    np.testing.assert_allclose(standardise(*(torch.from_numpy(x) for x in (signal, mean, std))).numpy(), expected)
