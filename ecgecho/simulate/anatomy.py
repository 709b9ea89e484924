"""The heart in three dimensions while it beats: every view of the echo is a slice of this one body.

The left ventricle tapers from the mitral ring to the apex around a straight long axis. Its cross-section is made of four
quarter ellipses between the lateral, anterior, septal and inferior wall, so the area is pi / 4 times the product of the two
diameters, and discs from two views at right angles give the volume exactly. Each wall moves inward by its own share; how far
the heart has contracted is solved at each time so that the volume is the labelled one.

Axes, cm: z from the apex of the cavity to the mitral ring; theta around it, 0 lateral, 90 anterior, 180 septal, 270 inferior.
Shapes: S levels from apex to base, T times. Sources: proportions after Lang et al. 2015 (ASE/EACVI chamber quantification);
territories after the 17 segments of Cerqueira et al. 2002; the septal flash of left bundle branch block after Parsai et al. 2009.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ecgecho.simulate.heart import F64, Heart

WALLS = ("lateral", "anterior", "septal", "inferior")
"""At theta 0, 90, 180, 270 degrees."""
LEVELS = np.linspace(0.0, 1.0, 41) ** 1.6
"""Share of the long axis from the apex."""
PAPILLARY_DEG = (-28.0, 215.0)
LONGITUDINAL = 0.25
"""Length goes with the volume to this power: an LVEF of 60 % shortens the long axis by a fifth."""

_NECK = 0.62  # share of the long axis from apex to the widest place
_RV_MIDDLE_DEG, _RV_HALF_DEG = 165.0, 88.0


def profile(s: F64) -> F64:
    """Radius along the axis, 1 at its widest; s = 0 at the apex, 1 at the mitral ring."""
    apical = np.sqrt(np.clip(1 - np.square((_NECK - s) / _NECK), 0, 1))
    basal = 1 - 0.24 * np.square((s - _NECK) / (1 - _NECK))
    return np.asarray(np.where(s < _NECK, apical, basal))


PROFILE = profile(LEVELS)
FILL = float(np.trapezoid(np.square(PROFILE), LEVELS))
"""Of the cylinder around it, the share that the cavity fills."""


class Moment(NamedTuple):
    """The heart at one time, cm."""

    volume_ml: float
    length: float
    radii: F64
    """(4, S) of the cavity towards each wall."""
    mitral: float
    """0 closed, 1 wide open."""
    aortic: float
    emptied: float
    """Share of the stroke volume that has left: 0 end-diastole, 1 end-systole."""


class Beat(NamedTuple):
    """Where the valves and volumes are at T times; see `beat_at`."""

    emptied: F64
    mitral: F64
    aortic: F64
    flash: F64
    """Inward motion of the septum that a bundle branch block adds, share of the radius; negative outward."""


class Anatomy:
    """Sizes of one heart that do not change within a beat, and its shape at any time."""

    def __init__(self, heart: Heart) -> None:
        self.heart = heart
        self.radius_ed = heart.lvedd_mm / 20
        self.length_ed = heart.edv_ml / (math.pi * FILL * self.radius_ed**2)
        self.scar = _territory(heart) * heart.infarct_size
        """(4, S): share of the inward motion that is lost."""
        self.moves = 1 - self.scar
        self.fixed_roof = self.length_ed + 1.75 * (heart.la_ml / 27) ** (1 / 3)
        self.rv = heart.rv_mm / 10
        self.delayed = heart.rhythm == "paced" or heart.conduction == "lbbb"

    def moments(self, volume_ml: F64, time: F64, beats: F64) -> list[Moment]:
        """The heart at T times; `volume_ml` (T,) is kept to."""
        beat = beat_at(time, beats, kick=self.heart.atrium_beats)
        flash = beat.flash if self.delayed else np.zeros_like(beat.flash)
        return [
            self.moment(float(v), mitral=float(m), aortic=float(a), emptied=float(e), flash=float(f))
            for v, m, a, e, f in zip(volume_ml, beat.mitral, beat.aortic, beat.emptied, flash, strict=True)
        ]

    def moment(
        self, volume_ml: float, *, mitral: float = 0.0, aortic: float = 0.0, emptied: float = 0.0, flash: float = 0.0
    ) -> Moment:
        """The shape that holds `volume_ml`.

        With the radii R p(s) (1 - c m_k(s)) and the septal one less R p(s) g, the volume is a quadratic in the contraction c:
        L R^2 pi / 4 * integral of p^2 (2 - g - c (m_septal + m_lateral)) (2 - c (m_anterior + m_inferior)) ds.
        """
        length = self.length_ed * (volume_ml / self.heart.edv_ml) ** LONGITUDINAL
        lateral, anterior, septal, inferior = self.moves
        a, b = lateral + septal, anterior + inferior
        square = np.square(PROFILE)
        flash *= 1 - float(np.mean(self.scar[2]))
        over = 2.0 - flash
        two = float(np.trapezoid(square * a * b, LEVELS))
        one = -float(np.trapezoid(square * (over * b + 2 * a), LEVELS))
        zero = 2 * over * FILL - volume_ml / (length * math.pi / 4 * self.radius_ed**2)
        c = (-one - math.sqrt(max(one * one - 4 * two * zero, 0.0))) / (2 * two)
        radii = self.radius_ed * PROFILE * (1 - c * self.moves)
        radii[2] -= self.radius_ed * PROFILE * flash
        return Moment(volume_ml, length, radii, mitral, aortic, emptied)

    def radius(self, now: Moment, theta_deg: float) -> F64:
        """(S,) of the cavity towards theta."""
        turn = (theta_deg % 360) / 90
        k = int(turn) % 4
        first, second = now.radii[k], now.radii[(k + 1) % 4]
        angle = math.radians(90 * (turn - int(turn)))
        return np.asarray(first * second / np.maximum(np.hypot(second * math.cos(angle), first * math.sin(angle)), 1e-9))

    def contour(self, now: Moment, z: float, thetas_deg: F64) -> F64:
        """Radius of the cavity at the height z above the apex, towards each theta."""
        level = np.array([np.interp(z / now.length, LEVELS, wall) for wall in now.radii])
        turn = (thetas_deg % 360) / 90
        k = turn.astype(int) % 4
        first, second = level[k], level[(k + 1) % 4]
        angle = np.radians(90 * (turn - np.floor(turn)))
        return np.asarray(first * second / np.hypot(second * np.cos(angle), first * np.sin(angle)))

    def thickness(self, now: Moment, theta_deg: float) -> F64:
        """(S,) of the wall towards theta: muscle keeps its volume, so a shorter, narrower cavity has thicker walls."""
        inner = self.radius(now, theta_deg)
        rest = self.radius_ed * PROFILE
        wall = self._wall_ed(theta_deg)
        outer = np.sqrt(np.square(inner) + self.length_ed / now.length * (np.square(rest + wall) - np.square(rest)))
        return np.asarray(np.minimum(outer - inner, 1.9 * wall))

    def scar_towards(self, theta_deg: float) -> F64:
        """(S,) share of the wall that is scar."""
        turn = (theta_deg % 360) / 90
        k = int(turn) % 4
        share = turn - int(turn)
        return np.asarray((1 - share) * self.scar[k] + share * self.scar[(k + 1) % 4])

    def _wall_ed(self, theta_deg: float) -> F64:
        septal = 0.5 + 0.5 * math.cos(math.radians(theta_deg - 157))
        wall = (self.heart.posterior_mm + (self.heart.septal_mm - self.heart.posterior_mm) * septal) / 10
        thin = 1 - 0.35 * np.exp(-np.square(LEVELS / 0.12))
        return np.asarray(wall * thin * (1 - 0.3 * self.scar_towards(theta_deg)))

    def atrium(self, now: Moment) -> tuple[float, float, float]:
        """Left atrium: z of its centre, half its length, half its width. Its roof stays, its floor moves with the ring."""
        share = 0.5 if self.heart.atrium_beats else 0.68
        volume = self.heart.la_ml * (share + (1 - share) * now.emptied)
        floor = now.length - 0.5
        half = (self.fixed_roof + 1.1 - floor) / 2
        return floor + half, half, math.sqrt(volume * 3 / (4 * math.pi * half))

    def right_ventricle(self, now: Moment, theta_deg: float) -> F64:
        """(S,) depth of the right ventricle's cavity outside the septum towards theta; 0 where there is none."""
        away = (theta_deg - _RV_MIDDLE_DEG + 180) % 360 - 180
        if abs(away) >= _RV_HALF_DEG:
            return np.zeros_like(LEVELS)
        around = math.cos(math.radians(90 * away / _RV_HALF_DEG)) ** 0.8
        along = np.sin(np.clip((LEVELS - 0.12) / 0.74, 0, 1) * math.pi / 2) ** 0.9
        weak = 0.6 if self.heart.rvsp_mmhg > 55 else 1.0
        return np.asarray(self.rv * (1 - 0.28 * weak * now.emptied) * around * along)


def beat_at(time: F64, beats: F64, *, kick: bool) -> Beat:
    """What the valves and volumes do at each time (T,) between R waves; `kick` = the atrium contracts.

    Isovolumic phases are flat for longer than a frame, so a cine always shows both extremes.
    """
    index = np.clip(np.searchsorted(beats, time, side="right") - 1, 0, len(beats) - 2)
    rr = np.diff(beats)[index]
    t = time - beats[index]
    systole = np.sqrt(np.clip(rr, 0.4, 1.6))
    out = _step(t, 0.05 * systole, 0.33 * systole)
    early = 0.72 if kick else 1.0
    end = np.minimum(0.62 * systole, 0.94 * rr)
    late = np.minimum(rr - 0.16, 0.9 * rr)
    back = early * _step(t, 0.41 * systole, end) + (1 - early) * _step(t, late, rr - 0.01)
    e_wave = _bump(t, 0.39 * systole, np.minimum(0.60 * systole, 0.93 * rr))
    a_wave = _bump(t, late - 0.02, rr + 0.01) if kick else np.zeros_like(t)
    between = 0.22 * ((t > 0.5 * systole) & (t < rr - 0.03))
    aortic = _step(t, 0.045 * systole, 0.085 * systole) * (1 - _step(t, 0.31 * systole, 0.345 * systole))
    flash = 0.10 * _bump(t, 0.0, 0.10 * systole) - 0.13 * _bump(t, 0.10 * systole, 0.33 * systole)
    return Beat(
        emptied=np.asarray(out - back),
        mitral=np.asarray(np.maximum(np.maximum(e_wave, 0.6 * a_wave), between)),
        aortic=np.asarray(aortic),
        flash=np.asarray(flash),
    )


def emptied(time: F64, beats: F64, *, kick: bool) -> F64:
    """Share of the stroke volume that has left the ventricle at each time: 0 at the R wave, 1 at end-systole."""
    return beat_at(time, beats, kick=kick).emptied


def _step(t: F64, start: F64, stop: F64) -> F64:
    x = np.clip((t - start) / np.maximum(stop - start, 1e-3), 0, 1)
    return np.asarray(x * x * (3 - 2 * x))


def _bump(t: F64, start: F64 | float, stop: F64) -> F64:
    x = np.clip((t - start) / np.maximum(stop - start, 1e-3), 0, 1)
    return np.asarray(np.square(np.sin(math.pi * x)))


def _territory(heart: Heart) -> F64:
    """(4, S) how much each level of each wall belongs to the infarct's vessel."""
    s = LEVELS
    apex = 1 - _step(s, np.asarray(0.25), np.asarray(0.5))
    apical = 1 - _step(s, np.asarray(0.55), np.asarray(0.85))
    basal = _step(s, np.asarray(0.15), np.asarray(0.4))
    none = np.zeros_like(s)
    walls = {
        "none": (none, none, none, none),
        "anterior": (0.35 * apex, apical, 0.9 * apical, 0.5 * apex),
        "inferior": (0.15 * basal, none, 0.25 * basal, basal),
        "lateral": (basal, 0.2 * basal, none, 0.15 * basal),
    }
    return np.array(walls[heart.infarct])
