"""What machines burn into a cine: text, depth marks, focus, grey bar, and an ECG trace in step with the beats.

Three layouts, as three makers might have them; a clip's layout is drawn with its shot. The R waves of the trace reach into the
region's box and near the middle into the sector itself, as the traces of real cines do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from ecgecho.simulate.heart import F64
from ecgecho.types import U8

if TYPE_CHECKING:
    from ecgecho.simulate.echo import Shot

SWEEP_S = 3.0
"""Time across the burned-in trace."""
LEAD_IN_S = 0.1
"""The trace starts this long before the R wave that precedes the clip, as on a machine that is triggered by it."""

_SHIFT = 4  # fractional bits of cv2's coordinates
_GREY = (205, 205, 205)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Places as shares of the picture's width and height."""

    colour: tuple[int, int, int]
    cursor: tuple[int, int, int]
    left: float
    right: float
    base: float
    """Of the trace."""
    tall: float
    """Of an R wave."""
    bar_left: bool


LAYOUTS = (
    Layout(colour=(70, 225, 95), cursor=(235, 220, 60), left=0.07, right=0.95, base=0.943, tall=0.133, bar_left=False),
    Layout(colour=(40, 205, 190), cursor=(240, 120, 40), left=0.12, right=0.88, base=0.950, tall=0.110, bar_left=True),
    Layout(colour=(120, 235, 60), cursor=(225, 60, 60), left=0.05, right=0.97, base=0.935, tall=0.120, bar_left=True),
)


def annotate_frames(pictures: U8, shot: Shot) -> None:
    """Burn the shot's layout into (T, H, W, 3), in place."""
    height, width = shot.size
    layout = LAYOUTS[shot.layout]
    static = np.zeros((height, width, 3), dtype=np.uint8)
    _marks(static, shot, layout)
    x0, x1 = layout.left * width, layout.right * width
    base = layout.base * height
    line = np.stack(
        [x0 + np.linspace(0, 1, int(x1 - x0) * 4) * (x1 - x0), base - layout.tall * height * trace(shot, int(x1 - x0) * 4)],
        axis=1,
    )
    thick = max(round(height / 400), 1)
    cv2.polylines(static, [_fixed(line)], False, layout.colour, thick, cv2.LINE_AA, _SHIFT)
    lit = np.nonzero(static.any(axis=2))
    ink = static[lit]
    start = trace_start_s(shot)
    unit = height / 300
    for picture, now in zip(pictures, shot.time_s, strict=True):
        picture[lit] = np.maximum(picture[lit] // 4, ink)
        x = round(x0 + (now - start) / SWEEP_S * (x1 - x0))
        cv2.line(picture, (x, int(base - 6 * unit)), (x, int(base + 6 * unit)), layout.cursor, max(round(2 * unit), 1))


def trace_start_s(shot: Shot) -> float:
    """Time at the left end of the trace."""
    before = shot.beats_s[shot.beats_s <= 0]
    return (float(before[-1]) if len(before) else 0.0) - LEAD_IN_S


def trace(shot: Shot, samples: int) -> F64:
    """(samples,) the burned-in ECG from left to right, R wave 1."""
    t = np.linspace(0, SWEEP_S, samples)
    out = np.zeros(samples)
    for beat in shot.beats_s - trace_start_s(shot):
        for centre, sigma, size in _WAVES if shot.atrium_beats else _WAVES[1:]:
            out += size * np.exp(-0.5 * np.square((t - beat - centre) / sigma))
    return out


# Centre and width in seconds, height: P, Q, R, S, T.
_WAVES = ((-0.16, 0.022, 0.13), (-0.022, 0.008, -0.12), (0.0, 0.010, 1.0), (0.026, 0.009, -0.2), (0.27, 0.045, 0.24))


def _marks(static: U8, shot: Shot, layout: Layout) -> None:
    """Text, depth scale, focus and grey bar."""
    geometry = shot.geometry
    height, width = shot.size
    unit = height / 300
    scale = 0.38 * unit
    lines = {
        0: ((4, 16, f"{geometry.depth_cm:.0f} cm"), (4, 30, f"{1000 / shot.frame_time_ms:.0f} Hz")),
        1: ((16, 14, "Adult Echo"), (16, 28, f"{1000 / shot.frame_time_ms:.0f} Hz"), (16, 42, f"{geometry.depth_cm:.1f}cm")),
        2: ((16, 14, f"FR {1000 / shot.frame_time_ms:.0f}Hz"), (16, 28, "2D"), (16, 40, "Gen"), (16, 52, "C 50")),
    }[shot.layout]
    for x, y, text in lines:
        cv2.putText(static, text, (int(x * unit), int(y * unit)), _FONT, scale, _GREY, max(round(unit * 0.7), 1), cv2.LINE_AA)
    # In the corner of the box that the fan leaves free: inside the region, outside the sector.
    cv2.putText(
        static,
        f"HR {shot.hr_bpm:.0f}",
        (int(0.81 * width), int(238 * unit)),
        _FONT,
        scale,
        _GREY,
        max(round(unit * 0.7), 1),
        cv2.LINE_AA,
    )
    for cm in range(0, int(geometry.depth_cm) + 1):
        y = round(geometry.apex_y + cm / geometry.cm_per_px)
        long = 5 if cm % 5 == 0 else 2
        cv2.line(static, (int(width - 8 * unit), y), (int(width - (8 - long) * unit), y), _GREY, 1)
    y = round(geometry.apex_y + 0.6 * geometry.radius_px)
    x = int(width - 9 * unit)
    focus = np.array([[x, y], [x - 4 * unit, y - 3 * unit], [x - 4 * unit, y + 3 * unit]])
    cv2.fillPoly(static, [_fixed(focus)], _GREY, cv2.LINE_AA, _SHIFT)
    if layout.bar_left:
        top, bottom = int(70 * unit), int(150 * unit)
        x = int(5 * unit)
        bar = np.linspace(255, 8, bottom - top).astype(np.uint8)[:, None, None]
        static[top:bottom, x : x + max(int(5 * unit), 2)] = bar


def _fixed(points: F64) -> npt.NDArray[np.int32]:
    return np.asarray(np.round(points * 2**_SHIFT), dtype=np.int32)[:, None]
