"""A moving dipole, projected to 12 leads. VCG (3, L) -> leads (12, L), mV.

Frank axes: X to the left, Y down, Z to the back. Every wave is a Gaussian bump of a direction; conduction, hypertrophy, infarct
and poor function act on bumps as textbooks say, with scatter, so that the ECG tells only part of the heart.

Source: Dower's matrix, VCG -> I, II, V1-V6 (Dower 1968); the other limb leads follow from I and II.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ecgecho.simulate.heart import F64, Heart, r_times

F32 = npt.NDArray[np.float32]

FS_HZ = 500
DURATION_S = 10
LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
"""The lead order of MIMIC-IV-ECG: aVF before aVL."""

DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Electro:
    """How one heart conducts: what a recording, its measurements and its report have in common."""

    qrs_ms: float
    pr_ms: float
    """0 without P waves."""
    qtc_ms: float
    axis_deg: float
    """Frontal axis of the QRS."""
    voltage: float
    """Factor on the QRS; 1 is usual."""
    t_amplitude_mv: float
    t_turn_deg: float
    """How far the T wave turns away from the QRS: beyond 90 it is inverted laterally."""
    st_mv: float
    """Lateral ST level."""
    posterior: float
    """Shift of the QRS to the back: poor R progression."""
    septal: float
    infarct: float
    """Size of the initial forces that an infarct takes away."""
    p_terminal: float
    electrodes: F64
    """(6, 3) added to the precordial rows of Dower's matrix: where this body's electrodes lie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beats:
    """When the heart beat during a recording: what tables need without the signal."""

    hr_bpm: float
    times_s: F64
    """R times, with one before and one after the recording."""

    @property
    def inside_s(self) -> F64:
        return self.times_s[(self.times_s >= 0) & (self.times_s < DURATION_S)]


def draw_electro(heart: Heart, rng: np.random.Generator) -> Electro:
    """The electrical side of a heart; LVEF and wall act with scatter of the size of their effect."""
    severity = heart.severity
    thick = max(heart.wall_mm - 10.0, 0.0)
    qrs = rng.normal(91, 9) + 6 * severity + 0.6 * thick
    qrs += {"lbbb": 48.0 + 7 * rng.normal(), "rbbb": 42.0 + 6 * rng.normal()}.get(heart.conduction, 0.0)
    voltage = math.exp(0.25 * rng.normal()) * (max(heart.wall_mm, 7.0) / 10.0) ** 0.62 * (1 - 0.06 * severity)
    strain = max(rng.normal(0.10 * (heart.wall_mm - 13.0), 0.45), 0.0) if heart.wall_mm > 12 else 0.0
    turn = abs(rng.normal(24, 24)) + 27 * severity * abs(rng.normal(1, 0.6)) + 95 * min(strain, 1.2)
    turn += {"lbbb": 130.0, "rbbb": 20.0}.get(heart.conduction, 0.0)
    pr = {"first_degree": rng.normal(238, 18)}.get(heart.conduction, rng.normal(160, 17) + 6 * severity)
    return Electro(
        qrs_ms=float(np.clip(qrs, 72, 190)),
        pr_ms=0.0 if heart.rhythm == "af" else float(np.clip(pr, 208 if heart.conduction == "first_degree" else 115, 320)),
        qtc_ms=float(np.clip(rng.normal(417, 21) + 10 * severity + 0.4 * max(qrs - 100, 0), 370, 540)),
        axis_deg=float(
            np.clip(
                rng.normal(42 - 0.35 * (heart.age - 60), 24) - 12 * severity - 1.5 * thick - 15 * (heart.conduction == "lbbb"),
                -75,
                110,
            )
        ),
        voltage=float(np.clip(voltage, 0.45, 3.2)),
        t_amplitude_mv=float(
            np.clip(0.34 * math.exp(0.3 * rng.normal()) * (1 - 0.2 * severity) * (1 + 0.35 * strain), 0.06, 0.8)
        ),
        t_turn_deg=float(np.clip(turn, 0, 185)),
        st_mv=float(-0.11 * min(strain, 1.5) - 0.02 * severity + 0.015 * rng.normal()),
        posterior=float(0.20 * severity * abs(rng.normal(1, 0.6)) + 0.16 * rng.normal()),
        septal=float(np.clip(rng.normal(1, 0.38) - 0.18 * severity, 0, 2)),
        infarct=0.0 if heart.infarct == "none" else float(np.clip(rng.normal(0.75, 0.3), 0.05, 1.4)),
        p_terminal=float(max(rng.normal(0.055, 0.05) + 0.03 * severity, 0.0)),
        electrodes=rng.normal(0, 0.07, (6, 3)),
    )


def project(vcg: F64, electrodes: F64) -> F64:
    """(3, L) -> the eight independent leads I, II, V1-V6 (8, L)."""
    matrix = DOWER.copy()
    matrix[2:] += electrodes
    return matrix @ vcg


def derive(independent: F64) -> F64:
    """(8, L) I, II, V1-V6 -> (12, L) in the order `LEADS`, by Einthoven's and Goldberger's identities."""
    first, second = independent[0], independent[1]
    limb = [first, second, second - first, -(first + second) / 2, second - first / 2, first - second / 2]
    return np.concatenate([np.stack(limb), independent[2:]])


def draw_beats(heart: Heart, rng: np.random.Generator) -> Beats:
    """The beats of one recording; its rate differs a little from the heart's."""
    hr_bpm = float(np.clip(heart.hr_bpm * rng.normal(1, 0.06), 40, 150))
    return Beats(hr_bpm=hr_bpm, times_s=r_times(heart, rng, hr_bpm=hr_bpm, start_s=0.0, stop_s=float(DURATION_S)))


def record(heart: Heart, electro: Electro, beats: Beats, rng: np.random.Generator) -> F32:
    """(12, L) mV in the order `LEADS`: 10 s at 500 Hz, as an amplifier sees it.

    Noise is put on the eight independent leads before the others are derived from them.
    """
    respiration_hz = float(rng.uniform(0.18, 0.33))
    breath = 2 * math.pi * (respiration_hz * beats.times_s + rng.random())
    gain = 1 + 0.05 * np.sin(breath) + 0.015 * rng.normal(size=len(beats.times_s))
    independent = project(dipole(heart, electro, beats.times_s, gain), electro.electrodes) + noise(rng, respiration_hz)
    return derive(independent).astype(np.float32)


def dipole(heart: Heart, electro: Electro, times: F64, gain: F64) -> F64:
    """The dipole (3, L) of beats with R at `times`; each RR interval sets its own QT."""
    length = FS_HZ * DURATION_S
    vcg = np.zeros((3, length))
    rr = np.diff(times, append=times[-1] + (times[-1] - times[-2]))
    before, after = int(0.46 * FS_HZ), int(0.72 * FS_HZ)
    qrs = _qrs_bumps(heart, electro)
    for i, time in enumerate(times):
        previous = rr[i - 1] if i else rr[0]
        qt_s = electro.qtc_ms / 1000 * float(np.clip(previous, 0.4, 1.5)) ** 0.5
        bumps = np.array(qrs + _p_bumps(electro) + _t_bumps(heart, electro, qt_s))
        centre = round(time * FS_HZ)
        first, last = max(centre - before, 0), min(centre + after, length)
        if first >= last:
            continue
        t = np.arange(first, last) / FS_HZ - time
        offset = t[None] - bumps[:, :1]
        width = np.where(offset < 0, bumps[:, 1:2], bumps[:, 2:3])
        vcg[:, first:last] += gain[i] * (bumps[:, 3:].T @ np.exp(-0.5 * np.square(offset / width)))
    if heart.rhythm == "af":
        vcg += _fibrillation(times)
    return vcg


def noise(rng: np.random.Generator, respiration_hz: float) -> F64:
    """(8, L): baseline wander in step with breathing, mains, muscle and amplifier noise."""
    length = FS_HZ * DURATION_S
    t = np.arange(length) / FS_HZ
    amplitude = 0.03 * np.exp(0.6 * rng.normal(size=(8, 1)))
    slow = np.stack([np.sin(2 * math.pi * (hz * t + rng.random())) for hz in (respiration_hz, 0.07, 0.41)])
    wander = amplitude * (rng.normal(size=(8, 3)) @ slow)
    mains = 0.004 * rng.exponential(size=(8, 1)) * np.sin(2 * math.pi * 60 * t + 2 * math.pi * rng.random())
    white = rng.standard_normal((8, length + 4), dtype=np.float32)
    muscle = (white[:, :-4] + white[:, 1:-3] + white[:, 2:-2] + white[:, 3:-1] + white[:, 4:]) / math.sqrt(5)
    return np.asarray(wander + mains + 0.012 * math.exp(0.5 * rng.normal()) * muscle, dtype=np.float64)


Bump = tuple[float, float, float, float, float, float]
"""centre s, width before s, width after s, x, y, z in mV."""


def _bump(centre_s: float, width_s: float, amplitude: float, direction: tuple[float, float, float], after_s: float = 0.0) -> Bump:
    norm = amplitude / math.sqrt(sum(part * part for part in direction))
    return centre_s, width_s, after_s or width_s, direction[0] * norm, direction[1] * norm, direction[2] * norm


def _frontal(axis_deg: float, z: float) -> tuple[float, float, float]:
    return math.cos(math.radians(axis_deg)), math.sin(math.radians(axis_deg)), z


def _qrs_bumps(heart: Heart, electro: Electro) -> list[Bump]:
    scale = electro.qrs_ms / 92.0 if heart.conduction in ("normal", "first_degree") else 1.0
    axis, volt, back = electro.axis_deg, electro.voltage, electro.posterior
    if heart.conduction == "lbbb":
        slow = electro.qrs_ms / 142.0
        bumps = [
            _bump(-0.020 * slow, 0.014 * slow, 0.40 * volt, _frontal(axis + 10, 0.45 + back)),
            _bump(0.012 * slow, 0.017 * slow, 0.95 * volt, _frontal(axis, 0.65 + back)),
            _bump(0.058 * slow, 0.018 * slow, 0.90 * volt, _frontal(axis - 20, 0.80 + back)),
        ]
    else:
        bumps = [
            _bump(-0.030 * scale, 0.0075 * scale, 0.26 * electro.septal, (-0.5, -0.1, -0.85)),
            _bump(-0.012 * scale, 0.0085 * scale, 0.55 * volt, _frontal(axis + 5, -0.75 + 1.3 * back)),
            _bump(0.002 * scale, 0.0100 * scale, 1.15 * volt, _frontal(axis, 0.20 + back)),
            _bump(0.026 * scale, 0.0105 * scale, 0.55 * volt, (-0.15, -0.40, 0.95)),
        ]
        if heart.conduction == "rbbb":
            late = electro.qrs_ms / 1000 - 0.070
            bumps.append(_bump(max(late, 0.052), 0.0155, 0.62, (-0.75, 0.05, -0.66)))
    if heart.infarct == "anterior":
        bumps.append(_bump(-0.012 * scale, 0.013 * scale, 0.75 * electro.infarct, (-0.35, 0.05, 0.95)))
    elif heart.infarct == "inferior":
        bumps.append(_bump(-0.018 * scale, 0.012 * scale, 0.55 * electro.infarct, (0.15, -0.95, -0.1)))
    return bumps


def _p_bumps(electro: Electro) -> list[Bump]:
    if electro.pr_ms == 0:
        return []
    centre = -0.040 - electro.pr_ms / 1000 + 0.050
    return [
        _bump(centre - 0.012, 0.017, 0.11, (0.45, 0.85, -0.35)),
        _bump(centre + 0.022, 0.017, 0.05 + electro.p_terminal, (0.6, 0.5, 0.65)),
    ]


def _t_bumps(heart: Heart, electro: Electro, qt_s: float) -> list[Bump]:
    turn = math.radians(electro.t_turn_deg)
    axis = math.radians(0.6 * electro.axis_deg + 12)
    # The T wave swings from left over the front to the right as repolarisation goes wrong: V5 and V6 invert, V1 and V2 do not.
    left = 0.80 * math.cos(turn)
    front = -0.45 - 0.15 * math.sin(turn) + (0.75 if heart.conduction == "rbbb" else 0.0)
    direction = (left * math.cos(axis), 0.8 * left * math.sin(axis) + 0.12, front)
    if heart.conduction == "lbbb":
        direction = (-0.6, -0.1, -0.75)
    end = qt_s - 0.040
    bumps = [_bump(end - 0.075, 0.052, electro.t_amplitude_mv, direction, after_s=0.033)]
    middle = (electro.qrs_ms / 1000 - 0.04 + end - 0.1) / 2
    if heart.infarct == "anterior":
        bumps.append(_bump(end - 0.09, 0.05, 0.20 * electro.infarct, (-0.2, 0.0, 0.9), after_s=0.035))
    bumps.append((middle, 0.055, 0.055, electro.st_mv, 0.3 * electro.st_mv, -0.25 * electro.st_mv))
    return bumps


def _fibrillation(times: F64) -> F64:
    """(3, L) fibrillatory waves; their phase comes from the R times, so no draw is spent on hearts in sinus rhythm."""
    t = np.arange(FS_HZ * DURATION_S) / FS_HZ
    phase = float(times.sum() % 1.0)
    wave = np.sin(2 * math.pi * (5.6 * t + phase) + 1.6 * np.sin(2 * math.pi * 0.9 * t)) + 0.6 * np.sin(
        2 * math.pi * (7.3 * t + 3 * phase)
    )
    return np.array([[0.1], [0.5], [-0.85]]) * 0.045 * wave
