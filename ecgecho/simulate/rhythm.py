"""When a heart beats during a recording, and what kind of beat each one is.

Sinus beats follow breathing, a slow wave of about 0.1 Hz and a drift over minutes; atrial fibrillation has no pattern but its
mean; a pacemaker keeps its rate. Ectopic beats come early: a ventricular one leaves the sinus node alone, so that the next beat
is on time (compensatory pause), an atrial one resets it.

Source of the spectrum: Task Force of the ESC and NASPE, heart rate variability, 1996 (respiratory, 0.1 Hz and very slow parts).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ecgecho.simulate.heart import F64, Heart

SINUS, ATRIAL, VENTRICULAR, PACED = range(4)
"""Kinds of beats; beats that fibrillating atria conduct are `SINUS` too."""

U8s = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beats:
    """When the heart beat during a recording: what tables need without the signal."""

    hr_bpm: float
    """Mean rate over the recording."""
    times_s: F64
    """(n,) R times, with one before and one after the recording."""
    kinds: U8s
    """(n,) see `SINUS` to `PACED`."""
    duration_s: float
    respiration_hz: float
    respiration_phase: float
    """0 to 1."""

    @property
    def inside_s(self) -> F64:
        return self.times_s[self._inside]

    @property
    def inside_kinds(self) -> U8s:
        return self.kinds[self._inside]

    @property
    def _inside(self) -> npt.NDArray[np.bool_]:
        return (self.times_s >= 0) & (self.times_s < self.duration_s)

    def breath(self, time_s: F64) -> F64:
        """-1 (out) to 1 (in); its rate wanders a little."""
        wander = 0.9 * np.sin(2 * math.pi * 0.011 * time_s)
        return np.asarray(np.sin(2 * math.pi * (self.respiration_hz * time_s + self.respiration_phase) + wander))


def draw_beats(heart: Heart, rng: np.random.Generator, *, duration_s: float = 10.0) -> Beats:
    """The beats of one recording; its rate differs from the heart's, as between a visit and another day."""
    hr_bpm = float(np.clip(heart.hr_bpm * math.exp(0.09 * rng.normal()), 40, 160))
    if heart.rhythm == "paced":
        hr_bpm = heart.hr_bpm
    breath = (float(rng.uniform(0.18, 0.33)), float(rng.random()))
    times, kinds = _schedule(heart, hr_bpm, breath, duration_s, rng)
    return Beats(
        hr_bpm=float(60.0 * (len(times) - 1) / (times[-1] - times[0])),
        times_s=times,
        kinds=kinds,
        duration_s=duration_s,
        respiration_hz=breath[0],
        respiration_phase=breath[1],
    )


def _schedule(
    heart: Heart, hr_bpm: float, breath: tuple[float, float], stop_s: float, rng: np.random.Generator
) -> tuple[F64, U8s]:
    """Times and kinds of the beats from the last one at or before 0 to the first one at or after `stop_s`."""
    mean_rr = 60.0 / hr_bpm
    most = math.ceil(1.6 * (stop_s + 4) / mean_rr) + 8
    jitter, early, chance = rng.normal(size=most), rng.uniform(0.55, 0.78, most), rng.random(most)
    phase = 2 * math.pi * rng.random(2)
    # Breathing moves young hearts more; a pacemaker and fibrillating atria do not follow it.
    sinus = heart.rhythm == "sinus"
    breathing = 0.055 * math.exp(-0.022 * (heart.age - 40)) if sinus else 0.0
    slow, drift, chaos = {"sinus": (0.015, 0.03, 0.010), "af": (0.0, 0.03, 0.19), "paced": (0.0, 0.0, 0.0015)}[heart.rhythm]
    # Only a beat of the own rhythm can be followed by an ectopic one.
    often = 0.0
    if heart.ectopy == "ventricular" or (heart.ectopy == "atrial" and sinus):
        often = heart.ectopy_share / (1 - heart.ectopy_share)
    ectopic = VENTRICULAR if heart.ectopy == "ventricular" else ATRIAL
    own = PACED if heart.rhythm == "paced" else SINUS
    time = -float(rng.random()) * mean_rr
    times, kinds = [time], [own]
    for i in range(most):
        if times[-1] >= stop_s:
            break
        factor = 1 + breathing * math.sin(2 * math.pi * (breath[0] * time + breath[1]))
        factor += slow * math.sin(2 * math.pi * 0.1 * time + phase[0]) + drift * math.sin(2 * math.pi * time / 540 + phase[1])
        rr = max(mean_rr * min(max(factor + chaos * jitter[i], 0.55), 1.8), 0.30)
        if chance[i] < often:
            times.append(time + max(float(early[i]) * rr, 0.28))
            kinds.append(ectopic)
            compensates = ectopic == VENTRICULAR and sinus
            time = time + 2 * rr if compensates else times[-1] + 1.05 * rr
        else:
            time += rr
        times.append(time)
        kinds.append(own)
    first = int(np.searchsorted(times, 0.0, side="right")) - 1
    last = int(np.searchsorted(times, stop_s, side="left")) + 1
    return np.array(times[first:last]), np.array(kinds[first:last], dtype=np.uint8)
