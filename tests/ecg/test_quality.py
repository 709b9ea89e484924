"""What is found wrong with a recording: each defect alone, none in a sound one, and names of leads that are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgecho.ecg.contract import LIMB
from ecgecho.ecg.quality import defects_of
from ecgecho.io import wfdb
from ecgecho.types import STANDARD_LEADS, EcgRecord

EXCERPT = Path(__file__).parents[1] / "data/ptb_excerpt"
MIMIC_ORDER = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")


def beats(num_samples: int = 5000, fs_hz: float = 500.0, seed: int = 0, step_mv: float = 0.005) -> np.ndarray:
    """(12, L) mV: simulated narrow QRS and round T waves, limb leads by Einthoven and Goldberger, digitised."""
    rng = np.random.default_rng(seed)
    t = np.arange(num_samples) / fs_hz
    phase = (t * 1.2) % 1.0
    shape = np.exp(-0.5 * ((phase - 0.3) / 0.012) ** 2), np.exp(-0.5 * ((phase - 0.6) / 0.06) ** 2), np.sin(2 * np.pi * 0.3 * t)
    sources = rng.normal(size=(8, 3)) * [1.0, 0.3, 0.05] @ np.stack(shape) + rng.normal(scale=0.01, size=(8, num_samples))
    signal = np.concatenate([np.array(list(LIMB.values())) @ sources[:2], sources[2:]])
    return (np.round(signal / step_mv) * step_mv).astype(np.float32)


def record(signal: np.ndarray, leads=STANDARD_LEADS, unit="mv", fs_hz: float = 500.0) -> EcgRecord:
    valid = np.isfinite(signal).all(axis=1)
    return EcgRecord(signal=signal.astype(np.float32), leads=tuple(leads), lead_valid=valid, unit=unit, fs_hz=fs_hz)


def named(*order: str) -> np.ndarray:
    """Simulated leads in this order."""
    return beats()[[STANDARD_LEADS.index(name) for name in order]]


def test_a_real_record_has_no_defect():
    assert defects_of(wfdb.read(EXCERPT)) == ()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), fs_hz=st.sampled_from([100.0, 250.0, 500.0, 1000.0]))
def test_a_sound_simulated_record_has_no_defect(seed, fs_hz):
    assert defects_of(record(beats(int(10 * fs_hz), fs_hz, seed), fs_hz=fs_hz)) == ()


def test_samples_that_are_not_there():
    signal = beats()
    signal[7, 100:120] = np.nan
    assert defects_of(record(signal)) == ("nan_samples",)
    signal[7] = np.nan
    assert defects_of(record(signal)) == ("nan_samples",)


def test_a_lead_whose_electrode_was_off_is_not_judged():
    """It keeps its samples and is not valid, because the file says so."""
    signal = beats()
    signal[0] = 20.0
    off = np.arange(12) != 0
    made = EcgRecord(signal=signal, leads=STANDARD_LEADS, lead_valid=off, unit="mv", fs_hz=500.0)
    assert defects_of(made) == ()


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_flat_leads_are_named_up_to_three_and_then_counted_together(value):
    signal = beats()
    signal[6] = value
    assert defects_of(record(signal)) == ("flat_lead_V1",)
    signal[6:10] = value
    assert defects_of(record(signal)) == ("many_flat_leads",)
    signal[:] = value
    assert defects_of(record(signal)) == ("all_flat",)


def test_a_name_that_a_file_made_up_is_never_stored():
    signal = beats()[:3]
    signal[1:] = 0.0
    assert defects_of(record(signal, ("V1", "Mustermann; Max", "1950-01-01"))) == ("flat_lead_other",)


def test_a_flat_limb_lead_says_nothing_against_the_others():
    signal = beats()
    signal[0] = 0.0
    assert defects_of(record(signal)) == ("flat_lead_I",)


def test_a_lead_at_its_rail_is_clipped():
    signal = beats()
    top = 0.6 * signal[8].max()
    signal[8] = np.minimum(signal[8], top)
    assert defects_of(record(signal)) == ("clipped_lead_V3",)
    signal = beats()
    signal[9, 3000:3200] = -3.0
    assert defects_of(record(signal)) == ("clipped_lead_V4",)


def test_a_voltage_that_no_heart_makes():
    signal = beats()
    signal[8, 77] = -10.5
    assert defects_of(record(signal)) == ("beyond_10_mv",)
    assert defects_of(record(signal, unit="zscore")) == ()


def test_leads_in_the_order_of_mimic_with_their_own_names_are_sound():
    assert defects_of(record(named(*MIMIC_ORDER), MIMIC_ORDER)) == ()


def test_leads_in_the_order_of_mimic_under_the_usual_names_are_caught():
    found = defects_of(record(named(*MIMIC_ORDER), STANDARD_LEADS))
    assert found == ("goldberger_disagrees", "lead_order_suspect_aVL_aVF")
    assert defects_of(record(named(*MIMIC_ORDER), STANDARD_LEADS, unit="zscore")) == ("lead_order_suspect_aVL_aVF",)


@pytest.mark.parametrize(
    ("order", "code"),
    [
        (("II", "I", "III", "aVR", "aVL", "aVF"), "lead_order_suspect_I_II"),
        (("I", "II", "III", "aVL", "aVF", "aVR"), "lead_order_suspect_aVR_aVL_aVF"),
    ],
)
def test_other_limb_leads_under_wrong_names_are_caught(order, code):
    assert defects_of(record(named(*order, *STANDARD_LEADS[6:])))[-1] == code


def test_limb_leads_that_fit_in_no_order_disagree():
    signal = beats()
    signal[2] = beats(seed=1)[2]
    assert defects_of(record(signal)) == ("einthoven_disagrees",)
    signal = beats()
    signal[4] = -2 * signal[4]
    assert defects_of(record(signal)) == ("goldberger_disagrees",)


def test_one_wrong_scale_is_enough_to_disagree():
    signal = beats()
    signal[1] *= 1.2
    assert "einthoven_disagrees" in defects_of(record(signal))


@pytest.mark.parametrize("leads", [("I", "II"), ("V1", "V2"), ("I", "aVF"), ("X", "Y", "Z")])
def test_leads_without_an_identity_are_not_judged_by_one(leads):
    signal = beats()[: len(leads)]
    assert defects_of(record(signal, leads)) == ()


def test_three_limb_leads_are_judged_by_the_one_identity_that_they_have():
    assert defects_of(record(named("I", "II", "III"), ("I", "II", "III"))) == ()
    assert defects_of(record(named("I", "III", "II"), ("I", "II", "III"))) == ("einthoven_disagrees",)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 12), st.sampled_from([100.0, 500.0]), st.sampled_from(["mv", "zscore"]), st.integers(0, 99)
)
def test_whatever_a_record_holds_gives_short_codes(num_samples, num_leads, fs_hz, unit, seed):
    rng = np.random.default_rng(seed)
    signal = rng.choice([0.0, 1.0, -1e30, 1e-30, np.nan, 5.0], size=(num_leads, num_samples), p=[0.4, 0.2, 0.1, 0.1, 0.05, 0.15])
    found = defects_of(record(signal, STANDARD_LEADS[:num_leads], unit, fs_hz))
    assert len(";".join(found)) <= 256
    assert len(set(found)) == len(found)
