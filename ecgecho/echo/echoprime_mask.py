"""The sector of a cine as EchoPrime finds it: what is lit often and differs between the first and the last frame.

Only for parity; ecgecho/echo/sector.py is ours. A static cine keeps nothing, and a dark pixel that no contour holds is lost.

Source: EchoPrime utils/utils.py, mask_outside_ultrasound, at 45609cd. (T, H, W) frames.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ecgecho.types import U8, Bool, ItemError

ROUNDS = 10
"""Of eroding, so that the ECG trace is gone, and of dilating."""
CORNER = 20
"""Pixels at the top left that never count as moving: a dot blinks there in some exports."""
EDGE = 3
"""Thickness of the hull's outline, which belongs to the sector."""
_OUTSIDE = 100
_KERNEL = np.ones((3, 3), np.uint8)


def mask_as_echoprime(frames: U8) -> U8:
    """RGB (T, H, W, 3) -> the same, black outside the sector.

    Raises ItemError where it keeps nothing: a cine of 255 frames, or one whose last frame is its first.
    """
    inside = echoprime_sector(rgb_to_ybr(frames))
    if not inside.any():
        raise ItemError("mask_empty", "EchoPrime's mask keeps no pixel of this cine; our sector mask (parity off) may")
    return frames * inside[:, :, None]


def echoprime_sector(frames: U8) -> Bool:
    """YBR (T, H, W, 3) -> (H, W), True inside.

    Frames are counted modulo 256 as in the reference, where pixels that are always lit count once more than there are frames,
    so that a cine of 255 frames loses them.
    """
    # The reference begins the count with a first frame in floating point, where OpenCV's neutral colour is another: it is lit
    # nearly everywhere. Kept, because which counts wrap follows from it.
    first, last = frames[0], frames[-1]
    count = (_grey(first.astype(np.float32)) > 0).astype(np.int64)
    for frame in frames:
        count += _grey(frame) > 0
    often = cv2.erode((count % 256).astype(np.uint8), _KERNEL, iterations=ROUNDS) > 0
    moves = _grey(first) != _grey(last)
    moves[:CORNER, :CORNER] = False
    grown = cv2.dilate((often & moves).astype(np.uint8), _KERNEL, iterations=ROUNDS)
    shape = _filled(grown)
    contours, _ = cv2.findContours(shape, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        cv2.drawContours(shape, [cv2.convexHull(contour)], -1, 255, EDGE)
    return _filled((shape > 0).astype(np.uint8)) > 0


def rgb_to_ybr(frames: U8) -> U8:
    """RGB -> DICOM's YBR_FULL (luma, blue, red), (T, H, W, 3). The way back loses at most a grey level or two."""
    out = np.empty_like(frames)
    for source, target in zip(frames, out, strict=True):
        target[:] = cv2.cvtColor(np.ascontiguousarray(source), cv2.COLOR_RGB2YCrCb)[..., (0, 2, 1)]
    return out


def ybr_to_bgr(frames: U8) -> U8:
    """YBR -> blue, green, red by the gains of analogue television, which EchoPrime applies to its DICOM frames."""
    out = np.empty_like(frames)
    for source, target in zip(frames, out, strict=True):
        target[:] = cv2.cvtColor(np.ascontiguousarray(source), cv2.COLOR_YUV2BGR)
    return out


def _grey(frame: npt.NDArray[Any]) -> npt.NDArray[Any]:
    grey: npt.NDArray[Any] = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_YUV2RGB), cv2.COLOR_RGB2GRAY)
    return grey


def _filled(shape: U8) -> U8:
    """255 wherever the ground that the top left corner belongs to does not reach."""
    cv2.floodFill(shape, None, (0, 0), _OUTSIDE)
    return np.where(shape != _OUTSIDE, 255, 0).astype(np.uint8)
