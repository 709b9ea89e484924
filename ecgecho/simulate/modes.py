"""What lies among the cines of a study: a still with calipers, spectral Doppler, colour Doppler and M-mode, of the same heart.

Sources: velocities by grade, Baumgartner et al. 2017 (aortic stenosis: 2.6-3, 3-4, above 4 m/s); the tricuspid jet from the right
ventricular pressure by 4 v^2; E and A by age and filling, Nagueh et al. 2016 (the means are properties of `Heart`); region codes,
DICOM PS3.3 C.8.5.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

from ecgecho.simulate.anatomy import LEVELS, Anatomy, Moment, beat_at
from ecgecho.simulate.echo import Probe, Shot, View, draw, shoot, to_pixels
from ecgecho.simulate.heart import F64, Heart, r_times
from ecgecho.types import F32, U8

Kind = Literal["still", "spectral", "colour", "m_mode"]
KINDS: tuple[Kind, ...] = ("still", "spectral", "colour", "m_mode")

TISSUE, COLOUR_FLOW, PW, CW = 1, 2, 3, 4
"""Data types of a region."""
FLAT, MOTION, SPECTRUM = 1, 2, 3
"""Spatial formats."""
CENTIMETRE, SECOND, CENTIMETRE_A_SECOND = 3, 4, 7

_GREY = (205, 205, 205)
_FONT = cv2.FONT_HERSHEY_SIMPLEX

Region = tuple[int, int, int, int, int, int, int, int, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Modal:
    """A file that is no plain cine."""

    frames: U8
    """(T, H, W, 3) RGB."""
    regions: tuple[Region, ...]
    """x0, y0, x1, y1 inclusive, spatial format, data type, units across and down, delta across and down."""
    frame_time_ms: float
    """0 for a single picture."""
    hr_bpm: float
    """As burned in."""
    what: str
    """In words, e.g. "spectral CW aortic valve 4.4 m/s"."""


def picture(
    heart: Heart, kind: Kind, rng: np.random.Generator, *, size: tuple[int, int] = (300, 400), difficulty: float = 0.5
) -> Modal:
    """One file of a kind. The same stream gives the same bytes."""
    shot = shot_of(heart, kind, rng, size=size, difficulty=difficulty)
    make = {"still": _still, "spectral": _spectral, "colour": _colour, "m_mode": _m_mode}[kind]
    return make(heart, shot, rng, size, difficulty)


def shot_of(
    heart: Heart, kind: Kind, rng: np.random.Generator, *, size: tuple[int, int] = (300, 400), difficulty: float = 0.5
) -> Shot:
    """The shot whose heart rate and, where the file moves, frames and beats are the file's: what tables need without drawing.

    `picture` begins with it, so that the same stream gives the same shot.
    """
    width = size[1]
    if kind == "colour":
        return shoot(heart, "a4c" if rng.random() < 0.65 else "plax", rng, frames=20, size=size, difficulty=difficulty)
    if kind == "spectral":
        # Its small guiding picture: mitral and tricuspid flow are sought in the four-chamber view.
        view: View = "a4c" if rng.random() < 2 / 3 else "a3c"
        return shoot(heart, view, rng, frames=24, size=_guide_size(size, 0.37, 0.45), difficulty=difficulty)
    if kind == "m_mode":
        return shoot(heart, "plax", rng, frames=24, size=(int(0.6 * width), width), difficulty=difficulty)
    return shoot(heart, "plax", rng, frames=24, size=size, difficulty=difficulty)


def _still(heart: Heart, shot: Shot, rng: np.random.Generator, size: tuple[int, int], difficulty: float) -> Modal:
    """A frozen parasternal long axis with the end-diastolic diameter measured."""
    # Frozen on the R wave, as one measures.
    beats = shot.beats_s - shot.beats_s[shot.beats_s <= 0][-1]
    shot = replace(shot, beats_s=beats, volume_ml=np.array([heart.edv_ml]))
    frames = draw(heart, shot, rng).frames
    anatomy = Anatomy(heart)
    now = anatomy.moments(shot.volume_ml, shot.time_s, shot.beats_s)[0]
    at = 0.64
    up, down = (float(np.interp(at, LEVELS, anatomy.radius(now, angle))) for angle in (135.0, 315.0))
    ends = to_pixels(shot, np.array([[at * now.length, up], [at * now.length, -down]]))
    unit = size[0] / 300
    for x, y in ends.round().astype(int):
        cv2.drawMarker(frames[0], (int(x), int(y)), (235, 235, 80), cv2.MARKER_CROSS, int(9 * unit), 1, cv2.LINE_AA)
    for share in np.linspace(0, 1, 24)[1:-1]:
        x, y = (ends[0] + share * (ends[1] - ends[0])).round().astype(int)
        frames[0, y, x] = (235, 235, 80)
    _write(frames[0], f"LVIDd {up + down:.2f} cm", (0.74, 0.12), unit)
    geometry = shot.geometry
    region = (*geometry.box, FLAT, TISSUE, CENTIMETRE, CENTIMETRE, geometry.cm_per_px, geometry.cm_per_px)
    return Modal(
        frames=frames, regions=(region,), frame_time_ms=0.0, hr_bpm=shot.hr_bpm, what=f"still PLAX LVIDd {up + down:.2f} cm"
    )


def _spectral(heart: Heart, shot: Shot, rng: np.random.Generator, size: tuple[int, int], difficulty: float) -> Modal:
    """A velocity trace: mitral inflow (PW), the aortic jet (CW) or the tricuspid jet (CW)."""
    height, width = size
    unit = height / 300
    site = "aortic valve" if shot.view == "a3c" else ("mitral inflow", "tricuspid regurgitation")[int(rng.integers(2))]
    seconds = 3.2
    x0, x1, y0, y1 = int(0.06 * width), int(0.92 * width), int(0.40 * height), int(0.93 * height)
    columns, rows = x1 - x0 + 1, y1 - y0 + 1
    beats = r_times(heart, rng, hr_bpm=shot.hr_bpm, start_s=0.0, stop_s=seconds + 1)
    time = np.linspace(0, seconds, columns)
    jitter = float(rng.normal(1, 0.04))
    if site == "mitral inflow":
        early, late = heart.e_velocity_m_s * jitter, heart.a_velocity_m_s * jitter
        peak = max(early, late)
        velocity = _inflow(time, beats, early, late)
        kind, top = "PW", -1.0
    elif site == "aortic valve":
        peak = heart.aortic_velocity_m_s * jitter
        velocity = -peak * _ejection(time, beats, late=heart.aortic_stenosis >= 2)
        kind, top = "CW", 1.0
    else:
        peak = heart.tr_velocity_m_s * jitter
        velocity = -peak * np.sin(np.pi * np.clip(_systolic(time, beats, 0.0, 0.42), 0, 1)) ** 0.6
        kind, top = "CW", 1.0
    limit = 1.35 * peak
    low, high = (-limit, 0.35 * limit) if top > 0 else (-0.35 * limit, limit)
    strip = _spectrum(velocity, low, high, rows, rng, filled=kind == "CW", difficulty=difficulty)
    frame = np.zeros((height, width, 3), np.uint8)
    frame[y0 : y1 + 1, x0 : x1 + 1] = strip[..., None]
    baseline = y0 + round(high / (high - low) * (rows - 1))
    cv2.line(frame, (x0, baseline), (x1, baseline), (150, 150, 150), 1)
    step = 0.2 if limit < 1.6 else 1.0
    for k in range(math.ceil(low / step), math.floor(high / step) + 1):
        y = y0 + round((high - k * step) / (high - low) * (rows - 1))
        cv2.line(frame, (x1 + 2, y), (x1 + int(5 * unit), y), _GREY, 1)
        _write(frame, f"{abs(k * step):.1f}", ((x1 + 6 * unit) / width, (y + 3 * unit) / height), 0.8 * unit)
    # A small guiding picture above, with the beam drawn on it.
    guide = draw(heart, replace(shot, volume_ml=shot.volume_ml[:1]), rng, annotate=False).frames[0]
    left = (width - guide.shape[1]) // 2
    frame[2 : 2 + guide.shape[0], left : left + guide.shape[1]] = guide
    geometry = shot.geometry
    gate = to_pixels(shot, np.array([[shot.length_ed_cm, 0.0]]))[0]
    start = (left + round(geometry.apex_x), 2 + round(geometry.apex_y))
    stop = (left + round(gate[0]), 2 + round(gate[1]))
    cv2.line(frame, start, stop, (190, 190, 190), 1, cv2.LINE_AA)
    if kind == "PW":
        cv2.line(frame, (stop[0] - 4, stop[1]), (stop[0] + 4, stop[1]), (220, 220, 220), 1)
    _write(frame, kind, (0.03, 0.06), unit)
    _write(frame, f"{float(np.abs(velocity).max()):.2f} m/s", (0.03, 0.12), unit)
    _write(frame, f"HR {shot.hr_bpm:.0f}", (0.86, 0.06), unit)
    x_box, y_box, x_end, y_end = geometry.box
    cm = geometry.cm_per_px
    velocity_step = 100 * (high - low) / (rows - 1)
    regions: tuple[Region, ...] = (
        (left + x_box, 2 + y_box, left + x_end, 2 + y_end, FLAT, TISSUE, CENTIMETRE, CENTIMETRE, cm, cm),
        (
            x0,
            y0,
            x1,
            y1,
            SPECTRUM,
            PW if kind == "PW" else CW,
            SECOND,
            CENTIMETRE_A_SECOND,
            seconds / (columns - 1),
            velocity_step,
        ),
    )
    return Modal(
        frames=frame[None],
        regions=regions,
        frame_time_ms=0.0,
        hr_bpm=shot.hr_bpm,
        what=f"spectral {kind} {site} {float(np.abs(velocity).max()):.1f} m/s",
    )


def _since(time: F64, beats: F64) -> tuple[F64, F64]:
    index = np.clip(np.searchsorted(beats, time, side="right") - 1, 0, len(beats) - 2)
    return time - beats[index], np.diff(beats)[index]


def _systolic(time: F64, beats: F64, start: float, stop: float) -> F64:
    """Share of a systolic interval that has passed; its ends are those of an RR interval of 1 s."""
    t, rr = _since(time, beats)
    root = np.sqrt(np.clip(rr, 0.4, 1.6))
    return np.asarray((t - start * root) / ((stop - start) * root))


def _ejection(time: F64, beats: F64, *, late: bool) -> F64:
    """Velocity through the aortic valve, peak 1: early in a healthy valve, in mid-systole in a tight one."""
    x = np.clip(_systolic(time, beats, 0.06, 0.34), 0, 1)
    skew = x if late else x**0.75
    return np.asarray(np.sin(np.pi * skew) ** (0.75 if late else 1.1))


def _inflow(time: F64, beats: F64, early: float, late: float) -> F64:
    t, rr = _since(time, beats)
    root = np.sqrt(np.clip(rr, 0.4, 1.6))
    e_wave = early * _round(np.clip(1 - np.abs(t - 0.47 * root) / np.where(t < 0.47 * root, 0.08, 0.19), 0, 1))
    a_wave = late * _round(np.clip(1 - np.abs(t - (rr - 0.08)) / 0.075, 0, 1))
    return np.asarray(np.maximum(e_wave, a_wave))


def _round(x: F64) -> F64:
    """A triangle with its tip taken off."""
    return np.asarray(np.minimum(x * (1.45 - 0.45 * x), 1.0))


def _spectrum(
    velocity: F64, low: float, high: float, rows: int, rng: np.random.Generator, *, filled: bool, difficulty: float
) -> U8:
    """(rows, columns) grey: a band below the envelope (PW), or all from the baseline to it (CW)."""
    axis = np.linspace(high, low, rows)[:, None]
    wide = 0.04 * (high - low)
    beyond = np.where(velocity >= 0, axis - velocity, velocity - axis)
    inside = np.where(velocity >= 0, axis, -axis)
    present = np.minimum(np.abs(velocity) / (0.08 * (high - low)), 1.0)
    body = 1 / (1 + np.exp(beyond / (0.15 * wide))) * (inside > 0)
    ridge = np.exp(-np.square((beyond + 0.5 * wide) / wide))
    level = (
        present * body * ((0.45 + 0.55 * ridge) if filled else (0.06 + 0.94 * np.exp(-np.square((beyond + wide) / (1.4 * wide)))))
    )
    level = level + 0.006 + 0.02 * difficulty + 0.10 * np.exp(-np.square(axis / (0.025 * (high - low))))
    grain = cv2.GaussianBlur(rng.exponential(1.0, (rows, len(velocity))).astype(np.float32), (0, 0), sigmaX=1.1, sigmaY=0.7)
    level = cv2.GaussianBlur(level.astype(np.float32), (0, 0), 1.2)
    power = np.clip(10 * np.log10(level * grain + 1e-4) + 21, 0, 23) / 23
    return np.asarray(255 * power, np.uint8)


def _colour(heart: Heart, shot: Shot, rng: np.random.Generator, size: tuple[int, int], difficulty: float) -> Modal:
    """A four-chamber or long-axis cine with a colour box: inflow, outflow, and a jet where a valve leaks."""
    drawn = draw(heart, shot, rng)
    anatomy = Anatomy(heart)
    moments = anatomy.moments(shot.volume_ml, shot.time_s, shot.beats_s)
    geometry = shot.geometry
    gate = to_pixels(shot, np.array([[shot.length_ed_cm, 0.0]]))[0]
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    r = np.hypot(x - geometry.apex_x, y - geometry.apex_y)
    angle = np.arctan2(x - geometry.apex_x, np.maximum(y - geometry.apex_y, 1e-3))
    gate_r = float(np.hypot(gate[0] - geometry.apex_x, gate[1] - geometry.apex_y))
    gate_angle = float(np.arctan2(gate[0] - geometry.apex_x, gate[1] - geometry.apex_y))
    ends = (gate_r - 4.2 / geometry.cm_per_px, min(gate_r + 4.2 / geometry.cm_per_px, geometry.radius_px - 3))
    half = 0.30
    middle = float(np.clip(gate_angle, -geometry.half_angle + half, geometry.half_angle - half))
    box = (r > ends[0]) & (r < ends[1]) & (np.abs(angle - middle) < half)
    px = np.stack([(x - geometry.apex_x) * geometry.cm_per_px, (y - geometry.apex_y) * geometry.cm_per_px], -1) - shot.pose.apex
    u, v = (px @ shot.pose.along).astype(np.float32), (px @ shot.pose.across).astype(np.float32)
    seeds = rng.standard_normal((2, *size), dtype=np.float32)
    grain = np.stack([cv2.GaussianBlur(part, (0, 0), 1.6 * size[0] / 300) for part in seeds])
    grain /= grain.std()
    outline = _box_outline(geometry.apex_x, geometry.apex_y, ends, middle, half)
    for i, now in enumerate(moments):
        towards, width = _flow(heart, anatomy, now, u, v)
        # Towards the probe is red: velocity along the beam.
        beam = -np.cos(angle) * shot.pose.along[1] - np.sin(angle) * shot.pose.along[0]
        speed = towards * beam + 0.10 * np.roll(grain[0], 3 * i, axis=0) * (np.abs(towards) > 0.05)
        turbulent = width * np.roll(grain[1], 5 * i, axis=1)
        dark = drawn.frames[i][..., 1] < 95
        paint = box & dark & (np.abs(speed) > 0.13) & (np.abs(towards) > 0.08)
        hue = _map(np.clip(speed, -1.6, 1.6) + 0.9 * turbulent)
        drawn.frames[i][paint] = hue[paint]
        cv2.polylines(drawn.frames[i], [outline], True, (225, 225, 225), 1, cv2.LINE_AA)
    unit = size[0] / 300
    bar = _map(np.linspace(1, -1, int(60 * unit), dtype=np.float32)[:, None].repeat(max(int(6 * unit), 2), 1))
    # In a narrow picture the bar gives way.
    top, left = int(45 * unit), max(int(size[1] - 22 * unit), 0)
    bar = bar[:, : size[1] - left]
    for frame in drawn.frames:
        frame[top : top + bar.shape[0], left : left + bar.shape[1]] = bar
        _write(frame, "61.6", ((left - 6 * unit) / size[1], (top - 3 * unit) / size[0]), 0.8 * unit)
        _write(frame, "cm/s", ((left - 6 * unit) / size[1], (top + bar.shape[0] + 9 * unit) / size[0]), 0.8 * unit)
    cm = geometry.cm_per_px
    points = outline.reshape(-1, 2)
    inner = (int(points[:, 0].min()), int(points[:, 1].min()), int(points[:, 0].max()), int(points[:, 1].max()))
    regions: tuple[Region, ...] = (
        (*geometry.box, FLAT, TISSUE, CENTIMETRE, CENTIMETRE, cm, cm),
        (*inner, FLAT, COLOUR_FLOW, CENTIMETRE, CENTIMETRE, cm, cm),
    )
    what = (
        f"colour {shot.view} mitral regurgitation {heart.mitral_regurgitation} aortic regurgitation {heart.aortic_regurgitation}"
    )
    return Modal(frames=drawn.frames, regions=regions, frame_time_ms=shot.frame_time_ms, hr_bpm=shot.hr_bpm, what=what)


def _flow(heart: Heart, anatomy: Anatomy, now: Moment, u: F32, v: F32) -> tuple[F32, F32]:
    """Velocity along the long axis, 1 = the scale's end, positive towards the base, and turbulence, at u, v."""
    ring = 0.7 * anatomy.radius_ed
    base = now.length
    inflow = -1.1 * now.mitral * np.exp(-np.square(v / (0.8 * ring))) * np.exp(-np.square((u - base + 1.2) / 2.6))
    outflow = (
        1.0
        * now.aortic
        * np.exp(-np.square((v - 0.4 * ring) / (0.7 * ring)))
        * (u < base + 3)
        * np.exp(-np.square((u - base) / 2.2))
    )
    total = inflow + outflow
    rough = np.zeros_like(total)
    closed = float(now.aortic > 0.2)
    for grade, along, across, sign, gate in (
        (heart.mitral_regurgitation, (u - base), v + 0.1, 1.0, closed),
        (heart.aortic_regurgitation, (base - u), v - 0.3 * ring, -1.0, float(now.mitral > 0.15)),
    ):
        if grade == 0 or gate == 0:
            continue
        long, wide = (0.0, 1.5, 2.8, 4.2)[grade], (0.0, 0.35, 0.7, 1.2)[grade]
        jet = (along > -0.3) * np.exp(-np.square(np.maximum(along - 0.6 * long, 0) / (0.3 * long)))
        jet = jet * np.exp(-np.square(across / (0.25 + wide * np.clip(along / max(long, 0.1), 0.15, 1))))
        strong = jet > 0.3
        total = np.where(strong, sign * 1.4 * jet, total)
        rough = np.where(strong, jet, rough)
    return total.astype(np.float32), rough.astype(np.float32)


def _map(speed: F32) -> U8:
    """Velocity -1 to 1 as red-yellow and blue-cyan; beyond it folds over, as on a machine (aliasing)."""
    folded = (np.asarray(speed) + 1) % 2 - 1
    size = np.abs(folded)
    strong, pale = np.clip(0.35 + 0.9 * size, 0, 1), np.clip((size - 0.45) / 0.55, 0, 1)
    red = np.where(folded > 0, 255 * strong, 30 * pale)
    green = 230 * pale
    blue = np.where(folded > 0, 20 * pale, 255 * strong)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def _box_outline(apex_x: float, apex_y: float, ends: tuple[float, float], middle: float, half: float) -> np.ndarray:
    angle = np.linspace(middle - half, middle + half, 16)
    far = np.stack([apex_x + ends[1] * np.sin(angle), apex_y + ends[1] * np.cos(angle)], 1)
    near = np.stack([apex_x + ends[0] * np.sin(angle), apex_y + ends[0] * np.cos(angle)], 1)
    return np.concatenate([far, near[::-1]]).round().astype(np.int32)[:, None]


def _m_mode(heart: Heart, shot: Shot, rng: np.random.Generator, size: tuple[int, int], difficulty: float) -> Modal:
    """One beam through the left ventricle over time: right ventricle, septum, cavity, inferolateral wall."""
    height, width = size
    unit = height / 300
    seconds = 3.0
    x0, x1, y0, y1 = int(0.05 * width), int(0.93 * width), int(0.32 * height), int(0.95 * height)
    columns, rows = x1 - x0 + 1, y1 - y0 + 1
    steps = 150
    time = np.linspace(0, seconds, steps)
    beats = r_times(heart, rng, hr_bpm=shot.hr_bpm, start_s=0.0, stop_s=seconds + 1)
    anatomy = Anatomy(heart)
    volume = heart.edv_ml - (heart.edv_ml - heart.esv_ml) * beat_at(time, beats, kick=heart.atrium_beats).emptied
    probe = Probe(anatomy, shot, rng)
    beam = to_pixels(shot, np.array([[0.64 * shot.length_ed_cm, 0.0]]))[0]
    angle = math.atan2(beam[0] - shot.geometry.apex_x, beam[1] - shot.geometry.apex_y)
    line = int(np.clip((angle / shot.geometry.half_angle + 1) / 2 * (probe.lines - 1), 1, probe.lines - 2))
    strip = np.stack([probe.scan(now, rng)[:, line] for now in anatomy.moments(volume, time, beats)], axis=1)
    strip = cv2.resize(strip, (columns, rows), interpolation=cv2.INTER_LINEAR)
    frame = np.zeros((height, width, 3), np.uint8)
    frame[y0 : y1 + 1, x0 : x1 + 1] = strip[..., None]
    small = _guide_size(size, 0.30, 0.40)
    guide_shot = shoot(heart, "plax", rng, frames=24, size=small, difficulty=difficulty)
    guide = draw(heart, replace(guide_shot, volume_ml=guide_shot.volume_ml[:1]), rng, annotate=False).frames[0]
    left = (width - small[1]) // 2
    frame[2 : 2 + small[0], left : left + small[1]] = guide
    geometry = guide_shot.geometry
    stop = to_pixels(guide_shot, np.array([[0.64 * guide_shot.length_ed_cm, 0.0]]))[0] - [geometry.apex_x, geometry.apex_y]
    stop = stop / np.hypot(*stop) * geometry.radius_px + [geometry.apex_x, geometry.apex_y]
    cv2.line(
        frame,
        (left + round(geometry.apex_x), 2 + round(geometry.apex_y)),
        (left + int(stop[0]), 2 + int(stop[1])),
        (190, 190, 190),
        1,
    )
    for cm in range(int(shot.geometry.depth_cm) + 1):
        y = y0 + round(cm / shot.geometry.depth_cm * (rows - 1))
        cv2.line(frame, (x1 + 2, y), (x1 + (6 if cm % 5 == 0 else 4), y), _GREY, 1)
    _write(frame, "M-mode", (0.03, 0.06), unit)
    _write(frame, f"HR {shot.hr_bpm:.0f}", (0.86, 0.06), unit)
    x_box, y_box, x_end, y_end = geometry.box
    regions: tuple[Region, ...] = (
        (
            left + x_box,
            2 + y_box,
            left + x_end,
            2 + y_end,
            FLAT,
            TISSUE,
            CENTIMETRE,
            CENTIMETRE,
            geometry.cm_per_px,
            geometry.cm_per_px,
        ),
        (x0, y0, x1, y1, MOTION, TISSUE, SECOND, CENTIMETRE, seconds / (columns - 1), shot.geometry.depth_cm / (rows - 1)),
    )
    return Modal(frames=frame[None], regions=regions, frame_time_ms=0.0, hr_bpm=shot.hr_bpm, what="M-mode of the left ventricle")


def _guide_size(size: tuple[int, int], tall: float, wide: float) -> tuple[int, int]:
    """Rows and columns of the small picture above a strip, as shares of the whole."""
    return int(tall * size[0]), int(wide * size[1])


def _write(frame: U8, text: str, at: tuple[float, float], unit: float) -> None:
    height, width = frame.shape[:2]
    place = (int(at[0] * width), int(at[1] * height))
    cv2.putText(frame, text, place, _FONT, 0.38 * unit, _GREY, max(round(unit * 0.7), 1), cv2.LINE_AA)
