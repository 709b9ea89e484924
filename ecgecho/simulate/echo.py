"""A cine of a simulated heart: a slice of the beating body, scanned by a sector probe. Frames (T, H, W, 3), masks and volumes.

A picture is made as a machine makes it, in scan lines (depth x angle): outlines of tissue give the strength of the echo, a field
of scatterers that is carried along by the muscle is multiplied with it and blurred by the point spread, and the envelope is
compressed to grey and only then laid out as a fan. Lengths in cm from the apex of the sector: x right, y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ecgecho.simulate import annotate as burn
from ecgecho.simulate.anatomy import Anatomy, Moment, emptied
from ecgecho.simulate.heart import F64, Heart, r_times
from ecgecho.simulate.views import AROUND, BEHIND, LIVER, VIEWS, View, came_from, cavity, layers
from ecgecho.types import F32, U8, Bool

__all__ = ["VIEWS", "Cine", "Geometry", "Pose", "Shot", "View", "biplane_volume_ml", "cine", "disc_volume_ml", "draw", "shoot"]

SPAN_BEATS = 1.1
"""Mean beats in a cine of a given number of frames."""
TRIGGER_S = 0.02
"""A clip starts at most this long after an R wave."""
RATE_HZ = (20.0, 80.0)
MOST_FRAMES = 150

FLOOR_DB = 63.75
"""The weakest echo a canvas holds, below the strongest; four grey levels are one dB."""
AXIAL_CM = 0.042
"""Standard deviation of the point spread along the beam; across it is an angle, so that spots widen with depth."""
LATERAL_DEG = 0.95
MIRROR = 0.17

_SHIFT = 4  # fractional bits of cv2's polygon coordinates
_COARSE = (40, 36)  # the grid on which motion is computed: depth, angle
_TO_AMPLITUDE = (10 ** ((np.arange(256) / 4 - FLOOR_DB) / 20)).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Where the sector lies in the picture."""

    height: int
    width: int
    apex_x: float
    apex_y: float
    radius_px: float
    depth_cm: float
    half_angle: float
    """Radians."""

    @property
    def cm_per_px(self) -> float:
        return self.depth_cm / self.radius_px

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1, inclusive: the sector's bounding box, which is the region of the DICOM file."""
        half = self.radius_px * math.sin(self.half_angle)
        return (
            max(math.floor(self.apex_x - half), 0),
            max(math.floor(self.apex_y), 0),
            min(math.ceil(self.apex_x + half), self.width - 1),
            min(math.ceil(self.apex_y + self.radius_px), self.height - 1),
        )

    def polygon(self) -> F64:
        """(P, 2) x, y of the sector's outline in pixels."""
        angle = np.linspace(-self.half_angle, self.half_angle, 25)
        arc = np.stack([self.apex_x + self.radius_px * np.sin(angle), self.apex_y + self.radius_px * np.cos(angle)], axis=1)
        return np.concatenate([[[self.apex_x, self.apex_y]], arc])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Where the slice lies in the sector, cm."""

    apex: F64
    """Of the cavity; in the short axis the point on the long axis."""
    along: F64
    """Unit vector of u: from the apex to the mitral ring; in the short axis towards the lateral wall."""
    across: F64
    """Unit vector of v."""

    def place(self, points: F64) -> F64:
        """(P, 2) u, v -> x, y."""
        return np.asarray(self.apex + points[:, :1] * self.along + points[:, 1:] * self.across)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One clip before it is drawn: all that tables need."""

    view: View
    size: tuple[int, int]
    """Rows, columns."""
    frame_time_ms: float
    hr_bpm: float
    atrium_beats: bool
    """As `Heart.atrium_beats`: without, the burned-in trace has no P waves."""
    beats_s: F64
    """R times from the start of the clip; some lie before and after it."""
    volume_ml: F64
    """(T,)"""
    geometry: Geometry
    pose: Pose
    length_ed_cm: float
    difficulty: float
    layout: int
    """Of what is burned in."""

    @property
    def time_s(self) -> F64:
        return np.arange(len(self.volume_ml)) * self.frame_time_ms / 1000

    @property
    def inside_s(self) -> F64:
        """R times inside the clip."""
        return self.beats_s[(self.beats_s >= 0) & (self.beats_s < len(self.volume_ml) * self.frame_time_ms / 1000)]

    @property
    def axis_px(self) -> F64:
        """(2, 2): x, y of the apex and of a second point of the long axis (of the line septal to lateral in the short axis)."""
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
    """(T, H, W): the cavity of the left ventricle as drawn."""


def cine(
    heart: Heart,
    view: View,
    rng: np.random.Generator,
    *,
    frames: int = 24,
    size: tuple[int, int] = (300, 400),
    difficulty: float = 0.5,
    annotate: bool = True,
) -> Cine:
    """One clip of a heart, drawn. The same stream gives the same bytes."""
    return draw(heart, shoot(heart, view, rng, frames=frames, size=size, difficulty=difficulty), rng, annotate=annotate)


def shoot(
    heart: Heart,
    view: View,
    rng: np.random.Generator,
    *,
    frames: int = 0,
    size: tuple[int, int] = (300, 400),
    difficulty: float = 0.5,
) -> Shot:
    """Beats, volumes and place of one clip.

    `frames` = 0 does as machines do: 20-80 frames a second, 20-150 frames, one to three beats. A given number spans about
    `SPAN_BEATS` beats; below about 14 it shows less than a beat, since frames lie at most 70 ms apart. An R wave triggers each
    clip whatever the rhythm: both extremes are in it, and its start does not tell fibrillation. `difficulty` from 0 to 1 scales
    haze, dropout, spread of gain and of the place of the heart.
    """
    hr_bpm = float(np.clip(heart.hr_bpm * rng.normal(1, 0.05), 42, 140))
    if frames == 0:
        rate_hz = float(np.clip(rng.normal(47, 14), *RATE_HZ))
        span_s = float(rng.choice([1, 1, 2, 3])) * 60 / hr_bpm * SPAN_BEATS
        frame_time_ms = round(1000 / rate_hz, 3)
        count = int(np.clip(math.ceil(span_s * rate_hz), 20, MOST_FRAMES))
        if count in (20, MOST_FRAMES):
            frame_time_ms = round(float(np.clip(1000 * span_s / count, 1000 / RATE_HZ[1], 1000 / RATE_HZ[0])), 3)
    else:
        count = frames
        frame_time_ms = round(float(np.clip(SPAN_BEATS * 60_000 / hr_bpm / frames, 12.5, 70.0)), 3)
    time = np.arange(count) * frame_time_ms / 1000
    beats = r_times(heart, rng, hr_bpm=hr_bpm, start_s=0.0, stop_s=float(time[-1]) + 2 * burn.SWEEP_S)
    beats = beats - beats[0] - TRIGGER_S * float(rng.random())
    anatomy = Anatomy(heart)
    geometry, pose = _place(anatomy, view, rng, size, difficulty)
    return Shot(
        view=view,
        size=size,
        frame_time_ms=frame_time_ms,
        hr_bpm=hr_bpm,
        atrium_beats=heart.atrium_beats,
        beats_s=beats,
        volume_ml=heart.edv_ml - (heart.edv_ml - heart.esv_ml) * emptied(time, beats, kick=heart.atrium_beats),
        geometry=geometry,
        pose=pose,
        length_ed_cm=anatomy.length_ed,
        difficulty=difficulty,
        layout=int(rng.integers(len(burn.LAYOUTS))),
    )


def draw(heart: Heart, shot: Shot, rng: np.random.Generator, *, annotate: bool = True) -> Cine:
    """The pictures of a shot."""
    anatomy = Anatomy(heart)
    probe = Probe(anatomy, shot, rng)
    frames = len(shot.volume_ml)
    pictures = np.zeros((frames, *shot.size, 3), dtype=np.uint8)
    masks = np.zeros((frames, *shot.size), dtype=np.bool_)
    for i, now in enumerate(anatomy.moments(shot.volume_ml, shot.time_s, shot.beats_s)):
        outline = np.round(to_pixels(shot, cavity(anatomy, now, shot.view)) * 2**_SHIFT).astype(np.int32)[:, None]
        cv2.fillPoly(masks[i].view(np.uint8), [outline], 1, cv2.LINE_8, _SHIFT)
        probe.frame(now, rng, pictures[i])
    if annotate:
        burn.annotate_frames(pictures, shot)
    return Cine(shot=shot, frames=pictures, masks=masks)


def to_pixels(shot: Shot, points: F64) -> F64:
    """(P, 2) u, v of a view's plane -> x, y in the picture."""
    return np.asarray(shot.pose.place(points) / shot.geometry.cm_per_px + [shot.geometry.apex_x, shot.geometry.apex_y])


def disc_volume_ml(mask: Bool, axis_px: F64, cm_per_px: float) -> float:
    """Volume of a drawn cavity by discs along its long axis, as if it were round: single plane."""
    diameter, step = _diameters(mask, axis_px, cm_per_px)
    return float(math.pi / 4 * np.square(diameter).sum() * step)


def biplane_volume_ml(
    a4c: Bool, a4c_axis_px: F64, a4c_cm_per_px: float, a2c: Bool, a2c_axis_px: F64, a2c_cm_per_px: float, *, discs: int = 60
) -> float:
    """Volume by discs whose two diameters come from two views at right angles (modified Simpson, Lang et al. 2015)."""
    found = []
    for mask, axis, cm in ((a4c, a4c_axis_px, a4c_cm_per_px), (a2c, a2c_axis_px, a2c_cm_per_px)):
        diameter, step = _diameters(mask, axis, cm)
        rows = np.flatnonzero(diameter > 0)
        cut = diameter[rows[0] : rows[-1] + 1]
        edges = np.linspace(0, len(cut), discs + 1)
        whole = np.concatenate([[0.0], np.cumsum(cut)])
        found.append((np.diff(np.interp(edges, np.arange(len(whole)), whole)) / np.diff(edges), len(cut) * step))
    (one, first), (two, second) = found
    return float(math.pi / 4 * (one * two).sum() * (first + second) / 2 / discs)


def _diameters(mask: Bool, axis_px: F64, cm_per_px: float) -> tuple[F64, float]:
    """Width of the cavity in cm in each row of one pixel along its long axis, and the height of a row in cm."""
    along = axis_px[1] - axis_px[0]
    angle = math.degrees(math.atan2(along[0], along[1]))
    height, width = mask.shape
    turn = cv2.getRotationMatrix2D((float(axis_px[0][0]), float(axis_px[0][1])), -angle, 1.0)
    turn[:, 2] += [width, height]
    turned = cv2.warpAffine(mask.astype(np.float32), turn, (width * 3, height * 3), flags=cv2.INTER_LINEAR)
    return turned.sum(axis=1).astype(np.float64) * cm_per_px, cm_per_px


def _unit(degrees: float) -> F64:
    """Unit vector that points `degrees` from straight down towards the right of the picture."""
    return np.array([math.sin(math.radians(degrees)), math.cos(math.radians(degrees))])


def _place(
    anatomy: Anatomy, view: View, rng: np.random.Generator, size: tuple[int, int], difficulty: float
) -> tuple[Geometry, Pose]:
    """A fan and a heart in it, as a sonographer would have them: never foreshortened, but not always in the middle."""
    height, width = size
    spread = 0.5 + difficulty
    half_angle = math.radians(float(rng.uniform(35, 43)))
    heart, length, radius = anatomy.heart, anatomy.length_ed, anatomy.radius_ed
    septum, wall = heart.septal_mm / 10, heart.wall_mm / 10
    jitter = rng.normal(0, 1, 3) * spread
    if view in ("a4c", "a2c", "a3c"):
        tilt = {"a4c": 9.0, "a2c": 2.0, "a3c": 4.0}[view] + 3.5 * float(np.clip(jitter[0], -2, 2))
        along = _unit(tilt)
        across = np.array([along[1], -along[0]])
        low = 1.4 + wall + 0.25 * abs(jitter[1])
        # Room for the broad shoulders of a large heart between the flanks of the fan.
        low = max(low, (0.80 * radius + 0.3 + 0.5 * (view == "a4c")) / math.tan(half_angle) - 0.15 * length)
        apex = np.array([{"a4c": 0.7, "a2c": 0.0, "a3c": -0.3}[view] + 0.2 * jitter[2], low])
        need = low + anatomy.fixed_roof + 1.4
    elif view == "plax":
        along = _unit(100.0 - 3.0 * float(np.clip(jitter[0], -2, 2)))
        along = np.array([along[0], -abs(along[1])])
        across = np.array([along[1], -along[0]])
        middle = 1.6 + 0.75 * anatomy.rv + septum + radius + 0.2 * abs(jitter[1])
        apex = np.array([-1.7 + 0.3 * jitter[2], middle]) - along * 0.62 * length
        need = middle + radius + wall + 2.2
    elif view == "psax":
        turn = math.radians(-36 + 6 * float(np.clip(jitter[0], -2, 2)))
        along = np.array([math.cos(turn), -math.sin(turn)])
        across = np.array([along[1], -along[0]])
        middle = max(2.0 + 0.5 * anatomy.rv + septum + radius, (radius + wall) / math.tan(half_angle)) + 0.25 * abs(jitter[1])
        apex = np.array([0.7 + 0.2 * jitter[2], middle])
        need = middle + radius + wall + 2.2
    else:
        along = _unit(-68.0 + 3.0 * float(np.clip(jitter[0], -2, 2)))
        across = np.array([-along[1], along[0]])
        across = across if across[1] > 0 else -across
        middle = 4.0 + anatomy.rv + septum + radius + 0.2 * abs(jitter[1])
        apex = np.array([0.6 + 0.3 * jitter[2], middle]) - along * 0.55 * length
        need = middle + radius + wall + 3.2
    depth = max(need + abs(float(rng.normal(0, 0.8))), 11.0)
    geometry = Geometry(
        height=height,
        width=width,
        apex_x=width / 2 + float(rng.normal(0, 0.012 * width)),
        apex_y=float(rng.uniform(0.025, 0.05)) * height,
        radius_px=min(float(rng.uniform(0.79, 0.84)) * height, 0.46 * width / math.sin(half_angle)),
        depth_cm=round(depth * 2) / 2 + 0.5,
        half_angle=half_angle,
    )
    return geometry, Pose(apex=apex, along=along, across=across)


class Probe:
    """Scans one clip: what is fixed for the clip is computed once."""

    def __init__(self, anatomy: Anatomy, shot: Shot, rng: np.random.Generator) -> None:
        self.anatomy, self.shot = anatomy, shot
        geometry = shot.geometry
        self.rows = int(np.clip(0.85 * geometry.radius_px, 176, 448))
        self.lines = int(np.clip(0.4 * geometry.radius_px, 112, 192))
        self.rest = anatomy.moment(anatomy.heart.edv_ml)
        self.fan = _fan(geometry, self.rows, self.lines)
        self._grid()
        self._machine(rng)

    def _grid(self) -> None:
        """Coarse places in the plane of the view, for the motion of tissue."""
        geometry, pose = self.shot.geometry, self.shot.pose
        r = np.linspace(0.02, geometry.depth_cm, _COARSE[0])[:, None]
        angle = np.linspace(-geometry.half_angle, geometry.half_angle, _COARSE[1])[None]
        x, y = r * np.sin(angle) - pose.apex[0], r * np.cos(angle) - pose.apex[1]
        self.u, self.v = x * pose.along[0] + y * pose.along[1], x * pose.across[0] + y * pose.across[1]
        self.here = self._polar(np.stack([self.u.ravel(), self.v.ravel()], 1))
        rows, lines = np.mgrid[: self.rows, : self.lines].astype(np.float32)
        self.identity = (lines, rows)

    def _machine(self, rng: np.random.Generator) -> None:
        """Scatterers, gain, dropout, haze: one machine on one chest."""
        shot, hard = self.shot, self.shot.difficulty
        shape = (self.rows, self.lines)
        sigma = (
            LATERAL_DEG * self.lines / math.degrees(2 * shot.geometry.half_angle),
            AXIAL_CM * self.rows / shot.geometry.depth_cm,
        )
        self.kernels: tuple[F32, F32] = (_kernel(sigma[0]), _kernel(sigma[1]))
        gain = 1 / math.sqrt(float(np.square(np.outer(*self.kernels)).sum()) * 2)  # the blurred field has mean square 1
        fields = rng.standard_normal((4, *shape), dtype=np.float32) * np.float32(gain)
        # Muscle is not even: strands and patches a few mm long move with it.
        patches = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), 3.5 * sigma[0], sigmaY=4.0 * sigma[1])
        patches = np.exp((0.34 + 0.1 * hard) * patches / patches.std())
        # Stretches of wall that do not answer, a centimetre or two long.
        gaps = cv2.GaussianBlur(
            rng.standard_normal(shape, dtype=np.float32), (0, 0), self.lines / 16, sigmaY=0.8 * self.rows / shot.geometry.depth_cm
        )
        patches *= 10 ** (-(3 + 9 * hard) * np.maximum(gaps / gaps.std() - 0.3, 0) / 20)
        self.still = cv2.merge([fields[0] * patches, fields[1] * patches])
        self.noise = (fields[2], fields[3])

        r = np.linspace(0, 1, self.rows, dtype=np.float32)[:, None]
        angle = np.linspace(-1, 1, self.lines)
        loss = np.interp(angle, np.linspace(-1, 1, 9), np.abs(rng.normal(0, 3.0 + 5.0 * hard, 9)))
        edge = (4 + 9 * hard) * np.abs(angle) ** 5  # poor contact and lung at the flanks
        if rng.random() < 0.15 + 0.4 * hard:  # a rib's or the lung's shadow
            loss += float(rng.uniform(5, 9 + 9 * hard)) * np.exp(
                -np.square((angle - rng.choice([-1, 1]) * rng.uniform(0.55, 1.0)) / 0.16)
            )
        fall = (1 + 6 * hard) * r**1.4 * float(rng.uniform(0.4, 1.3))
        self.transmit = (10 ** (-((loss + edge)[None] * (0.45 + 0.55 * r) + fall) / 20)).astype(np.float32)
        haze = -49.0 + 8.0 * hard + float(rng.normal(0, 1.5 + 2.0 * hard))
        near = 20 * np.exp(-np.square(r * shot.geometry.depth_cm / (1.1 + 0.8 * hard)))
        cloud = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), self.lines / 9, sigmaY=self.rows / 9)
        cloud = (2 + 4 * hard) * cloud / cloud.std()
        self.veil = (10 ** ((haze + near + cloud - 3 * r) / 20)).astype(np.float32)
        self.range_db = float(rng.uniform(50, 60))
        self.gain_db = float(np.clip(rng.normal(-3.0, 1.2 + 2.4 * hard), -8, 4))
        self.around = float(rng.normal(0, 2))
        self.skin = round(float(rng.uniform(0.5, 1.1)) / shot.geometry.depth_cm * self.rows)
        self.box = self.shot.geometry.box
        self.box_grey = np.zeros((self.box[3] - self.box[1] + 1, self.box[2] - self.box[0] + 1), dtype=np.uint8)
        # Sound is bent on its way: outlines waver by about a millimetre, the same in every frame.
        bend = [cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), 3.0, sigmaY=5.0) for _ in range(2)]
        size = 0.07 * self.rows / shot.geometry.depth_cm
        self.bend: tuple[Any, Any] = cv2.convertMaps(
            self.identity[0] + np.float32(0.55 * size) * bend[0] / bend[0].std(),
            self.identity[1] + np.float32(size) * bend[1] / bend[1].std(),
            cv2.CV_16SC2,
        )

    def _polar(self, points: F64) -> F64:
        """(P, 2) u, v -> line, row as fractional indices."""
        x, y = self.shot.pose.place(points).T
        line = (np.arctan2(x, y) / self.shot.geometry.half_angle + 1) / 2 * (self.lines - 1)
        row = np.hypot(x, y) / self.shot.geometry.depth_cm * (self.rows - 1)
        return np.stack([line, row], axis=1)

    def frame(self, now: Moment, rng: np.random.Generator, picture: U8) -> None:
        """Draw one moment into `picture` (H, W, 3), in place."""
        x0, y0, x1, y1 = self.box
        cv2.remap(self.scan(now, rng), *self.fan, cv2.INTER_LINEAR, dst=self.box_grey, borderMode=cv2.BORDER_CONSTANT)
        cv2.cvtColor(self.box_grey, cv2.COLOR_GRAY2RGB, dst=picture[y0 : y1 + 1, x0 : x1 + 1])

    def scan(self, now: Moment, rng: np.random.Generator) -> U8:
        """(rows, lines) grey."""
        echo = cv2.LUT(self.canvas(now), _TO_AMPLITUDE) * self.transmit
        map_x, map_y = self._motion(now)
        shift = int(rng.integers(1, self.rows))
        parts = []
        carried = cv2.split(cv2.remap(self.still, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))
        for moved, noise in zip(carried, self.noise, strict=True):
            field = moved * echo + np.roll(noise, shift, axis=0) * self.veil
            parts.append(cv2.sepFilter2D(field, -1, *self.kernels, borderType=cv2.BORDER_REFLECT))
        power = parts[0] * parts[0] + parts[1] * parts[1] + np.float32(1e-9)
        grey = cv2.log(power) * np.float32(10 / math.log(10) * 255 / self.range_db) + np.float32(
            255 * (1 + self.gain_db / self.range_db)
        )
        return np.asarray(np.clip(grey, 0, 255), dtype=np.uint8)

    def canvas(self, now: Moment) -> U8:
        """(rows, lines) strength of the echo, four levels a dB."""
        shot = self.shot
        canvas = np.full((self.rows, self.lines), _code(AROUND + self.around), dtype=np.uint8)
        canvas[: self.skin] = _code(BEHIND)
        if shot.view == "subcostal":
            depth = 4.2 / shot.geometry.depth_cm * self.rows
            canvas[: int(depth)] = _code(LIVER)
        drawn = layers(self.anatomy, now, shot.view)
        corners = np.cumsum([len(layer.points) for layer in drawn])
        points = np.round(self._polar(np.concatenate([layer.points for layer in drawn])) * 2**_SHIFT).astype(np.int32)[:, None]
        for layer, outline in zip(drawn, np.split(points, corners[:-1]), strict=True):
            cv2.fillPoly(canvas, [outline], _code(layer.level_db), cv2.LINE_8, _SHIFT)
        canvas = cv2.remap(canvas, *self.bend, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        canvas = cv2.GaussianBlur(canvas, (5, 5), 1.1)
        # Surfaces across the beam reflect like mirrors, those along it hardly at all.
        mirror = cv2.convertScaleAbs(cv2.Sobel(canvas, cv2.CV_16S, 0, 1, ksize=3), alpha=MIRROR)
        return np.asarray(cv2.add(canvas, mirror), dtype=np.uint8)

    def _motion(self, now: Moment) -> tuple[F32, F32]:
        """Maps (rows, lines): each scan point looks up the scatterers that lay there at end-diastole."""
        u, v = came_from(self.anatomy, now, self.rest, self.shot.view, self.u, self.v)
        shift = (self._polar(np.stack([u.ravel(), v.ravel()], 1)) - self.here).astype(np.float32).reshape(*_COARSE, 2)
        fine = cv2.resize(shift, (self.lines, self.rows), interpolation=cv2.INTER_LINEAR)
        return fine[..., 0] + self.identity[0], fine[..., 1] + self.identity[1]


def _code(level_db: float) -> int:
    return int(np.clip(round(4 * (level_db + FLOOR_DB)), 0, 255))


def _kernel(sigma: float) -> F32:
    size = 2 * max(math.ceil(2.2 * sigma), 1) + 1
    return np.asarray(cv2.getGaussianKernel(size, sigma, cv2.CV_32F))


def _fan(geometry: Geometry, rows: int, lines: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint16]]:
    """Fixed-point maps from the box of the sector to the scan lines."""
    x0, y0, x1, y1 = geometry.box
    y, x = np.mgrid[y0 : y1 + 1, x0 : x1 + 1].astype(np.float32)
    x, y = x - np.float32(geometry.apex_x), y - np.float32(geometry.apex_y)
    row = np.hypot(x, y) * np.float32((rows - 1) / geometry.radius_px)
    line = (np.arctan2(x, y) / np.float32(geometry.half_angle) + 1) * np.float32((lines - 1) / 2)
    outside = (line < 0) | (line > lines - 1) | (row > rows - 1) | (y < 0)
    line[outside] = row[outside] = -9
    first, second = cv2.convertMaps(line, row, cv2.CV_16SC2)
    return first, second
