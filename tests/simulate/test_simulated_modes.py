"""Laws of the pictures that are no plain cines: their regions say what they are, and what they show is the heart's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ecgecho.simulate.heart import Heart, draw_heart, stream
from ecgecho.simulate.measurements import read
from ecgecho.simulate.modes import COLOUR_FLOW, FLAT, KINDS, MOTION, SECOND, SPECTRUM, Modal, picture, shot_of


def heart(**more: object) -> Heart:
    plain = dataclasses.replace(
        draw_heart(stream(5, 0, "heart"), enrich=False),
        rhythm="sinus",
        conduction="normal",
        infarct="none",
        lvef=60.0,
        edv_ml=120.0,
    )
    return dataclasses.replace(plain, **more)  # type: ignore[arg-type]


def some(who: Heart, kind: str, start: str, *, size: tuple[int, int] = (300, 400)) -> Modal:
    """The first picture whose words start so."""
    for item in range(60):
        made = picture(who, kind, stream(5, 0, "echo", item), size=size)  # type: ignore[arg-type]
        if made.what.startswith(start):
            return made
    raise AssertionError(f"no {start} among 60")


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_has_regions_inside_it_with_units_and_is_the_same_for_the_same_stream(kind: str) -> None:
    made, again = (picture(heart(), kind, stream(5, 0, "echo", 3), size=(240, 320)) for _ in range(2))  # type: ignore[arg-type]
    assert np.array_equal(made.frames, again.frames)
    assert made.frames.shape[1:] == (240, 320, 3)
    assert made.regions
    for x0, y0, x1, y1, _, _, units_x, units_y, delta_x, delta_y in made.regions:
        assert 0 <= x0 < x1 < 320
        assert 0 <= y0 < y1 < 240
        assert units_x
        assert units_y
        assert delta_x > 0
        assert delta_y > 0


def test_the_regions_tell_the_kinds_apart() -> None:
    formats = {kind: {(r[4], r[5]) for r in picture(heart(), kind, stream(5, 0, "echo", 4)).regions} for kind in KINDS}
    assert {shape for shape, _ in formats["still"]} == {FLAT}
    assert SPECTRUM in {shape for shape, _ in formats["spectral"]}
    assert MOTION in {shape for shape, _ in formats["m_mode"]}
    assert COLOUR_FLOW in {content for _, content in formats["colour"]}
    moving = {kind: len(picture(heart(), kind, stream(5, 0, "echo", 4)).frames) > 1 for kind in KINDS}
    assert moving == {"still": False, "spectral": False, "colour": True, "m_mode": False}


def test_the_caliper_of_a_still_measures_the_diameter_of_the_heart() -> None:
    for edv in (80.0, 200.0):
        who = heart(edv_ml=edv)
        found = float(picture(who, "still", stream(5, 1, "echo")).what.split()[-2])
        assert abs(found * 10 / who.lvedd_mm - 1) < 0.03


def envelope_m_s(made: Modal) -> float:
    """Highest velocity that is drawn in the spectral region, read as a reader would: where the trace ends, below or above 0."""
    x0, y0, x1, y1, *_, delta_y = next(region for region in made.regions if region[4] == SPECTRUM)
    strip = made.frames[0, y0 : y1 + 1, x0 : x1 + 1, 1].astype(float)
    lit = np.convolve(strip.max(axis=1) if strip.shape[1] < 2 else np.quantile(strip, 0.93, axis=1), np.ones(3) / 3, "same") > 130
    baseline = int(np.argmax(strip.mean(axis=1)))
    rows = np.flatnonzero(lit)
    return float(np.abs(rows - baseline).max() * delta_y / 100)


def test_the_aortic_jet_is_as_fast_as_the_stenosis_is_severe() -> None:
    peaks = [float(some(heart(aortic_stenosis=grade), "spectral", "spectral CW aortic").what.split()[-2]) for grade in range(4)]
    assert peaks[0] < 2.0 <= peaks[1] < 3.0 <= peaks[2] < 4.0 <= peaks[3]
    made = some(heart(aortic_stenosis=3), "spectral", "spectral CW aortic")
    assert abs(envelope_m_s(made) - float(made.what.split()[-2])) < 0.8


def test_the_tricuspid_jet_tells_the_right_ventricular_pressure() -> None:
    for pressure in (28.0, 60.0):
        made = some(heart(rvsp_mmhg=pressure), "spectral", "spectral CW tricuspid")
        velocity = float(made.what.split()[-2])
        assert abs(4 * velocity**2 + 8 - pressure) < 0.25 * pressure


def test_fibrillation_has_no_second_wave_of_filling() -> None:
    """Away from the first wave, the trace above the baseline is empty."""
    lit = {}
    for rhythm in ("sinus", "af"):
        made = some(heart(rhythm=rhythm, hr_bpm=60.0), "spectral", "spectral PW mitral")
        x0, y0, x1, y1, *_ = next(region for region in made.regions if region[4] == SPECTRUM)
        strip = made.frames[0, y0 : y0 + (y1 - y0) // 2, x0 : x1 + 1, 1]
        lit[rhythm] = float((strip.max(axis=0) > 140).mean())
    assert lit["af"] < 0.85 * lit["sinus"]


def coloured(made: Modal) -> np.ndarray:
    x0, y0, x1, y1, *_ = next(region for region in made.regions if region[5] == COLOUR_FLOW)
    return (np.ptp(made.frames[:, y0 : y1 + 1, x0 : x1 + 1].astype(int), axis=3) > 60).mean(axis=(1, 2))


def test_a_leaking_valve_paints_more_colour() -> None:
    shares = [coloured(some(heart(mitral_regurgitation=grade), "colour", "colour a4c")).mean() for grade in (0, 3)]
    assert 0.002 < shares[0] < shares[1]


def test_time_runs_along_a_strip_as_its_region_says() -> None:
    for kind, shape in (("m_mode", MOTION), ("spectral", SPECTRUM)):
        made = picture(heart(), kind, stream(5, 0, "echo", 4))  # type: ignore[arg-type]
        region = next(region for region in made.regions if region[4] == shape)
        assert region[6] == SECOND
        assert 2.5 < (region[2] - region[0]) * region[8] < 4.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(2048, 64), (64, 600)])
def test_a_picture_of_any_shape_can_be_drawn(kind: str, size: tuple[int, int]) -> None:
    made = picture(heart(), kind, stream(5, 0, "echo", 3), size=size)  # type: ignore[arg-type]
    assert made.frames.shape[1:3] == size


@pytest.mark.parametrize("kind", KINDS)
def test_the_shot_that_tables_take_has_the_rate_and_the_frames_of_the_picture(kind: str) -> None:
    rates = set()
    for item in range(3):
        shot = shot_of(heart(), kind, stream(5, 0, "echo", item), size=(120, 160))  # type: ignore[arg-type]
        made = picture(heart(), kind, stream(5, 0, "echo", item), size=(120, 160))  # type: ignore[arg-type]
        assert made.hr_bpm == shot.hr_bpm
        rates.add(made.hr_bpm)
        if kind == "colour":
            assert (len(made.frames), made.frame_time_ms) == (len(shot.volume_ml), shot.frame_time_ms)
    assert len(rates) == 3


def test_doppler_and_the_readers_measurements_have_the_same_mean_velocities() -> None:
    for change in ({"age": 60, "lvef": 25.0}, {"age": 85}, {"aortic_stenosis": 1}, {"aortic_stenosis": 3}, {"rvsp_mmhg": 50.0}):
        who = heart(**({"mitral_regurgitation": 0} | change))
        readings = [read(who, stream(6, i, "measurement")) for i in range(300)]
        for name, mean in (("e_m_s", who.e_velocity_m_s), ("a_m_s", who.a_velocity_m_s), ("av_m_s", who.aortic_velocity_m_s)):
            assert np.mean([getattr(reading, name) for reading in readings]) == pytest.approx(mean, rel=0.03)
        assert np.mean([reading.tr_mmhg for reading in readings]) == pytest.approx(4 * who.tr_velocity_m_s**2, rel=0.03)
        for start, mean in (
            ("spectral PW mitral", max(who.e_velocity_m_s, who.a_velocity_m_s)),
            ("spectral CW aortic", who.aortic_velocity_m_s),
            ("spectral CW tricuspid", who.tr_velocity_m_s),
        ):
            assert float(some(who, "spectral", start, size=(120, 160)).what.split()[-2]) == pytest.approx(mean, rel=0.2)
