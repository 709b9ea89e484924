"""From frames of any size to a teacher's square input: pure functions over (T, H, W, 3) uint8 -> (T, S, S, 3) uint8.

How a picture becomes square is part of what a teacher saw in training; each way has its name in `TeacherSpec.resize`.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from ecgecho.types import U8

Interpolation = Literal["area", "linear", "cubic"]
_FLAGS = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}


def squash(frames: U8, size: int, *, interpolation: Interpolation = "area") -> U8:
    """The whole picture, its aspect not kept."""
    return _resize(frames, size, interpolation)


def crop_zoom(frames: U8, size: int, *, zoom: float = 0.1, interpolation: Interpolation = "cubic") -> U8:
    """The central square, to the pixel that is left of an odd difference, without `zoom` of each of its sides.

    Source: crop_and_scale of echo_CLIP utils.py:115-133 and of EchoPrime utils.py, which are one, less their failure where a
    cut rounds to 0.
    """
    if not 0 <= zoom < 0.5:
        raise ValueError(f"zoom is {zoom}; a share below 0.5 is cut from each side")
    height, width = frames.shape[1:3]
    side = round(abs(width - height) / 2)
    square = frames[:, :, side : width - side] if width > height else frames[:, side : height - side]
    height, width = square.shape[1:3]
    top, left = int(height * zoom), int(width * zoom)
    return _resize(square[:, top : height - top, left : width - left], size, interpolation)


def short_side(frames: U8, size: int, *, interpolation: Interpolation = "area") -> U8:
    """The short side scaled to `size`, the long one cropped at its centre."""
    return _resize(_central_square(frames), size, interpolation)


def _central_square(frames: U8) -> U8:
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frames[:, top : top + side, left : left + side]


def _resize(frames: U8, size: int, interpolation: Interpolation) -> U8:
    if size < 1 or frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 (T, H, W, 3) and size positive, not {frames.dtype} {frames.shape} and {size}")
    out = np.empty((len(frames), size, size, 3), np.uint8)
    for source, target in zip(frames, out, strict=True):
        if source.shape[:2] == (size, size):
            target[...] = source
        else:
            cv2.resize(np.ascontiguousarray(source), (size, size), dst=target, interpolation=_FLAGS[interpolation])
    return out
