"""A moving dipole, projected to 12 leads, or seen in Frank's three. Dipole (3, L) -> leads (12, L), mV.

Frank axes: X to the left, Y down, Z to the back. A beat is a sum of Gaussian bumps, each a wave front with a direction:
conduction, hypertrophy, infarct, pacing and poor function change fronts as textbooks say. Repolarisation after an abnormal
activation follows from the ventricular gradient (the QRST area, Wilson 1934, does not depend on the order of activation), which
gives bundle branch block, paced and ectopic beats the T waves they have in every lead.

`draw_body` is what a person's chest does to every ECG, `draw_electro` how the heart conducts on one day, `record` and `frank`
what the amplifier stores. `difficulty` sets scatter against effect: how much of the heart the ECG tells.

Source: Dower's matrix, dipole -> I, II, V1-V6 (Dower 1968); the other limb leads follow from I and II.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ecgecho.simulate.heart import F64, Heart
from ecgecho.simulate.noise import FRANK, Artefact, draw_events, electrode_noise, hold, listed
from ecgecho.simulate.rhythm import ATRIAL, PACED, SINUS, VENTRICULAR, Beats, draw_beats

__all__ = ["Beats", "Body", "Electro", "Recording", "draw_beats", "draw_body", "axes_deg", "draw_electro", "frank", "record"]

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
MONTAGE = np.concatenate([np.array([[-1.0, 1, 0], [-1, 0, 1]]), np.full((6, 3), -1 / 3)])
MONTAGE = np.concatenate([MONTAGE, np.concatenate([np.zeros((2, 6)), np.eye(6)])], axis=1).astype(np.float32)
"""Electrodes RA, LA, LL, V1-V6 (9) -> I, II, V1-V6 (8)."""

TRAITS = (
    "qrs", "pr", "qt", "axis", "voltage", "t_size", "t_turn", "strain", "st", "back", "septal", "scar", "p_left", "p_right",
    "block", "ectopic", "fibrillation",
)  # fmt: skip
"""What bodies differ in, in standard deviations."""
DAY_SHARE = 0.15
"""Share of a trait's variance that differs between two ECGs of one person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What one person brings to every ECG: where electrodes lie and how this chest and heart deviate from the average."""

    placement: F64
    """(6, 3) of V1-V6, added to their rows of Dower's matrix; `weights` scales it."""
    traits: F64
    """(17,) unit normal, see `TRAITS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Electro:
    """How one heart conducts on one day: what a recording, its measurements and its report have in common."""

    qrs_ms: float
    """Of the own beats, or of the paced ones in a paced rhythm."""
    pr_ms: float
    """0 without P waves."""
    p_ms: float
    qtc_ms: float
    """Bazett."""
    axis_deg: float
    """Frontal axis of the QRS as conducted without a block; `axes_deg` has what a machine measures."""
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
    """Size of the initial forces that an infarct takes away; small ones leave no Q wave."""
    block: float
    """0 normal conduction to 1 complete bundle branch block."""
    p_terminal: float
    """Left atrial part of the P wave beyond the usual, mV."""
    p_right: float
    """Right atrial part beyond the usual, mV."""
    right: float
    """Right ventricular forces, mV: R in V1."""
    ectopic_ms: float
    """QRS of ventricular ectopic beats."""
    ectopic_left: bool
    """They arise in the left ventricle (positive in V1), else in the right outflow tract."""
    fibrillation_mv: float
    """0 unless the atria fibrillate."""
    fibrillation_hz: float
    electrodes: F64
    """(6, 3) added to the precordial rows of Dower's matrix on this day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What the amplifier stores."""

    signal_mv: F32
    """(C, L)."""
    leads: tuple[str, ...]
    fs_hz: int
    artefacts: tuple[Artefact, ...]


def draw_body(rng: np.random.Generator) -> Body:
    """A chest: the heart's turn in it, electrodes too high or too low, each a little off its place."""
    angle = math.radians(12.0 * rng.normal())
    turned = DOWER[2:].copy()
    turned[:, 0] = math.cos(angle) * DOWER[2:, 0] - math.sin(angle) * DOWER[2:, 2]
    turned[:, 2] = math.sin(angle) * DOWER[2:, 0] + math.cos(angle) * DOWER[2:, 2]
    # V1 and V2 are put an interspace too high more often than too low (Rajaganeshan 2008).
    height = np.array([1.0, 1.0, 0.7, 0.4, 0.3, 0.3]) * (0.10 * rng.normal() - 0.04)
    placement = turned - DOWER[2:] + 0.05 * rng.normal(size=(6, 3))
    placement[:, 1] += height
    return Body(placement=placement, traits=rng.normal(size=len(TRAITS)))


def draw_electro(heart: Heart, body: Body, rng: np.random.Generator, *, difficulty: float = 0.5) -> Electro:
    """The electrical side of a heart on one day, in a body that stays the same.

    `difficulty` 0: the ECG tells nearly everything of the left ventricle; 1: little. It weighs the effect of the heart's state
    against the scatter between bodies and leaves rhythm and rate alone.
    """
    assert 0 <= difficulty <= 1
    effect, scatter = weights(difficulty)
    today = math.sqrt(1 - DAY_SHARE) * body.traits + math.sqrt(DAY_SHARE) * rng.normal(size=len(TRAITS))
    unit = {name: scatter * float(value) for name, value in zip(TRAITS, today, strict=True)}
    fresh = rng.normal(size=(6, 3))

    severity = effect * heart.severity
    thick = effect * max(heart.wall_mm - 11.0, 0.0)
    bulk = effect * math.log(heart.mass_g / heart.bsa_m2 / (85 if heart.sex == "M" else 72))
    bmi = heart.weight_kg / (heart.height_cm / 100) ** 2
    load = effect * max(heart.rvsp_mmhg - 40.0, 0.0)
    blocked = heart.conduction in ("lbbb", "rbbb") and heart.rhythm != "paced"
    block = float(np.clip(0.25 + 0.9 * effect + 0.2 * unit["block"], 0.25, 1.0)) if blocked else 0.0

    qrs = 90 + 4 * (heart.sex == "M") + 9 * unit["qrs"] + 5 * severity + 0.5 * thick
    widened = {"lbbb": 50.0, "rbbb": 40.0}.get(heart.conduction, 0.0) * block + (62 if heart.rhythm == "paced" else 0)
    qrs = float(np.clip(qrs + widened, 70, 205))
    strain = max(effect * (0.11 * (heart.wall_mm - 13.0) + 0.3 * max(heart.aortic_stenosis - 1, 0)) + 0.4 * unit["strain"], 0.0)
    strain *= heart.wall_mm > 12
    turn = abs(22 + 20 * unit["t_turn"] + 30 * severity) + 95 * min(strain, 1.2)
    pr = 152 + 0.2 * (heart.age - 40) + 17 * unit["pr"] + 4 * severity
    first_degree = heart.conduction == "first_degree"
    if first_degree:
        pr = 240 + 18 * unit["pr"]
    atrium = effect * max(math.log(heart.la_ml / heart.bsa_m2 / 28), 0.0)
    fine = math.exp(0.35 * unit["fibrillation"])
    return Electro(
        qrs_ms=qrs,
        pr_ms=float(np.clip(pr, 208 if first_degree else 115, 320 if first_degree else 204)) if heart.atrium_beats else 0.0,
        p_ms=float(np.clip(100 + 6 * unit["p_left"] + 22 * atrium, 75, 150)),
        qtc_ms=float(
            np.clip(
                412 + 8 * (heart.sex == "F") + 17 * unit["qt"] + 8 * severity + 0.4 * max(qrs - 100, 0),
                360,
                560,
            )
        ),
        axis_deg=float(
            np.clip(
                42 - 0.35 * (heart.age - 60) - 0.8 * (bmi - 27) + 22 * unit["axis"] - 10 * severity - 1.2 * thick + 0.9 * load,
                -80,
                125,
            )
        ),
        voltage=float(
            np.clip(
                math.exp(
                    0.23 * unit["voltage"]
                    + 0.45 * bulk
                    - 0.05 * severity
                    - 0.012 * (bmi - 27)
                    - 0.002 * (heart.age - 60)
                    - 0.08 * (heart.sex == "F")
                ),
                0.4,
                3.0,
            )
        ),
        t_amplitude_mv=float(
            np.clip(
                0.33 * math.exp(0.3 * unit["t_size"] - 0.2 * severity - 0.12 * (heart.sex == "F")) * (1 + 0.3 * strain), 0.05, 0.8
            )
        ),
        t_turn_deg=float(np.clip(turn, 0, 185)),
        st_mv=float(-0.12 * min(strain, 1.5) - 0.015 * severity + 0.015 * unit["st"]),
        posterior=0.16 * severity + 0.16 * unit["back"],
        septal=float(np.clip(1 + 0.36 * unit["septal"] - 0.15 * severity, 0, 2)),
        infarct=float(np.clip(effect * heart.infarct_size * (1.2 + 0.35 * unit["scar"]), 0, 1.4)),
        block=block,
        p_terminal=float(max(0.02 * unit["p_left"] + 0.11 * atrium, -0.03)),
        p_right=float(max(0.012 * unit["p_right"] + 0.003 * load, -0.02)),
        right=float(np.clip(0.025 * (load - 15) * (1 + 0.3 * unit["p_right"]), 0, 0.8)),
        ectopic_ms=float(np.clip(148 + 11 * unit["ectopic"], 125, 190)),
        ectopic_left=bool(body.traits[TRAITS.index("ectopic")] + body.traits[TRAITS.index("axis")] > 0),
        fibrillation_mv=0.0 if heart.atrium_beats else 0.045 * fine,
        fibrillation_hz=float(np.clip(6.0 + 0.8 * unit["fibrillation"], 4.5, 8.5)),
        electrodes=scatter * (body.placement + 0.015 * fresh),
    )


def weights(difficulty: float) -> tuple[float, float]:
    """Factors on the effect of the heart and on the scatter between bodies, chosen by benchmarks/simulated_difficulty.py."""
    return 1.6 - 1.5 * difficulty, 0.8 + 0.5 * difficulty


def record(
    heart: Heart, electro: Electro, beats: Beats, rng: np.random.Generator, *, fs_hz: int = FS_HZ, duration_s: float = DURATION_S
) -> Recording:
    """12 leads in the order `LEADS`, as an amplifier sees them."""
    assert duration_s == beats.duration_s, "beats of another recording"
    events = draw_events(rng, duration_s=duration_s, frank=False)
    vcg = dipole(heart, electro, beats, rng, fs_hz=fs_hz)
    noise = MONTAGE @ electrode_noise(events, beats, rng, fs_hz, frank=False)
    signal = derive(project(vcg, electro.electrodes) + noise)
    hold(signal, LEADS, listed(events), fs_hz, rng)
    return Recording(signal_mv=signal, leads=LEADS, fs_hz=fs_hz, artefacts=listed(events))


def frank(
    heart: Heart, electro: Electro, beats: Beats, rng: np.random.Generator, *, fs_hz: int = 1000, duration_s: float = 1200.0
) -> Recording:
    """Frank's leads X, Y, Z: the dipole itself. Twenty minutes by default."""
    assert duration_s == beats.duration_s, "beats of another recording"
    events = draw_events(rng, duration_s=duration_s, frank=True)
    signal = dipole(heart, electro, beats, rng, fs_hz=fs_hz)
    signal += electrode_noise(events, beats, rng, fs_hz, frank=True)
    hold(signal, FRANK, listed(events), fs_hz, rng)
    return Recording(signal_mv=signal, leads=FRANK, fs_hz=fs_hz, artefacts=listed(events))


def axes_deg(heart: Heart, electro: Electro) -> tuple[float, float, float]:
    """Frontal axes of P, QRS and T of the own beats, from areas in I and aVF, as a machine measures them. P: NaN without one."""
    own = PACED if heart.rhythm == "paced" else SINUS
    beat = _Activation.of(heart, electro, own)
    p_waves = np.array(_p_bumps(electro, own, 0.0)).reshape(-1, 6)
    vectors = (_area(p_waves), _area(beat.fixed[len(p_waves) :]), beat.t)
    first, second = DOWER[:2] @ np.stack(vectors, axis=1)
    p, qrs, t = np.degrees(np.arctan2((second - first / 2) / math.sqrt(0.75), first))
    return float(p) if len(p_waves) else math.nan, float(qrs), float(t)


def project(vcg: F32, electrodes: F64) -> F32:
    """(3, L) -> the eight independent leads I, II, V1-V6 (8, L)."""
    matrix = DOWER.copy()
    matrix[2:] += electrodes
    return np.asarray(matrix.astype(np.float32) @ vcg)


def derive(independent: F32) -> F32:
    """(8, L) I, II, V1-V6 -> (12, L) in the order `LEADS`, by Einthoven's and Goldberger's identities."""
    first, second = independent[0], independent[1]
    limb = [first, second, second - first, -(first + second) / 2, second - first / 2, first - second / 2]
    return np.concatenate([np.stack(limb), independent[2:]]).astype(np.float32, copy=False)


def dipole(heart: Heart, electro: Electro, beats: Beats, rng: np.random.Generator, *, fs_hz: int = FS_HZ) -> F32:
    """The dipole (3, L) of all beats. QT follows the mean of recent RR intervals, breathing turns and scales the QRS."""
    length = round(beats.duration_s * fs_hz)
    vcg = np.zeros((3, length), dtype=np.float32)
    times = beats.times_s
    breath = beats.breath(times)
    gain = 1 + 0.04 * breath + 0.012 * rng.normal(size=len(times))
    turn = np.radians(4.0 * breath + 0.8 * rng.normal(size=len(times)))
    before, after = int(0.46 * fs_hz), int(0.80 * fs_hz)
    kinds = {kind: _Activation.of(heart, electro, kind) for kind in sorted(set(beats.kinds.tolist()))}
    rr = np.diff(times, prepend=2 * times[0] - times[1])
    recent = float(np.median(rr))
    for i, time in enumerate(times):
        recent += 0.15 * (min(max(rr[i], 0.4), 1.6) - recent)
        centre = round(time * fs_hz)
        first, last = max(centre - before, 0), min(centre + after, length)
        if first >= last:
            continue
        bumps = kinds[int(beats.kinds[i])].bumps(electro, recent).astype(np.float32)
        t = (np.arange(first, last) / fs_hz - time).astype(np.float32)
        wave = t[None] - bumps[:, :1]
        wave /= np.where(wave < 0, bumps[:, 1:2], bumps[:, 2:3])
        wave *= wave
        wave *= np.float32(-0.5)
        cos, sin = math.cos(turn[i]), math.sin(turn[i])
        moved = gain[i] * np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        vcg[:, first:last] += (moved @ bumps[:, 3:].T).astype(np.float32) @ np.exp(wave, out=wave)
    if electro.fibrillation_mv:
        vcg += _fibrillation(electro, length, fs_hz, rng)
    return vcg


Bump = tuple[float, float, float, float, float, float]
"""Centre s, width before s, width after s, x, y, z in mV."""
T_WIDTHS_S = (0.052, 0.033)
ST_WIDTH_S = 0.045
USUAL_QRS_S = 0.095
_ROOT = math.sqrt(math.pi / 2)
_FRONTAL = np.linalg.inv(np.array([DOWER[0, :2], DOWER[1, :2] - DOWER[0, :2] / 2]))
"""Leads I and aVF -> X and Y."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Activation:
    """The fronts of one kind of beat, R at 0, and the repolarisation that follows."""

    fixed: F64
    """(n, 6) bumps of P and QRS."""
    qrs_ms: float
    qrs_end_s: float
    t: F64
    """(3,) mV."""
    st: F64
    """(3,) mV."""

    @classmethod
    def of(cls, heart: Heart, electro: Electro, kind: int) -> _Activation:
        own = electro.block if kind in (SINUS, ATRIAL) else 0.0
        qrs_ms = electro.ectopic_ms if kind == VENTRICULAR else electro.qrs_ms
        fronts = _fronts(heart, electro, kind)
        onset = min(bump[0] - 2 * bump[1] for bump in fronts)
        usual = np.array(_normal(electro, min(electro.qrs_ms / 1000, USUAL_QRS_S)))
        # What the abnormal order of activation adds to the area of the QRS, ST and T give back, most of it.
        back = np.zeros(3) if kind in (SINUS, ATRIAL) and not own else _area(usual) - _area(np.array(fronts))
        scars, scar_t = _scar(heart, electro)
        if kind in (SINUS, ATRIAL):
            fronts = fronts + scars
        return cls(
            fixed=np.array(_p_bumps(electro, kind, onset) + fronts),
            qrs_ms=qrs_ms,
            qrs_end_s=onset + qrs_ms / 1000,
            t=_t_vector(electro) + scar_t + (0.8 if kind == VENTRICULAR else 0.65) * back / (_ROOT * sum(T_WIDTHS_S)),
            st=electro.st_mv * np.array([0.95, 0.25, 0.60]) + 0.20 * back / (2 * _ROOT * ST_WIDTH_S),
        )

    def bumps(self, electro: Electro, rr_s: float) -> F64:
        """(n, 6) all bumps of a beat after RR intervals of about `rr_s`."""
        own_ms = electro.qtc_ms + 0.4 * max(self.qrs_ms - electro.qrs_ms, 0)
        end = self.qrs_end_s - self.qrs_ms / 1000 + own_ms / 1000 * math.sqrt(min(max(rr_s, 0.4), 1.5))
        peak = max(end - 2.2 * T_WIDTHS_S[1], self.qrs_end_s + 0.06)
        middle = (self.qrs_end_s + peak) / 2 - 0.01
        return np.concatenate(
            [
                self.fixed,
                np.concatenate([[peak, *T_WIDTHS_S], self.t])[None],
                np.concatenate([[middle, ST_WIDTH_S, ST_WIDTH_S], self.st])[None],
            ]
        )


def _bump(centre_s: float, width_s: float, amplitude: float, direction: tuple[float, float, float], after_s: float = 0.0) -> Bump:
    norm = amplitude / math.sqrt(sum(part * part for part in direction))
    return centre_s, width_s, after_s or width_s, direction[0] * norm, direction[1] * norm, direction[2] * norm


def _frontal(axis_deg: float, z: float) -> tuple[float, float, float]:
    """The direction whose axis, read from I and aVF (2 / sqrt(3) as large as a bipolar lead), is `axis_deg`."""
    x, y = _FRONTAL @ (math.cos(math.radians(axis_deg)), math.sin(math.radians(axis_deg)) * math.sqrt(0.75))
    norm = math.hypot(x, y)
    return x / norm, y / norm, z


def _area(bumps: F64) -> F64:
    """(3,) mV s."""
    return np.asarray(_ROOT * (bumps[:, 1] + bumps[:, 2]) @ bumps[:, 3:])


def _normal(electro: Electro, qrs_s: float) -> list[Bump]:
    """Septum to the right and front, apex and front wall, free wall to the left, base to the back."""
    axis, volt, back = electro.axis_deg, electro.voltage, electro.posterior

    def at(part: float, width: float, amplitude: float, direction: tuple[float, float, float]) -> Bump:
        return _bump((part - 0.45) * qrs_s, width * qrs_s, amplitude, direction)

    bumps = [
        at(0.125, 0.080, 0.24 * electro.septal, (-0.5, -0.1, -0.85)),
        at(0.320, 0.092, 0.55 * volt, _frontal(axis + 5, -0.75 + 1.3 * back)),
        at(0.470, 0.112, 1.15 * volt, _frontal(axis + 5, 0.20 + back)),
        at(0.690, 0.120, 0.55 * volt, (-0.12, -0.12, 0.95)),
    ]
    if electro.right:
        bumps.append(at(0.55, 0.13, electro.right, (-0.55, 0.25, -0.8)))
    return bumps


def _fronts(heart: Heart, electro: Electro, kind: int) -> list[Bump]:
    axis, volt, back, block = electro.axis_deg, electro.voltage, electro.posterior, electro.block

    def at(part: float, width: float, amplitude: float, direction: tuple[float, float, float]) -> Bump:
        return _bump((part - 0.45) * wide, width * wide, amplitude, direction)

    if kind == VENTRICULAR:
        wide = electro.ectopic_ms / 1000
        if electro.ectopic_left:
            return [at(0.36, 0.13, 1.5, (-0.30, -0.65, -0.70)), at(0.66, 0.12, 1.0, (-0.45, -0.75, -0.40))]
        return [at(0.36, 0.13, 1.5, (0.25, 0.85, 0.55)), at(0.66, 0.12, 1.1, (0.20, 0.65, 0.85))]
    wide = electro.qrs_ms / 1000
    if kind == PACED:
        return [
            _bump(-0.47 * wide, 0.0012, 0.7, (0.3, -0.8, 0.5)),
            at(0.15, 0.08, 0.30 * volt, (0.5, -0.4, 0.2)),
            at(0.36, 0.125, 1.00 * volt, (0.35, -0.80, 0.65)),
            at(0.64, 0.135, 0.95 * volt, (0.25, -0.60, 0.85)),
        ]
    if heart.conduction == "lbbb" and block:
        normal = _normal(electro, wide - 0.050 * block)
        scaled: list[Bump] = [(*bump[:3], *((1 - block) * part for part in bump[3:])) for bump in normal]  # type: ignore[misc]
        return [
            *scaled,
            at(0.10, 0.06, 0.22 * volt * block, (0.5, 0.1, -0.3)),
            at(0.30, 0.110, 1.05 * volt * block, _frontal(axis + 5, 0.75 + back)),
            at(0.50, 0.125, 0.62 * volt * block, _frontal(axis, 0.95 + back)),
            at(0.69, 0.115, 1.05 * volt * block, _frontal(axis - 12, 0.90 + back)),
        ]
    if heart.conduction == "rbbb" and block:
        early = wide - 0.040 * block
        late = -0.45 * early + wide - 0.032
        return [*_normal(electro, early), _bump(late, 0.016, 0.75 * block, (-0.70, 0.0, -0.70))]
    return _normal(electro, wide)


def _scar(heart: Heart, electro: Electro) -> tuple[list[Bump], F64]:
    """The early forces an infarct takes away, and its T wave (3,), which points away from it."""
    scale, size = min(electro.qrs_ms / 1000, 0.11), electro.infarct
    if heart.infarct == "anterior":
        return [_bump(-0.14 * scale, 0.15 * scale, 0.95 * size, (-0.40, 0.05, 0.95))], 0.42 * size * np.array([-0.35, 0.0, 0.95])
    if heart.infarct == "inferior":
        return [_bump(-0.19 * scale, 0.15 * scale, 0.95 * size, (0.15, -0.95, -0.1))], 0.32 * size * np.array([0.1, -0.95, 0.0])
    if heart.infarct == "lateral":
        return [_bump(-0.20 * scale, 0.15 * scale, 0.85 * size, (-0.95, 0.1, -0.3))], 0.32 * size * np.array([-0.95, 0.0, -0.1])
    return [], np.zeros(3)


def _p_bumps(electro: Electro, kind: int, onset_s: float) -> list[Bump]:
    """Right atrium, then left; from a lower place when ectopic; none before ventricular ectopic beats."""
    if electro.pr_ms == 0 or kind == VENTRICULAR:
        return []
    p_s = electro.p_ms / 1000
    if kind == ATRIAL:
        start = onset_s - 0.85 * electro.pr_ms / 1000
        return [_bump(start + 0.5 * p_s, 0.22 * p_s, 0.10, (-0.2, -0.85, 0.35))]
    start = onset_s - electro.pr_ms / 1000
    return [
        _bump(start + 0.35 * p_s, 0.17 * p_s, 0.125 + electro.p_right, _frontal(63, -0.30)),
        _bump(start + 0.67 * p_s, 0.17 * p_s, 0.075 + electro.p_terminal, _frontal(40, 0.70)),
    ]


def _t_vector(electro: Electro) -> F64:
    """(3,) mV of the T wave after normal activation."""
    turn = math.radians(electro.t_turn_deg)
    x, y, _ = _frontal(0.6 * electro.axis_deg + 18, 0.0)
    # The T wave swings from left over the front to the right as repolarisation goes wrong: V5 and V6 invert, V1 and V2 do not.
    left = 0.80 * math.cos(turn)
    vector = np.array([left * x, left * y + 0.04, -0.42 - 0.15 * math.sin(turn)])
    return np.asarray(electro.t_amplitude_mv * vector / np.linalg.norm(vector))


def _fibrillation(electro: Electro, length: int, fs_hz: int, rng: np.random.Generator) -> F32:
    """(3, L) fibrillatory waves: a sawtooth whose rate and size wander, largest in V1. Source: Stridh and Sornmo 2001."""
    t = np.arange(length) / fs_hz
    first, second, third, fourth = 2 * math.pi * rng.random(4)
    phase = 2 * math.pi * electro.fibrillation_hz * t + 1.8 * np.sin(2 * math.pi * 0.23 * t + first) + np.sin(1.9 * t + second)
    size = 1 + 0.35 * np.sin(2 * math.pi * 0.31 * t + third)
    wave = np.sin(phase) + 0.45 * np.sin(2 * phase + 0.6) + 0.2 * np.sin(3 * phase + 1.2)
    other = np.sin(0.83 * phase + fourth)
    here, there = np.array([[0.1], [0.5], [-0.9]]), np.array([[0.3], [-0.2], [0.2]])
    return np.asarray(electro.fibrillation_mv * size * (here * wave + there * other), dtype=np.float32)
