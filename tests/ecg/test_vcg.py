"""X, Y, Z and 12 leads: every published number, the accuracy on a real simultaneous record, and the sign of Z."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden_rules import case, keys

from ecgecho.ecg.contract import LIMB
from ecgecho.ecg.vcg import (
    DOWER,
    EIGHT,
    INVERSE_DOWER,
    INVERSE_KORS,
    KORS,
    is_xyz,
    twelve_leads,
    vectorcardiogram,
    z_looks_flipped,
)
from ecgecho.types import STANDARD_LEADS, EcgRecord, ItemError

XYZ = ("X", "Y", "Z")
STEPS = Path(__file__).parents[1] / "data/ptb_s0010_re_steps.npz"

# Written out here from the tables of the literature, I, II, V1 to V6 across (Kors) or down (Dower).
KORS_TABLE = """
 0.38 -0.07 -0.13  0.05 -0.01  0.14  0.06  0.54
-0.07  0.93  0.06 -0.02 -0.05  0.06 -0.17  0.13
 0.11 -0.23 -0.43 -0.06 -0.14 -0.20 -0.11  0.31"""
DOWER_TABLE = """
 0.632 -0.235  0.059
 0.235  1.066 -0.132
-0.515  0.157 -0.917
 0.044  0.164 -1.387
 0.882  0.098 -1.277
 1.213  0.127 -0.601
 1.125  0.127 -0.086
 0.831  0.076  0.230"""
PSEUDO_INVERSE_OF_DOWER = """
 0.1561 -0.0099 -0.1724 -0.0738  0.1222  0.2310  0.2393  0.1936
-0.2274  0.8865  0.0572 -0.0190 -0.1064 -0.0220  0.0409  0.0483
 0.0217  0.1021 -0.2289 -0.3100 -0.2459 -0.0634  0.0548  0.1085"""
PSEUDO_INVERSE_OF_KORS = """
 0.9534 -0.1149 -0.3458
-0.0455  0.9889 -0.0683
 0.3991 -0.2007 -1.3443
 0.2682 -0.0822 -0.3359
 0.2468 -0.1595 -0.5486
 0.7776 -0.1117 -0.9779
 0.4349 -0.3044 -0.6529
 1.0009  0.2281  0.2578"""


def table(text: str) -> np.ndarray:
    return np.array([[float(word) for word in line.split()] for line in text.strip().splitlines()])


def record(signal: np.ndarray, leads=XYZ, fs_hz: float = 1000.0) -> EcgRecord:
    valid = np.isfinite(signal).all(axis=1)
    return EcgRecord(signal=signal.astype(np.float32), leads=tuple(leads), lead_valid=valid, unit="mv", fs_hz=fs_hz)


@pytest.fixture(scope="module")
def heart() -> dict[str, np.ndarray]:
    """All 38.4 s of s0010_re by lead, in mV, medians removed as in the golden figures."""
    with np.load(STEPS) as steps:
        raw = np.cumsum((steps["high"].astype(np.int16) << 8) + steps["low"], axis=1, dtype=np.int16)
    signal = dict(zip((*EIGHT, *XYZ), raw / 2000, strict=True))
    signal |= {name: a * signal["I"] + b * signal["II"] for name, (a, b) in LIMB.items()}
    return {name: values - np.median(values) for name, values in signal.items()}


def of(heart: dict[str, np.ndarray], leads) -> EcgRecord:
    return record(np.stack([heart[name] for name in leads]), leads)


@pytest.mark.parametrize(("ours", "text"), [(KORS, KORS_TABLE), (DOWER, DOWER_TABLE)], ids=["kors", "dower"])
def test_every_number_of_the_matrices_is_the_published_one(ours, text):
    np.testing.assert_array_equal(ours, table(text))


def test_the_matrices_are_those_of_the_golden_figures():
    golden = keys("kors")
    for name, ours in (("kors", KORS), ("dower", DOWER), ("inverse_dower", INVERSE_DOWER)):
        np.testing.assert_array_equal(ours, golden[name]["values"])


def test_the_inverses_are_pseudo_inverses():
    np.testing.assert_allclose(np.linalg.pinv(DOWER), table(PSEUDO_INVERSE_OF_DOWER), atol=5.1e-5)
    np.testing.assert_allclose(INVERSE_DOWER, table(PSEUDO_INVERSE_OF_DOWER), atol=5.5e-4)  # published to three decimals
    np.testing.assert_allclose(INVERSE_KORS, table(PSEUDO_INVERSE_OF_KORS), atol=5.1e-5)


@pytest.mark.parametrize(("method", "golden"), [("dower", "dower"), ("kors", "pinv_kors")])
def test_twelve_leads_of_a_real_record_are_as_near_as_the_golden_figures_say(heart, method, golden):
    made = twelve_leads(of(heart, XYZ), method)
    figures = case("kors", "matrices_and_s0010_re")
    recorded = np.stack([heart[name] for name in STANDARD_LEADS])
    found = [np.corrcoef(a, b)[0, 1] for a, b in zip(made.signal, recorded, strict=True)]
    # III, aVR, aVL and aVF are computed here, from I and II without their medians, and were digitised there
    np.testing.assert_allclose(found, figures[f"median_removed/vcg_to_12lead/{golden}/pearson"], atol=5e-4)
    rmse_mv = np.sqrt(np.square(made.signal - recorded).mean(axis=1))
    np.testing.assert_allclose(rmse_mv, figures[f"median_removed/vcg_to_12lead/{golden}/rmse"], atol=5e-4)
    if method == "dower":
        samples = made.signal[:, figures["sample_idx"]]
        np.testing.assert_allclose(samples, figures["dower_12lead_sample"], atol=1e-5)


@pytest.mark.parametrize("method", ["kors", "inverse_dower"])
def test_a_vectorcardiogram_of_a_real_record_is_as_near_as_the_golden_figures_say(heart, method):
    made = vectorcardiogram(of(heart, STANDARD_LEADS), method)
    figures = case("kors", "matrices_and_s0010_re")
    found = [np.corrcoef(row, heart[name])[0, 1] for name, row in zip(XYZ, made.signal, strict=True)]
    np.testing.assert_allclose(found, figures[f"median_removed/12lead_to_vcg/{method}/pearson"], atol=1e-4)
    if method == "kors":
        np.testing.assert_allclose(made.signal[:, figures["sample_idx"]], figures["kors_xyz_sample"], atol=1e-5)


def test_twelve_leads_of_three_have_rank_three_and_obey_einthoven_and_goldberger(heart):
    made = twelve_leads(of(heart, XYZ))
    size = np.linalg.svd(made.signal.astype(np.float64), compute_uv=False)
    assert size[2] > 1e-2 * size[0]
    assert size[3] < 1e-5 * size[0]
    lead = dict(zip(made.leads, made.signal, strict=True))
    for name, (a, b) in LIMB.items():
        np.testing.assert_allclose(lead[name], a * lead["I"] + b * lead["II"], atol=1e-6)
    assert made.leads == STANDARD_LEADS
    assert "derived_from_xyz" in made.defects


def test_the_leads_are_taken_by_name_whatever_their_order(heart):
    np.testing.assert_array_equal(twelve_leads(of(heart, ("Z", "X", "Y"))).signal, twelve_leads(of(heart, XYZ)).signal)


def test_a_z_upside_down_is_doubted_and_turned_only_when_asked(heart):
    xyz = np.stack([heart[name] for name in XYZ])
    upside_down = record(xyz * [[1], [1], [-1]])
    assert "z_polarity_suspect" not in twelve_leads(record(xyz)).defects
    assert "z_polarity_suspect" in twelve_leads(upside_down).defects
    turned = twelve_leads(upside_down, flip_z=True)
    np.testing.assert_array_equal(turned.signal, twelve_leads(record(xyz)).signal)
    assert {"z_flipped", "derived_from_xyz"} == set(turned.defects)


@pytest.mark.parametrize("xyz", [np.zeros((3, 5000)), np.ones((3, 3)), np.random.default_rng(0).normal(size=(3, 200))])
def test_the_sign_of_z_is_not_doubted_without_beats(xyz):
    assert z_looks_flipped(xyz, 1000.0) in (True, False)
    assert not z_looks_flipped(np.zeros((3, 10)), 1000.0)


@pytest.mark.parametrize("leads", [("X", "Y"), ("X",), ("Y", "Z")])
def test_fewer_than_three_axes_are_refused(leads):
    with pytest.raises(ItemError) as caught:
        twelve_leads(record(np.ones((len(leads), 10)), leads))
    assert caught.value.code == "lead_missing"


def test_an_axis_with_a_gap_leaves_no_lead(heart):
    xyz = np.stack([heart[name] for name in XYZ])
    xyz[1, 7] = np.nan
    assert not twelve_leads(record(xyz)).lead_valid.any()


def test_a_record_with_limb_or_chest_leads_is_no_vectorcardiogram(heart):
    assert is_xyz(of(heart, XYZ))
    assert is_xyz(of(heart, ("X", "Y")))
    assert not is_xyz(of(heart, (*XYZ, "II")))
    assert not is_xyz(of(heart, STANDARD_LEADS))
    with pytest.raises(ItemError, match="V6"):
        vectorcardiogram(of(heart, STANDARD_LEADS[:11]))


def test_the_simulator_s_montage_has_the_same_matrix():
    """It may not import ours: its ECGs are what ours are tried on."""
    from ecgecho.simulate import ecg

    np.testing.assert_array_equal(ecg.DOWER, DOWER)
