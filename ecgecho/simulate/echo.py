"""A beating left ventricle in a fan sector: frames (T, H, W, 3) with the masks and volumes they were drawn from.

The cavity is a solid of revolution about its long axis (half an ellipsoid that tapers to the mitral ring), so the disc method on
the drawn area of any view through that axis gives its volume. Lengths in cm from the apex of the sector: x right, y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from ecgecho.simulate.heart import F64, Heart, r_times
from ecgecho.types import U8, Bool

View = Literal["a4c", "plax"]
VIEWS: tuple[View, ...] = ("a4c", "plax")

HALF_ANGLE = math.radians(37.5)
SWEEP_S = 3.0
"""Time across the burned-in trace."""
SPAN_BEATS = 1.1
"""Mean beats in a cine."""
TRACE_RGB = (70, 225, 95)

_SHIFT = 4  # fractional bits of cv2's polygon coordinates
_NECK = 0.62  # share of the long axis from apex to the widest place
_S = np.linspace(0.0, 1.0, 41)
_POLAR = (384, 308)  # depth, angle from -90 to 90 degrees: wider than the fan, as moving tissue looks up beyond its edge

F32 = npt.NDArray[np.float32]


def profile(s: F64) -> F64:
    """Radius along the axis, 1 at its widest; s = 0 at the apex, 1 at the mitral ring."""
    apical = np.sqrt(np.clip(1 - np.square((_NECK - s) / _NECK), 0, 1))
    basal = 1 - 0.24 * np.square((s - _NECK) / (1 - _NECK))
    return np.asarray(np.where(s < _NECK, apical, basal))


_FILL = float(np.trapezoid(np.square(profile(np.linspace(0, 1, 2001))), np.linspace(0, 1, 2001)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Where the sector lies in the picture."""

    height: int
    width: int
    apex_x: float
    apex_y: float
    radius_px: float
    depth_cm: float

    @property
    def cm_per_px(self) -> float:
        return self.depth_cm / self.radius_px

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1, inclusive: the sector's bounding box, which is the region of the DICOM file."""
        half = self.radius_px * math.sin(HALF_ANGLE)
        return (
            max(math.floor(self.apex_x - half), 0),
            max(math.floor(self.apex_y), 0),
            min(math.ceil(self.apex_x + half), self.width - 1),
            min(math.ceil(self.apex_y + self.radius_px), self.height - 1),
        )

    def polygon(self) -> F64:
        """(P, 2) x, y of the sector's outline in pixels."""
        angle = np.linspace(-HALF_ANGLE, HALF_ANGLE, 25)
        arc = np.stack([self.apex_x + self.radius_px * np.sin(angle), self.apex_y + self.radius_px * np.cos(angle)], axis=1)
        return np.concatenate([[[self.apex_x, self.apex_y]], arc])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Where the heart lies in the view, cm."""

    apex: F64
    along: F64
    """Unit vector from the apex to the mitral ring."""
    across: F64
    """Unit vector from the septum to the other wall."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One clip before it is drawn: all that tables need."""

    view: View
    size: tuple[int, int]
    """Rows, columns."""
    frame_time_ms: float
    hr_bpm: float
    beats_s: F64
    """R times from the start of the clip; some lie before and after it."""
    volume_ml: F64
    """(T,)"""
    geometry: Geometry
    pose: Pose
    length_ed_cm: float

    @property
    def time_s(self) -> F64:
        return np.arange(len(self.volume_ml)) * self.frame_time_ms / 1000

    @property
    def inside_s(self) -> F64:
        """R times inside the clip."""
        return self.beats_s[(self.beats_s >= 0) & (self.beats_s < len(self.volume_ml) * self.frame_time_ms / 1000)]

    @property
    def axis_px(self) -> F64:
        """(2, 2): x, y of the apex and of a second point of the long axis."""
        origin = np.array([self.geometry.apex_x, self.geometry.apex_y])
        ends = np.stack([self.pose.apex, self.pose.apex + self.pose.along * self.length_ed_cm])
        return np.asarray(origin + ends / self.geometry.cm_per_px)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cine:
    """One clip with its truth."""

    shot: Shot
    frames: U8
    """(T, H, W, 3) RGB, annotations burned in."""
    masks: Bool
    """(T, H, W): the cavity as drawn."""


def cine(
    heart: Heart,
    view: View,
    rng: np.random.Generator,
    *,
    frames: int = 24,
    size: tuple[int, int] = (300, 400),
    annotate: bool = True,
) -> Cine:
    """One clip of a heart, drawn. The same stream gives the same bytes."""
    return draw(heart, shoot(heart, view, rng, frames=frames, size=size), rng, annotate=annotate)


def shoot(heart: Heart, view: View, rng: np.random.Generator, *, frames: int, size: tuple[int, int]) -> Shot:
    """Beats, volumes and place of one clip."""
    hr_bpm = float(np.clip(heart.hr_bpm * rng.normal(1, 0.05), 42, 140))
    frame_time_ms = round(float(np.clip(SPAN_BEATS * 60_000 / hr_bpm / frames, 12.5, 70.0)), 3)
    time = np.arange(frames) * frame_time_ms / 1000
    beats = r_times(heart, rng, hr_bpm=hr_bpm, start_s=0.0, stop_s=float(time[-1]) + 2 * SWEEP_S)
    if heart.rhythm == "af":
        # A long beat could push an extreme out of the cine; a triggered one starts on an R wave.
        beats = beats - beats[0] - 0.02 * float(rng.random())
    length_ed = 8.5 * (heart.edv_ml / 120) ** (1 / 3)
    geometry, pose = _place(heart, view, length_ed, rng, size)
    return Shot(
        view=view,
        size=size,
        frame_time_ms=frame_time_ms,
        hr_bpm=hr_bpm,
        beats_s=beats,
        volume_ml=heart.edv_ml - (heart.edv_ml - heart.esv_ml) * emptied(time, beats, kick=heart.rhythm == "sinus"),
        geometry=geometry,
        pose=pose,
        length_ed_cm=length_ed,
    )


def draw(heart: Heart, shot: Shot, rng: np.random.Generator, *, annotate: bool = True) -> Cine:
    """The pictures of a shot."""
    ventricle = _Ventricle(heart, shot.length_ed_cm)
    paint = _Paint(shot.geometry, shot.pose, ventricle, rng)
    frames = len(shot.volume_ml)
    pictures = np.zeros((frames, *shot.size, 3), dtype=np.uint8)
    masks = np.zeros((frames, *shot.size), dtype=np.bool_)
    for i, volume in enumerate(shot.volume_ml):
        outline = ventricle.outline(float(volume))
        paint.cavity(outline, masks[i])
        grey = paint.frame(shot.view, outline, filling=_filling(shot.volume_ml, i, heart), rng=rng)
        cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB, dst=pictures[i])
    if annotate:
        annotate_frames(pictures, shot)
    return Cine(shot=shot, frames=pictures, masks=masks)


def emptied(time: F64, beats: F64, *, kick: bool) -> F64:
    """Share of the stroke volume that has left the ventricle at each time: 0 at the R wave, 1 at end-systole.

    Isovolumic phases are flat for longer than a frame, so a cine always shows both extremes.
    """
    index = np.clip(np.searchsorted(beats, time, side="right") - 1, 0, len(beats) - 2)
    rr = np.diff(beats)[index]
    t = time - beats[index]
    systole = np.sqrt(np.clip(rr, 0.4, 1.6))
    out = _step(t, 0.05 * systole, 0.33 * systole)
    early = 0.72 if kick else 1.0
    end = np.minimum(0.62 * systole, 0.94 * rr)
    back = early * _step(t, 0.41 * systole, end) + (1 - early) * _step(t, np.minimum(rr - 0.16, 0.9 * rr), rr - 0.01)
    return np.asarray(out - back)


def disc_volume_ml(mask: Bool, axis_px: F64, cm_per_px: float) -> float:
    """Volume of a drawn cavity by discs of one pixel height along its long axis."""
    along = axis_px[1] - axis_px[0]
    angle = math.degrees(math.atan2(along[0], along[1]))
    turn = cv2.getRotationMatrix2D((float(axis_px[0][0]), float(axis_px[0][1])), -angle, 1.0)
    turned = cv2.warpAffine(mask.astype(np.float32), turn, (mask.shape[1] * 2, mask.shape[0] * 2), flags=cv2.INTER_LINEAR)
    diameter = turned.sum(axis=1) * cm_per_px
    return float(math.pi / 4 * np.square(diameter).sum() * cm_per_px)


def annotate_frames(pictures: U8, shot: Shot) -> None:
    """Burn in what machines burn in: text, depth marks, and a green ECG trace with a cursor at the frame's time.

    The trace starts 0.1 s before the R wave that precedes the clip, as on a machine that is triggered by it. Its R waves reach
    into the region's box, and near the middle into the sector itself.
    """
    geometry, time, beats = shot.geometry, shot.time_s, shot.beats_s
    height, width = shot.size
    unit = height / 300
    x0, x1 = 0.07 * width, 0.95 * width
    base, tall = height - 17 * unit, 40 * unit
    trigger = float(beats[beats <= 0][-1]) - 0.1 if (beats <= 0).any() else -0.1
    t = np.linspace(0, SWEEP_S, int(x1 - x0) * 2)
    trace = np.zeros_like(t)
    for beat in beats - trigger:
        for centre, sigma, size in (
            (-0.16, 0.022, 0.13),
            (-0.022, 0.008, -0.12),
            (0.0, 0.010, 1.0),
            (0.026, 0.009, -0.2),
            (0.27, 0.045, 0.24),
        ):
            trace += size * np.exp(-0.5 * np.square((t - beat - centre) / sigma))
    line = np.stack([x0 + t / SWEEP_S * (x1 - x0), base - tall * trace], axis=1)
    points = np.round(line * 2**_SHIFT).astype(np.int32)[:, None]
    static = np.zeros((height, width, 3), dtype=np.uint8)
    cv2.polylines(static, [points], False, TRACE_RGB, 1, cv2.LINE_AA, _SHIFT)
    grey = (205, 205, 205)
    scale = 0.38 * unit
    font = cv2.FONT_HERSHEY_SIMPLEX
    left = (int(4 * unit), int(x0))
    cv2.putText(static, f"{geometry.depth_cm:.0f} cm", (left[0], int(16 * unit)), font, scale, grey, 1, cv2.LINE_AA)
    cv2.putText(static, f"{1000 / shot.frame_time_ms:.0f} Hz", (left[0], int(30 * unit)), font, scale, grey, 1, cv2.LINE_AA)
    # In the corner of the box that the fan leaves free: inside the region, outside the sector.
    cv2.putText(static, f"HR {shot.hr_bpm:.0f}", (int(0.81 * width), int(238 * unit)), font, scale, grey, 1, cv2.LINE_AA)
    for cm in range(0, int(geometry.depth_cm) + 1):
        y = round(geometry.apex_y + cm / geometry.cm_per_px)
        long = 5 if cm % 5 == 0 else 2
        cv2.line(static, (int(width - 8 * unit), y), (int(width - (8 - long) * unit), y), grey, 1)
    lit = np.nonzero(static.any(axis=2))
    ink = static[lit]
    for i, now in enumerate(time):
        pictures[i][lit] = np.maximum(pictures[i][lit] // 4, ink)
        x = round(x0 + (now - trigger) / SWEEP_S * (x1 - x0))
        cv2.line(pictures[i], (x, int(base - 6 * unit)), (x, int(base + 6 * unit)), (235, 220, 60), max(round(2 * unit), 1))


def _step(t: F64, start: F64, stop: F64) -> F64:
    x = np.clip((t - start) / np.maximum(stop - start, 1e-3), 0, 1)
    return np.asarray(x * x * (3 - 2 * x))


def _filling(volume: F64, i: int, heart: Heart) -> float:
    """-1 while it empties fastest, 1 while it fills fastest: opens and closes the valves."""
    ahead, behind = min(i + 1, len(volume) - 1), max(i - 1, 0)
    slope = (volume[ahead] - volume[behind]) / max(heart.edv_ml - heart.esv_ml, 1.0) / max(ahead - behind, 1)
    return float(np.clip(slope * 9, -1, 1))


class _Ventricle:
    """Size and walls of the cavity as its volume changes."""

    def __init__(self, heart: Heart, length_ed: float) -> None:
        self.edv = heart.edv_ml
        self.length_ed = length_ed
        self.radius_ed = math.sqrt(heart.edv_ml / (math.pi * _FILL * length_ed))
        self.walls_ed = (heart.septal_mm / 10, heart.posterior_mm / 10)

    def outline(self, volume_ml: float) -> _Outline:
        length = self.length_ed * (volume_ml / self.edv) ** 0.25
        radius = math.sqrt(volume_ml / (math.pi * _FILL * length))
        # Muscle keeps its volume: a shorter, narrower cavity has thicker walls.
        stretch = self.length_ed / length
        walls = [math.sqrt(radius**2 + stretch * ((self.radius_ed + w) ** 2 - self.radius_ed**2)) - radius for w in self.walls_ed]
        return _Outline(length=length, radius=radius, septal=walls[0], lateral=walls[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outline:
    length: float
    radius: float
    septal: float
    lateral: float


def _place(heart: Heart, view: View, length: float, rng: np.random.Generator, size: tuple[int, int]) -> tuple[Geometry, Pose]:
    height, width = size
    radius_px = min(0.82 * height, 0.465 * width / math.sin(HALF_ANGLE))
    wall = heart.wall_mm / 10
    if view == "a4c":
        apex = np.array([rng.normal(0.25, 0.2), 1.5 + wall + abs(rng.normal(0, 0.25))])
        angle = math.radians(rng.normal(8, 4))
        along = np.array([math.sin(angle), math.cos(angle)])
        across = np.array([along[1], -along[0]])
        need = apex[1] + length + 4.6
    else:
        angle = math.radians(rng.normal(74, 4))
        along = np.array([math.sin(angle), -math.cos(angle)])
        across = np.array([-along[1], along[0]])
        # Deep enough that the whole cavity fits between the sector's edges.
        middle = max(6.2 + wall, (0.5 * length + 1.0) / math.tan(HALF_ANGLE) + rng.normal(0.5, 0.2))
        centre = np.array([rng.normal(-0.9, 0.15), middle])
        apex = centre - along * length * 0.5
        need = middle + 0.3 * length + wall + 2.2
    depth = max(float(need + abs(rng.normal(0, 0.6))), 11.0)
    geometry = Geometry(
        height=height,
        width=width,
        apex_x=width / 2 + float(rng.normal(0, 0.008 * width)),
        apex_y=0.03 * height,
        radius_px=radius_px,
        depth_cm=round(depth * 2) / 2 + 0.5,
    )
    return geometry, Pose(apex=apex, along=along, across=across)


class _Paint:
    """Turns outlines into grey pictures of one clip: what is fixed for the clip is computed once."""

    def __init__(self, geometry: Geometry, pose: Pose, ventricle: _Ventricle, rng: np.random.Generator) -> None:
        self.geometry, self.pose, self.ventricle = geometry, pose, ventricle
        x0, y0, x1, y1 = geometry.box
        self.x0, self.y0, self.shape = x0, y0, (y1 - y0 + 1, x1 - x0 + 1)
        grid_y, grid_x = np.mgrid[y0 : y1 + 1, x0 : x1 + 1].astype(np.float32)
        cm = geometry.cm_per_px
        x, y = (grid_x - geometry.apex_x) * cm, (grid_y - geometry.apex_y) * cm
        distance, angle = np.hypot(x, y), np.arctan2(x, np.maximum(y, 1e-6))
        self.sector = (np.abs(angle) <= HALF_ANGLE) & (distance <= geometry.depth_cm) & (y > 0)

        self.a = ((x - pose.apex[0]) * pose.along[0] + (y - pose.apex[1]) * pose.along[1]).astype(np.float32)
        self.q = ((x - pose.apex[0]) * pose.across[0] + (y - pose.apex[1]) * pose.across[1]).astype(np.float32)
        share = np.clip(self.a / ventricle.length_ed, 0, 1).astype(np.float64)
        self.reach = (profile(share) * np.exp(-np.clip(self.a / ventricle.length_ed - 1, 0, None) * 2)).astype(np.float32)
        beyond = np.maximum(np.abs(self.q) - ventricle.radius_ed * self.reach, 0)
        self.fade = np.exp(-beyond / 2.2).astype(np.float32)
        self.fade_along = np.exp(-np.maximum(self.a - ventricle.length_ed, 0) / 3.0).astype(np.float32)

        self.polar = (
            ((distance / geometry.depth_cm) * (_POLAR[0] - 1)).astype(np.float32),
            ((angle / (math.pi / 2) + 1) * 0.5 * (_POLAR[1] - 1)).astype(np.float32),
        )
        self.grid = np.indices(self.shape, dtype=np.float32)
        self.texture = self._warp(_polar_speckle(rng))
        self.fresh = _polar_speckle(rng)
        share_angle = np.interp(angle, np.linspace(-HALF_ANGLE, HALF_ANGLE, 7), np.clip(rng.normal(1, 0.13, 7), 0.55, 1.25))
        fall = 1.08 - 0.35 * (distance / geometry.depth_cm) ** 1.5
        near = 1 + 0.5 * np.exp(-np.square(distance / 0.9))
        self.gain = (share_angle * fall * near * self.sector * float(rng.uniform(0.82, 1.2))).astype(np.float32)
        self.haze = float(rng.uniform(4, 13))
        self.atrium = float(rng.normal(1.0, 0.12))

    def _warp(self, polar: F32) -> F32:
        out: F32 = cv2.remap(polar, self.polar[1], self.polar[0], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        return out

    def points(self, a: F64, q: F64) -> npt.NDArray[np.int32]:
        """Heart coordinates (along, across) in cm -> cv2 points in the box."""
        xy = self.pose.apex + a[:, None] * self.pose.along + q[:, None] * self.pose.across
        px = xy / self.geometry.cm_per_px + [self.geometry.apex_x - self.x0, self.geometry.apex_y - self.y0]
        out: npt.NDArray[np.int32] = np.round(px * 2**_SHIFT).astype(np.int32)[:, None]
        return out

    def cavity(self, outline: _Outline, mask: Bool) -> None:
        """Set the cavity as drawn in `mask` (H, W)."""
        canvas = np.zeros(self.shape, dtype=np.uint8)
        radius = outline.radius * profile(_S)
        a = np.concatenate([_S, _S[::-1]]) * outline.length
        cv2.fillPoly(canvas, [self.points(a, np.concatenate([radius, -radius[::-1]]))], 1, cv2.LINE_8, _SHIFT)
        mask[self.y0 : self.y0 + self.shape[0], self.x0 : self.x0 + self.shape[1]] = canvas

    def frame(self, view: View, outline: _Outline, *, filling: float, rng: np.random.Generator) -> U8:
        """(H, W) grey, nothing outside the sector."""
        canvas = np.full(self.shape, 46, dtype=np.uint8)
        (self._around_a4c if view == "a4c" else self._around_plax)(canvas, outline, filling)
        self._ventricle(canvas, outline, filling)
        smooth = cv2.GaussianBlur(canvas, (5, 5), 1.1).astype(np.float32)
        speckle = np.float32(0.72) * self._moved(outline) + np.float32(0.28) * self._warp(
            np.roll(self.fresh, int(rng.integers(1, _POLAR[0])), axis=0)
        )
        haze = self._warp(np.roll(self.fresh, int(rng.integers(1, _POLAR[0])), axis=0))
        picture = (smooth * speckle + np.float32(self.haze) * haze) * self.gain
        picture -= np.float32(0.45) * np.maximum(picture - 120, 0)
        full = np.zeros((self.geometry.height, self.geometry.width), dtype=np.uint8)
        full[self.y0 : self.y0 + self.shape[0], self.x0 : self.x0 + self.shape[1]] = np.clip(picture, 0, 255)
        return full

    def _moved(self, outline: _Outline) -> F32:
        """The speckle, carried along by the walls: each pixel looks up where its tissue was at end-diastole."""
        shrink = self.ventricle.radius_ed - outline.radius
        weight = np.minimum(np.abs(self.q) / (np.float32(outline.radius) * self.reach + np.float32(0.15)), 1)
        q = np.copysign(np.float32(shrink) * self.reach * self.fade * weight, self.q)
        a = self.a * self.fade_along * np.float32(self.ventricle.length_ed / outline.length - 1)
        cm = self.geometry.cm_per_px
        along, across = self.pose.along / cm, self.pose.across / cm
        map_x = self.grid[1] + a * np.float32(along[0]) + q * np.float32(across[0])
        map_y = self.grid[0] + a * np.float32(along[1]) + q * np.float32(across[1])
        out: F32 = cv2.remap(self.texture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        return out

    def _ventricle(self, canvas: Any, outline: _Outline, filling: float) -> None:
        radius = outline.radius * profile(_S)
        a = np.concatenate([_S[::-1], _S[1:]]) * outline.length
        q = np.concatenate([-radius[::-1], radius[1:]])
        side = np.linspace(0, 1, len(a))
        wall = outline.septal + (outline.lateral - outline.septal) * np.clip((side - 0.44) / 0.12, 0, 1)
        wall = wall * (1 - 0.35 * np.exp(-np.square((side - 0.5) / 0.06)))
        da, dq = np.gradient(a), np.gradient(q)
        norm = np.maximum(np.hypot(da, dq), 1e-9)
        outer_a, outer_q = a - dq / norm * wall, q + da / norm * wall
        # The curve runs from the septal ring over the apex to the lateral ring; its left normal points outward.
        if outer_a[len(a) // 2] > 0:
            outer_a, outer_q = a + dq / norm * wall, q - da / norm * wall
        outer_a[0] = outer_a[-1] = outline.length
        cv2.fillPoly(canvas, [self.points(outer_a, outer_q)], 112, cv2.LINE_AA, _SHIFT)
        half = len(a) // 2
        cv2.polylines(canvas, [self.points(outer_a[half + 8 :], outer_q[half + 8 :])], False, 215, 2, cv2.LINE_AA, _SHIFT)
        cv2.polylines(canvas, [self.points(outer_a[: half - 8], outer_q[: half - 8])], False, 140, 1, cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(canvas, [self.points(a, q)], 9, cv2.LINE_AA, _SHIFT)
        cv2.polylines(canvas, [self.points(a, q)], False, 150, 1, cv2.LINE_AA, _SHIFT)
        ring = outline.radius * float(profile(np.array([1.0]))[0])
        opening = max(filling, 0.0) ** 0.5
        for sign, span in ((-1, 1.15), (1, 0.75)):
            tip_q = sign * ring * (0.05 + 0.62 * opening)
            tip_a = outline.length - span * ring * (0.30 + 0.75 * opening)
            leaflet = self.points(
                np.array([outline.length, (outline.length + tip_a) / 2 - 0.05, tip_a]),
                np.array([sign * ring, sign * ring * 0.62, tip_q]),
            )
            cv2.polylines(canvas, [leaflet], False, 185, 2, cv2.LINE_AA, _SHIFT)

    def _chamber(self, canvas: Any, centre: tuple[float, float], half: tuple[float, float], wall: int) -> None:
        angle = np.linspace(0, 2 * math.pi, 36, endpoint=False)
        a, q = centre[0] + half[0] * np.cos(angle), centre[1] + half[1] * np.sin(angle)
        points = self.points(a, q)
        cv2.fillPoly(canvas, [points], 10, cv2.LINE_AA, _SHIFT)
        cv2.polylines(canvas, [points], True, wall, 2, cv2.LINE_AA, _SHIFT)

    def _around_a4c(self, canvas: Any, outline: _Outline, filling: float) -> None:
        length, radius, septal = outline.length, outline.radius, outline.septal
        drop = self.ventricle.length_ed - length
        fixed = self.ventricle.length_ed + 4.0
        ring = radius * 0.76
        atrium = (fixed - length) / 2
        self._chamber(canvas, (length + atrium, 0.1), (atrium, (1.85 + 0.25 * drop) * self.atrium), 120)
        self._chamber(canvas, (length + 0.35 + atrium * 0.92, -(ring + septal + 1.75)), (atrium * 0.9, 1.65 + 0.2 * drop), 115)
        # The right ventricle: a triangle along the septum, its free wall moving in and its ring moving down.
        inward = 0.55 * drop
        s = np.linspace(0.16, 1.0, 20)
        inner = -(radius * profile(s) + septal)
        outer = inner - (3.5 - inward) * np.sin(np.clip((s - 0.16) / 0.84, 0, 1) ** 0.8 * math.pi * 0.62)
        a = np.concatenate([s, s[::-1]]) * length
        cv2.fillPoly(canvas, [self.points(a, np.concatenate([inner, outer[::-1] - 0.45]))], 95, cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(canvas, [self.points(a, np.concatenate([inner, outer[::-1]]))], 11, cv2.LINE_AA, _SHIFT)
        opening = max(filling, 0.0) ** 0.5
        root = outer[-1]
        for base, sign in ((inner[-1], 1.0), (root, -1.0)):
            tip = (inner[-1] + root) / 2 + sign * 0.85 * opening
            cv2.polylines(
                canvas,
                [self.points(np.array([length, length - 0.5 - 0.7 * opening]), np.array([base, tip]))],
                False,
                160,
                1,
                cv2.LINE_AA,
                _SHIFT,
            )

    def _around_plax(self, canvas: Any, outline: _Outline, filling: float) -> None:
        length, radius = outline.length, outline.radius
        drop = self.ventricle.length_ed - length
        top = -(self.ventricle.radius_ed + self.ventricle.walls_ed[0] + 0.1)
        self._chamber(canvas, (length * 0.62, top - 1.15 + 0.2 * drop), (length * 0.52, 1.15 - 0.2 * drop), 100)
        self._chamber(canvas, (length + 1.75, radius * 0.45 + 0.5), (1.9 + 0.15 * drop, (1.75 + 0.3 * drop) * self.atrium), 120)
        root = -radius * 0.62
        a = np.array([length - 0.1, length + 4.2, length + 4.2, length - 0.1])
        cv2.fillPoly(
            canvas, [self.points(a, np.array([root - 0.95, root - 1.5, root + 1.1, root + 0.75]))], 10, cv2.LINE_AA, _SHIFT
        )
        for q0, q1 in ((root - 0.95, root - 1.5), (root + 0.75, root + 1.1)):
            cv2.polylines(
                canvas, [self.points(np.array([length, length + 4.2]), np.array([q0, q1]))], False, 175, 2, cv2.LINE_AA, _SHIFT
            )
        swing = 0.75 * max(-filling, 0.0) ** 0.5
        for sign in (-1, 1):
            tip = root - 0.1 + sign * swing
            cv2.polylines(
                canvas,
                [self.points(np.array([length + 0.1, length + 0.9]), np.array([root - 0.1 + sign * 0.85, tip]))],
                False,
                165,
                1,
                cv2.LINE_AA,
                _SHIFT,
            )


def _polar_speckle(rng: np.random.Generator) -> F32:
    """Fully developed speckle with mean 1: the size of a spot is fixed in angle, so it widens with depth."""
    field = rng.standard_normal((2, *_POLAR), dtype=np.float32)
    real, imaginary = (cv2.GaussianBlur(part, (0, 0), sigmaX=0.9, sigmaY=1.1) for part in field)
    envelope = np.sqrt(real**2 + imaginary**2)
    return np.asarray(envelope / envelope.mean(), dtype=np.float32)
