"""The part of an echo image that is ultrasound, and blanking of all the rest: text, ECG traces, logos, markers.

An echo cine shows the ECG that was recorded with it. A student that is trained to match the two could read it from the
pixels, so what lies outside the sector, and coloured drawing inside it, is removed before a teacher sees a frame.

Shapes: frames (T, H, W, 3) uint8 RGB, masks (H, W) bool, True = kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from ecgecho.types import U8, Bool, ClipKind, EchoClip, Region

Source = Literal["region+motion", "motion", "region", "brightness", "image"]

WORK_SIZE = 320
"""Longest side of the images on which evidence is gathered: averages out noise, and costs milliseconds."""
MAX_STEPS = 24
STEP = 2
"""Grey levels by which living speckle changes from frame to frame; still pixels of a JPEG change by 0."""
MOVING_SHARE = 0.2
"""Of the steps in which a pixel of the sector changes. A sweeping trace passes a pixel once or twice in a clip."""
BRIGHT = 12
MIN_AREA, MAX_AREA = 0.15, 0.85
"""Of the region (of the image, where there is none): a sector of 90 degrees fills 0.55 of its box."""
MAX_GROWTH = 1.7
ECG_TRACE = 10
"""RegionDataType of a trace that has a region of its own."""
MIN_OVERLAP = 0.85
"""Of the moving pixels that a region in guessed coordinates must hold, to be believed."""
CHROMA = 28
"""Distance from the clip's own tint at which a pixel is drawn, not scanned; JPEG's chroma noise on speckle stays below 15."""
TINT_BINS = 16
MAX_COLOURED = 1 / 3
"""Of the sector: more is no drawing, and is not blanked by its boxes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sector:
    """The kept pixels of a clip, and how they were found."""

    mask: Bool
    """(H, W)."""
    source: Source
    defects: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_ or not self.mask.any():
            raise ValueError(f"a sector mask must be bool (H, W) and keep something, not {self.mask.dtype} {self.mask.shape}")


def find_sector(clip: EchoClip) -> Sector:
    """One mask for the whole clip: the convex hull of what moves, inside the largest 2-D region.

    Where motion is no evidence (too little, or nearly all of the box), the region alone; without one, the hull of what is
    bright; else the image. Every step back is a defect.
    """
    shape = (clip.frames.shape[1], clip.frames.shape[2])
    defects: list[str] = []
    box = _box(clip.regions, shape)
    small = _small(clip.frames, clip.kind)
    share = _share_of_steps(small, STEP)
    if box is not None and "region_rescaled" in clip.defects and _share_inside(share > MOVING_SHARE, box) < MIN_OVERLAP:
        defects.append("region_disagrees")
        box = None
    hull = _hull(share > MOVING_SHARE, shape, box)
    # The dim flanks of a sector change by single levels; so does all of an image under a video codec, where this is too much.
    wide = _hull(_share_of_steps(small, 1) > MOVING_SHARE, shape, box)
    if _area_fits(wide, box) and hull.sum() < wide.sum() <= MAX_GROWTH * hull.sum():
        hull = wide
    source: Source
    if _area_fits(hull, box):
        source, mask = "motion" if box is None else "region+motion", hull
    elif box is not None:
        defects.append("motion_unclear")
        source, mask = "region", box
    else:
        defects.append("motion_unclear")
        source, mask = "brightness", _hull(small.mean(axis=0) > BRIGHT, shape, None)
        if not _area_fits(mask, None):
            # A clip cropped to its sector, or a rectangular scan: nothing can be told from outside it.
            defects.append("sector_not_found")
            source, mask = "image", np.ones(shape, np.bool_)
    for region in clip.regions:
        if region.data_type == ECG_TRACE and source != "image":
            mask = mask.copy()
            mask[region.y0 : region.y1 + 1, region.x0 : region.x1 + 1] = False
    if not mask.any():
        defects.append("sector_not_found")
        source, mask = "image", np.ones(shape, np.bool_)
    return Sector(mask=mask, source=source, defects=tuple(defects))


def blank(frames: U8, sector: Sector, kind: ClipKind) -> U8:
    """Frames with 0 outside the sector and, in b_mode, in place of coloured drawing inside it.

    Drawing is blanked by the boxes of what it covers in any frame: a hole of its own shape would still tell the heart rate.
    """
    if frames.shape[1:3] != sector.mask.shape:
        raise ValueError(f"frames of {frames.shape[1:3]} pixels and a sector of {sector.mask.shape}")
    kept = sector.mask
    if kind == "b_mode":
        kept = kept & ~coloured_boxes(frames, sector.mask)
    result = np.zeros_like(frames)
    for source, target in zip(frames, result, strict=True):
        cv2.copyTo(source, kept.astype(np.uint8), target)
    return result


def coloured_boxes(frames: U8, mask: Bool) -> Bool:
    """(H, W), True in the boxes around what is drawn in colour in any frame, inside the mask."""
    drawn = np.zeros(mask.shape, np.uint8)
    tint = _tint(frames, mask)
    neutral = bool((np.abs(tint - 128) <= CHROMA // 4).all())
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    inside = (slice(top, top + height), slice(left, left + width))
    for frame in frames:
        image = np.ascontiguousarray(frame[inside])
        if neutral:
            # |Cr - 128| = 0.71 |R - Y| and |Cb - 128| = 0.56 |B - Y|, so the spread of the channels exceeds either.
            red, green, blue = cv2.split(image)
            spread = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
            rows, columns = np.nonzero(spread > CHROMA)
            if not len(rows):
                continue
            drawn[inside][rows, columns] |= _away(image[rows, columns][None], tint)[0]
        else:
            drawn[inside] |= _away(image, tint)
    drawn &= mask.astype(np.uint8)
    if not drawn.any():
        return drawn.astype(np.bool_)
    joined = cv2.morphologyEx(drawn, cv2.MORPH_CLOSE, _disc(max(mask.shape) // 40 + 1))
    count, _, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    boxes = np.zeros(mask.shape, np.bool_)
    for x, y, width, height, _ in stats[1:count]:
        # Chroma is stored at half the size and shared by 2 x 2 pixels; the brightness of a line reaches further than its colour.
        boxes[max(y - 3, 0) : y + height + 3, max(x - 3, 0) : x + width + 3] = True
    boxes &= mask
    return boxes if boxes.sum() <= MAX_COLOURED * mask.sum() else _grow(drawn, 3) & mask


def _box(regions: tuple[Region, ...], shape: tuple[int, int]) -> Bool | None:
    """The largest 2-D region of tissue or colour flow, inclusive."""
    found = [region for region in regions if region.spatial_format == 1 and region.data_type in (1, 2)]
    if not found:
        return None
    best = max(found, key=lambda region: (region.x1 - region.x0) * (region.y1 - region.y0))
    box = np.zeros(shape, np.bool_)
    box[best.y0 : best.y1 + 1, best.x0 : best.x1 + 1] = True
    return box if box.any() else None


def _small(frames: U8, kind: ClipKind) -> npt.NDArray[np.int16]:
    """(t, h, w) brightness of at most MAX_STEPS + 1 frames, evenly chosen, at no more than WORK_SIZE pixels."""
    height, width = frames.shape[1:3]
    factor = max(1.0, max(height, width) / WORK_SIZE)
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), MAX_STEPS + 1)).round().astype(int))
    small = np.empty((len(chosen), size[1], size[0]), np.int16)
    for row, index in enumerate(chosen):
        # Picked, not averaged: an average of speckle in a dim flank changes by less than a level.
        red, green, blue = cv2.split(cv2.resize(frames[index], size, interpolation=cv2.INTER_NEAREST))
        # The least channel in b_mode: a green or yellow trace is dark in it, grey speckle is not.
        join = cv2.min if kind == "b_mode" else cv2.max
        small[row] = join(join(red, green), blue)
    return small


def _share_of_steps(small: npt.NDArray[np.int16], step: int) -> npt.NDArray[np.float32]:
    """(h, w) in which share of the steps a pixel changes by `step` or more; lines of one or two pixels are gone."""
    if len(small) < 2:
        return np.zeros(small.shape[1:], np.float32)
    share = (np.abs(np.diff(small, axis=0)) >= step).mean(axis=0)
    return np.asarray(cv2.medianBlur((share * 255).astype(np.uint8), 5), np.float32) / 255.0


def _hull(evidence: Bool, shape: tuple[int, int], box: Bool | None) -> Bool:
    """(H, W) the filled convex hull of the largest piece of evidence (h, w), after joining pieces that nearly touch."""
    size = (evidence.shape[1], evidence.shape[0])
    small = cv2.morphologyEx(evidence.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    if box is not None:
        small &= cv2.resize(box.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    joined = cv2.morphologyEx(small, cv2.MORPH_CLOSE, _disc(max(size) // 40 + 1))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    filled = np.zeros(shape, np.uint8)
    if count > 1:
        largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
        points = cv2.findNonZero(small & (labels == largest))
        if points is not None:
            scale = np.array([shape[1] / size[0], shape[0] / size[1]])
            corners = (cv2.convexHull(points).reshape(-1, 2) + 0.5) * scale - 0.5
            cv2.fillConvexPoly(filled, corners.round().astype(np.int32), 1)
    mask = filled.astype(np.bool_)
    return mask if box is None else mask & box


def _area_fits(mask: Bool, box: Bool | None) -> bool:
    whole = mask.size if box is None else int(box.sum())
    return MIN_AREA * whole <= int(mask.sum()) <= MAX_AREA * whole


def _share_inside(evidence: Bool, box: Bool) -> float:
    """Of the evidence (h, w), the share inside the box (H, W)."""
    small = cv2.resize(box.astype(np.uint8), (evidence.shape[1], evidence.shape[0]), interpolation=cv2.INTER_NEAREST)
    total = int(evidence.sum())
    return float((evidence & (small > 0)).sum() / total) if total else 0.0


def _away(image: U8, tint: npt.NDArray[np.int16]) -> U8:
    """(h, w), 1 where the chroma of a pixel is far from the clip's tint at its brightness."""
    ycc = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    distance = np.abs(ycc[..., 1:].astype(np.int16) - tint[ycc[..., 0] // (256 // TINT_BINS)]).max(axis=2)
    return np.asarray(distance > CHROMA, np.uint8)


def _tint(frames: U8, mask: Bool) -> npt.NDArray[np.int16]:
    """(TINT_BINS, 2) the median chroma of the clip at each brightness: 128 for grey maps, a curve for sepia and blue ones."""
    step = max(1, len(frames) // 8)
    pixels = frames[::step][:, mask][:, ::7].reshape(1, -1, 3)
    ycc = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2YCrCb)[0]
    which = ycc[:, 0] // (256 // TINT_BINS)
    tint = np.full((TINT_BINS, 2), 128, np.int16)
    for number in range(TINT_BINS):
        inside = ycc[which == number, 1:]
        # A tint is one the brightness level as a whole has; a few drawn pixels in an empty level are none.
        if len(inside) >= 0.01 * len(ycc):
            tint[number] = np.median(inside, axis=0)
        elif number:
            tint[number] = tint[number - 1]
    return tint


def _grow(mask: Bool | U8, pixels: int) -> Bool:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), _disc(2 * pixels + 1)), np.bool_)


def _disc(size: int) -> U8:
    odd = size | 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (odd, odd)), np.uint8)
