"""Laws of the simulated ECG."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ecgecho.simulate import Heart, draw_beats, draw_electro, draw_heart, record, stream
from ecgecho.simulate.ecg import FS_HZ, LEADS, derive, dipole, project


def heart(**more: object) -> Heart:
    plain = Heart(
        age=60,
        sex="F",
        lvef=62.0,
        edv_ml=110.0,
        septal_mm=9.0,
        posterior_mm=9.0,
        hr_bpm=70.0,
        rhythm="sinus",
        conduction="normal",
        infarct="none",
    )
    return dataclasses.replace(plain, **more)  # type: ignore[arg-type]


def lead(signal: np.ndarray, name: str) -> np.ndarray:
    return signal[LEADS.index(name)]


def test_einthoven_and_goldberger_hold_exactly_before_noise() -> None:
    sick = draw_heart(stream(1, 4, "heart"), enrich=True)
    electro = draw_electro(sick, stream(1, 4, "text"))
    times = draw_beats(sick, stream(1, 4, "ecg")).times_s
    clean = derive(project(dipole(sick, electro, times, np.ones(len(times))), electro.electrodes))
    one, two, three = (lead(clean, name) for name in ("I", "II", "III"))
    assert np.array_equal(three, two - one)
    assert np.array_equal(lead(clean, "aVR"), -(one + two) / 2)
    assert np.array_equal(lead(clean, "aVL"), one - two / 2)
    assert np.array_equal(lead(clean, "aVF"), two - one / 2)
    assert np.abs(clean).max() > 0.3


def test_the_tallest_wave_of_a_beat_lies_at_its_r_time() -> None:
    plain = heart()
    rng = stream(2, 0, "ecg")
    beats = draw_beats(plain, rng)
    signal = lead(record(plain, draw_electro(plain, stream(2, 0, "text")), beats, rng), "II")
    for time in beats.inside_s[1:-1]:
        window = signal[round((time - 0.2) * FS_HZ) : round((time + 0.2) * FS_HZ)]
        assert abs(int(window.argmax()) / FS_HZ - 0.2) < 0.03


def test_fibrillation_is_irregular_and_has_no_p_wave() -> None:
    spread = {}
    for rhythm in ("sinus", "af"):
        beats = draw_beats(heart(rhythm=rhythm), stream(3, 0, "ecg"))
        spread[rhythm] = np.diff(beats.times_s).std() / np.diff(beats.times_s).mean()
    assert spread["sinus"] < 0.06 < spread["af"]
    assert draw_electro(heart(rhythm="af"), stream(3, 0, "text")).pr_ms == 0


@pytest.mark.parametrize("conduction", ["lbbb", "rbbb"])
def test_a_bundle_branch_block_widens_the_qrs(conduction: str) -> None:
    for item in range(5):
        rng, plain = stream(4, item, "text"), stream(4, item, "text")
        assert draw_electro(heart(conduction=conduction), rng).qrs_ms > draw_electro(heart(), plain).qrs_ms + 15


def test_lbbb_is_negative_in_v1_and_positive_in_v6_and_rbbb_ends_positive_in_v1() -> None:
    signals = {}
    for conduction in ("lbbb", "rbbb"):
        blocked = heart(conduction=conduction)
        rng = stream(5, 1, "ecg")
        beats = draw_beats(blocked, rng)
        signal = record(blocked, draw_electro(blocked, stream(5, 1, "text")), beats, rng)
        at = [round(t * FS_HZ) for t in beats.inside_s[1:-1]]
        signals[conduction] = {
            name: np.mean([lead(signal, name)[i - 40 : i + 60] for i in at], axis=0)
            - np.mean([lead(signal, name)[i - 55 : i - 40] for i in at])
            for name in ("V1", "V6")
        }
    assert -signals["lbbb"]["V1"].min() > 2 * signals["lbbb"]["V1"].max()
    assert signals["lbbb"]["V6"].max() > -2 * signals["lbbb"]["V6"].min()
    assert signals["rbbb"]["V1"][60:90].max() > 0.2


def test_thick_walls_raise_voltage_on_average_but_not_in_every_heart() -> None:
    thick = np.array([draw_electro(heart(septal_mm=18.0), stream(6, i, "text")).voltage for i in range(80)])
    thin = np.array([draw_electro(heart(), stream(6, 100 + i, "text")).voltage for i in range(80)])
    assert thick.mean() > 1.2 * thin.mean()
    assert thick.min() < thin.max()
