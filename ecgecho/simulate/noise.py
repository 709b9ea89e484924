"""What electrodes and amplifier add to the heart's voltage: a low floor everywhere, and artefacts at recorded places.

Noise arises at an electrode and reaches every lead that uses it, so Einthoven's and Goldberger's identities hold with it. One
thing breaks them: an electrode that is off makes the amplifier hold a constant in the two bipolar leads of that electrode and in
its augmented lead (or in its one precordial lead), while the other leads go on as if it were there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ecgecho.simulate.heart import F64
from ecgecho.simulate.rhythm import Beats

F32 = npt.NDArray[np.float32]
Kind = Literal["baseline_wander", "mains", "muscle", "motion", "lead_off", "invalid"]

RATES: dict[Kind, float] = {
    "baseline_wander": 0.07,
    "mains": 0.05,
    "muscle": 0.07,
    "motion": 0.05,
    "lead_off": 0.007,
    "invalid": 0.013,
}
"""Artefacts expected in 10 s. Invalid: 1.3 % of MIMIC-IV-ECG's records have NaN samples; the others are ours."""

ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
SEEN = {
    "RA": ("I", "II", "aVR", "aVF", "aVL"),
    "LA": ("I", "III", "aVR", "aVF", "aVL"),
    "LL": ("II", "III", "aVR", "aVF", "aVL"),
}
"""Leads that carry at least half of an electrode's noise. V1-V6 carry a third through Wilson's terminal, which is not listed."""
HELD = {
    "RA": ("I", "II", "aVR"),
    "LA": ("I", "III", "aVL"),
    "LL": ("II", "III", "aVF"),
    "all": ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"),
}
"""Leads that are flat, or have no valid samples, while an electrode is off."""
LENGTHS_S: dict[Kind, tuple[float, float]] = {
    "baseline_wander": (2.0, 8.0),
    "mains": (2.0, 30.0),
    "muscle": (1.0, 6.0),
    "motion": (0.4, 1.5),
    "lead_off": (1.0, 25.0),
    "invalid": (0.5, 12.0),
}
FRANK = ("X", "Y", "Z")
"""Frank's leads have networks of electrodes; each is treated as one."""
MAINS_HZ = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """Something that is not the heart, in one lead."""

    kind: Kind
    lead: str
    start_s: float
    stop_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An artefact where it arises: at an electrode, at one of Frank's leads, or in the amplifier ("all")."""

    kind: Kind
    electrode: str
    start_s: float
    stop_s: float


def draw_artefacts(rng: np.random.Generator, *, duration_s: float = 10.0, frank: bool = False) -> tuple[Artefact, ...]:
    """What `record` (or `frank`) will report, from the same stream, without the signal: both draw this first."""
    return listed(draw_events(rng, duration_s=duration_s, frank=frank))


def draw_events(rng: np.random.Generator, *, duration_s: float, frank: bool) -> tuple[Event, ...]:
    """The artefacts of one recording, in order of time."""
    electrodes = FRANK if frank else ELECTRODES
    events = []
    for kind, rate in RATES.items():
        for _ in range(int(rng.poisson(rate * duration_s / 10))):
            electrode = electrodes[int(rng.integers(len(electrodes)))]
            shortest, longest = LENGTHS_S[kind]
            length = float(rng.uniform(shortest, longest))
            start = float(rng.uniform(-0.6 * min(length, duration_s), duration_s - 0.3))
            whole = rng.random() < 0.5
            if kind == "invalid" and whole and not frank:
                electrode = "all"
            first, last = max(start, 0.0), min(start + length, duration_s)
            events.append(Event(kind=kind, electrode=electrode, start_s=round(first, 3), stop_s=round(last, 3)))
    return tuple(sorted(events, key=lambda event: (event.start_s, event.stop_s, event.kind, event.electrode)))


def listed(events: tuple[Event, ...]) -> tuple[Artefact, ...]:
    """Each event once for every lead it is seen in."""
    return tuple(
        Artefact(kind=event.kind, lead=lead, start_s=event.start_s, stop_s=event.stop_s)
        for event in events
        for lead in (HELD if event.kind in ("lead_off", "invalid") else SEEN).get(event.electrode, (event.electrode,))
    )


def electrode_noise(events: tuple[Event, ...], beats: Beats, rng: np.random.Generator, fs_hz: int, frank: bool) -> F32:
    """(9, L) at `ELECTRODES`, or (3, L) at `FRANK`, mV: the events on a floor of wander with breathing, mains and muscle."""
    names = FRANK if frank else ELECTRODES
    length = round(beats.duration_s * fs_hz)
    t = np.arange(length) / fs_hz
    slow = np.stack([beats.breath(t), *(np.sin(2 * math.pi * (hz * t + rng.random())) for hz in (0.07, 0.41))])
    amplitude = 0.016 * np.exp(0.5 * rng.normal(size=(len(names), 1)))
    mains = np.sin(2 * math.pi * MAINS_HZ * t)
    weights = np.concatenate(
        [amplitude * rng.normal(size=(len(names), 3)), 0.003 * rng.exponential(size=(len(names), 1))], axis=1
    )
    total = weights.astype(np.float32) @ np.concatenate([slow, mains[None]]).astype(np.float32)
    level = 0.0055 * math.exp(0.35 * rng.normal())
    total += np.float32(level) * _rough(rng, (len(names), length))
    for event in events:
        if event.kind in ("lead_off", "invalid"):
            continue
        first, last = round(event.start_s * fs_hz), round(event.stop_s * fs_hz)
        total[names.index(event.electrode), first:last] += _wave(event.kind, last - first, fs_hz, rng)
    return np.asarray(total, dtype=np.float32)


def hold(signal: F32, leads: tuple[str, ...], artefacts: tuple[Artefact, ...], fs_hz: int, rng: np.random.Generator) -> None:
    """Make leads flat, in place, where their electrode is off: mostly at 0, else at a rail of the amplifier."""
    for artefact in artefacts:
        if artefact.kind == "lead_off":
            rail = float(np.float32(rng.choice([0.0, 0.0, 0.0, 4.0, -4.0])))
            signal[leads.index(artefact.lead), round(artefact.start_s * fs_hz) : round(artefact.stop_s * fs_hz)] = rail


def _wave(kind: Kind, length: int, fs_hz: int, rng: np.random.Generator) -> F64:
    """(length,) mV of one event, from and to 0 over a tenth of a second."""
    t = np.arange(length) / fs_hz
    edge = np.clip(np.minimum(t, t[::-1]) / 0.1, 0, 1)
    if kind == "baseline_wander":
        wave = np.sin(2 * math.pi * (rng.uniform(0.15, 0.6) * t + rng.random()))
        return np.asarray(edge * rng.uniform(0.3, 1.1) * (wave + 0.4 * np.sin(2 * math.pi * (0.11 * t + rng.random()))))
    if kind == "mains":
        phase = 2 * math.pi * MAINS_HZ * t
        return np.asarray(edge * rng.uniform(0.06, 0.25) * (np.sin(phase) + 0.25 * np.sin(3 * phase + 1.0)))
    if kind == "muscle":
        bursts = 0.6 + 0.4 * np.sin(2 * math.pi * (rng.uniform(0.3, 1.5) * t + rng.random()))
        return np.asarray(edge * rng.uniform(0.06, 0.16) * bursts * _rough(rng, (1, length))[0])
    jump = rng.choice([-1.0, 1.0]) * rng.uniform(0.6, 2.5)
    decay = np.exp(-t / rng.uniform(0.08, 0.35)) * np.cos(2 * math.pi * rng.uniform(0.5, 3.0) * t)
    return np.asarray(np.minimum(edge * 4, 1) * jump * decay)


def _rough(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    """Noise of unit variance, half as strong at a third of the sampling rate."""
    white = rng.standard_normal((shape[0], shape[1] + 1), dtype=np.float32)
    return np.asarray((white[:, :-1] + white[:, 1:]) * np.float32(math.sqrt(0.5)), dtype=np.float32)
