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

Source = Literal["region+motion", "motion", "region+brightness", "brightness", "region", "image"]

MASK_VERSION = 2
"""Raised when the same clip would get another mask: rows of two versions may not lie in one store."""
WORK_SIZE = 320
"""Longest side of the images on which evidence is gathered: averages out noise, and costs milliseconds."""
MAX_STEPS = 24
STEP = 2
"""Grey levels by which living speckle changes from frame to frame; still pixels of a JPEG change by 0."""
RELATIVE_STEP = 0.04
MOVING_SHARE = 0.2
"""Of the steps in which a pixel of the sector changes. A sweeping trace passes a pixel once or twice in a clip."""
LIT, LIT_SHARE = 0.4, 0.68
"""Mean level of the dimmest scanned pixels of a real cine (its 10th percentile is 0.3), and how many around must reach it."""
BLOCK, RINGING = 8, 0.06
"""Pixels of a JPEG block, over which an edge rings, and by how much of its brightness."""
BRIGHT = 12
TEXT = 11
"""Pixels of WORK_SIZE: still writing is lit like tissue, but its lines are lower."""
TRIMMED = 0.9
"""Of a sector that may be lost with the writing beside it; more is tissue."""
MIN_AREA, MAX_AREA = 0.15, 0.85
"""Of the region (of the image, where there is none): a sector of 90 degrees fills 0.55 of its box."""
SMALL_AREA, DENSE, MAIN_SHARE = 0.02, 0.5, 0.4
"""A sector may be as small a part of the image, where so much of its hull moves, and it holds so much of all that moves."""
MAX_GROWTH = 1.7
TIP, MIN_OPENING = 0.06, 0.3
"""How far above the highest motion the tip may lie, in image heights; how fast the flanks must open: less is no sector."""
HIGH_WIDEST = 0.4
"""Of its height: where the widest row of a sector lies whose tip is below."""
ECG_TRACE = 10
"""RegionDataType of a trace that has a region of its own."""
MIN_OVERLAP, MIN_OVERLAP_STATED = 0.85, 0.6
"""Of the moving pixels that regions must hold to be believed: in guessed coordinates, and in those of the file."""
CHROMA = 28
"""Distance from the clip's own tint at which a pixel is drawn, not scanned; JPEG's chroma noise on speckle stays below 15."""
SPREAD = 48
"""Greatest minus least channel, the same for a grey map."""
MARGIN = 3
WHITE, PASSING = 100, 2
"""Least brightness of a white trace, and the most that a pixel it passes has on most frames."""
RIM = 0.02
TRACE_WIDTH, TRACE_HEIGHT = 0.5, 0.33
"""Of the picture: a trace is as wide and no taller."""
TINT_BINS = 16
MAX_COLOURED = 1 / 3
"""Of the sector: what a box may take; larger pieces are blanked by their own pixels."""


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

    Where motion is no evidence (too little, or nearly all of the box), the hull of what is lit; else the region, else the image.
    Every step back is a defect.
    """
    shape = (clip.frames.shape[1], clip.frames.shape[2])
    defects: list[str] = []
    box = _box(clip.regions, shape)
    small = _small(clip.frames, clip.kind)
    share = _share_of_steps(small, STEP)
    scanned = _scanned(small, shape[1] / small.shape[2])
    least = MIN_OVERLAP if "region_rescaled" in clip.defects else MIN_OVERLAP_STATED
    evidence = (share > MOVING_SHARE) & scanned
    judges = evidence.mean() >= SMALL_AREA
    if box is not None and judges and _share_inside(evidence, _boxes(clip.regions, shape)) < least:
        defects.append("region_disagrees")
        box = None
    hull = _hull(evidence, shape, box)
    # The dim flanks of a sector change by single levels; so does all of an image under a video codec, where this is too much.
    wide = _hull((_share_of_steps(small, 1) > MOVING_SHARE) & scanned, shape, box)
    if _area_fits(wide, box) and hull.sum() < wide.sum() <= MAX_GROWTH * hull.sum():
        hull = wide
    source: Source
    if _area_fits(hull, box) or (box is None and _is_small_sector(hull, evidence)):
        source, mask = "motion" if box is None else "region+motion", _with_tip(hull, box)
    else:
        defects.append("motion_unclear")
        lit, trimmed = _hull(scanned, shape, box), _hull(scanned, shape, box, least=TEXT)
        if trimmed.sum() >= TRIMMED * lit.sum():
            lit = trimmed
        if not _area_fits(lit, box):
            lit = _hull(small.mean(axis=0) > BRIGHT, shape, box)
        if _area_fits(lit, box):
            source, mask = "brightness" if box is None else "region+brightness", _with_tip(lit, box)
        elif box is not None:
            source, mask = "region", box
        else:
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

    Drawing is blanked in all frames, by boxes: a hole of its own shape would still tell the heart rate.
    """
    if frames.shape[1:3] != sector.mask.shape:
        raise ValueError(f"frames of {frames.shape[1:3]} pixels and a sector of {sector.mask.shape}")
    kept = sector.mask
    if kind == "b_mode":
        kept = kept & ~drawn_boxes(frames, sector.mask)
    result = np.zeros_like(frames)
    for source, target in zip(frames, result, strict=True):
        cv2.copyTo(source, kept.astype(np.uint8), target)
    return result


def drawn_boxes(frames: U8, mask: Bool) -> Bool:
    """(H, W), True inside the mask where a b_mode clip is blanked: coloured drawing, and the rows of a white trace."""
    return (coloured_boxes(frames, mask) | _trace_band(frames, mask)) & mask


def _trace_band(frames: U8, mask: Bool) -> Bool:
    """The rows of a grey or white trace that runs beside the mask: what of it lies inside cannot be told from tissue."""
    height, width = mask.shape
    band = np.zeros(mask.shape, np.bool_)
    # Of the least channel: a coloured trace has its own, narrower box.
    ink = np.asarray(_brightest(frames) >= WHITE, np.uint8)
    # The sector's own edge, where the mask is a little too small, is no ink.
    ink[_grow(mask, max(3, round(RIM * max(height, width))))] = 0
    count, _, stats, _ = cv2.connectedComponentsWithStats(cv2.dilate(ink, np.ones((3, 3), np.uint8)), connectivity=8)
    for number in range(1, count):
        _, y, wide, high = (int(value) for value in stats[number, :4])
        rows = slice(max(y - MARGIN, 0), y + high + MARGIN)
        if wide >= TRACE_WIDTH * width and high <= TRACE_HEIGHT * height and mask[rows].sum() <= MAX_COLOURED * mask.sum():
            band[rows] = True
    return band


def _brightest(frames: U8) -> U8:
    """(H, W) the greatest of the least channel in at most MAX_STEPS + 1 frames."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), MAX_STEPS + 1)).round().astype(int))
    high = np.zeros(frames.shape[1:3], np.uint8)
    for index in chosen:
        red, green, blue = cv2.split(frames[index])
        high = np.asarray(cv2.max(high, cv2.min(cv2.min(red, green), blue)), np.uint8)
    return high


def coloured_boxes(frames: U8, mask: Bool) -> Bool:
    """(H, W), True inside the mask in the boxes around connected drawing, wherever in the image it begins.

    A trace that only touches the sector with its R waves is one piece outside it, so its box is a band across the sector:
    holes where the R waves are would be as far apart as the beats.
    """
    drawn = _drawn(frames, _tint(frames, mask))
    boxes = np.zeros(mask.shape, np.bool_)
    if not drawn.any():
        return boxes
    joined = cv2.morphologyEx(drawn, cv2.MORPH_CLOSE, _disc(max(mask.shape) // 30 + 1))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    limit = MAX_COLOURED * float(mask.sum())
    for number in range(1, count):
        x, y, width, height = (int(value) for value in stats[number, :4])
        # JPEG stores chroma at half the size, and the brightness of a line reaches further than its colour.
        box = (slice(max(y - MARGIN, 0), y + height + MARGIN), slice(max(x - MARGIN, 0), x + width + MARGIN))
        if float(mask[box].sum()) <= limit:
            boxes[box] = True
        else:  # a frame around the picture, or colour flow that no tag announced
            boxes |= _grow((labels == number) & (drawn > 0), MARGIN)
    return boxes & mask


def _drawn(frames: U8, tint: npt.NDArray[np.int16]) -> U8:
    """(H, W), 1 where a pixel is coloured in any frame."""
    if (np.abs(tint - 128) > CHROMA // 4).any():
        found = np.zeros(frames.shape[1:3], np.uint8)
        for frame in frames:
            ycc = cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb)
            away = np.abs(ycc[..., 1:].astype(np.int16) - tint[ycc[..., 0] // (256 // TINT_BINS)]).max(axis=2)
            found |= (away > CHROMA).astype(np.uint8)
        return found
    # On a grey map the spread of the three channels says the same, 20 times faster: |Cr - 128| = 0.71 |R - Y|.
    widest = np.zeros(frames.shape[1:3], np.uint8)
    for frame in frames:
        red, green, blue = cv2.split(frame)
        spread = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
        widest = cv2.max(widest, spread)
    return np.asarray(widest > SPREAD, np.uint8)


def _boxes(regions: tuple[Region, ...], shape: tuple[int, int]) -> Bool:
    """All 2-D regions: a display may hold two sectors side by side."""
    found = np.zeros(shape, np.bool_)
    for region in regions:
        if region.spatial_format == 1:
            found[region.y0 : region.y1 + 1, region.x0 : region.x1 + 1] = True
    return found


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
    # Beside the sector, bright text rings with it by single levels; speckle changes by its own size.
    least = np.maximum(step, RELATIVE_STEP * small.mean(axis=0))
    share = (np.abs(np.diff(small, axis=0)) >= least).mean(axis=0)
    return np.asarray(cv2.medianBlur((share * 255).astype(np.uint8), 5), np.float32) / 255.0


def _scanned(small: npt.NDArray[np.int16], factor: float) -> Bool:
    """(h, w) where nearly all pixels around are above black on average, and above the ringing of an edge within a JPEG block.

    The inside of a cavity may fail beside a bright wall; the hull fills it.
    """
    level = small.mean(axis=0, dtype=np.float32)
    nearby = cv2.dilate(cv2.blur(level, (3, 3)), np.ones((_odd(2 * BLOCK / factor), _odd(2 * BLOCK / factor)), np.uint8))
    # A moving white trace passes now and then, on black.
    passing = (small.max(axis=0) >= WHITE) & (np.median(small, axis=0) <= PASSING)
    lit = (level >= np.maximum(LIT, RINGING * nearby)) & ~passing
    return np.asarray(cv2.blur(lit.astype(np.float32), (5, 5)) >= LIT_SHARE)


def _hull(evidence: Bool, shape: tuple[int, int], box: Bool | None, *, least: int = 3) -> Bool:
    """(H, W) the filled convex hull of the largest piece of evidence (h, w), after joining pieces that nearly touch.

    What is thinner than `least` pixels is none.
    """
    size = (evidence.shape[1], evidence.shape[0])
    whole = evidence.astype(np.uint8)
    if least > 3:  # on one frame, speckle has gaps
        whole = cv2.morphologyEx(whole, cv2.MORPH_CLOSE, _disc(least / 2))
    small = cv2.morphologyEx(whole, cv2.MORPH_OPEN, np.ones((least, least), np.uint8))
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


def _is_small_sector(hull: Bool, evidence: Bool) -> bool:
    """A sector that fills little of the image: dense, and most of what moves."""
    small = cv2.resize(hull.astype(np.uint8), (evidence.shape[1], evidence.shape[0]), interpolation=cv2.INTER_NEAREST) > 0
    inside = int((evidence & small).sum())
    return bool(
        SMALL_AREA * small.size <= small.sum() <= MAX_AREA * small.size
        and inside >= DENSE * small.sum()
        and inside >= MAIN_SHARE * evidence.sum()
    )


def _with_tip(hull: Bool, box: Bool | None) -> Bool:
    """The hull with its flanks drawn on to where they meet, no further than the box and TIP: near the probe little moves."""
    rows = np.nonzero(hull.any(axis=1))[0]
    left = hull[rows].argmax(axis=1)
    right = hull.shape[1] - 1 - hull[rows, ::-1].argmax(axis=1)
    widest = int((right - left).argmax())
    upper, lower = round(0.15 * widest), round(0.7 * widest)
    # Widest near the top: a sector that stands on its tip.
    if lower - upper < 4 or widest < HIGH_WIDEST * len(rows):
        return hull
    rise = float(rows[lower] - rows[upper])
    slopes = (left[lower] - left[upper]) / rise, (right[lower] - right[upper]) / rise
    if slopes[1] - slopes[0] < MIN_OPENING:
        return hull
    # Rows above `upper` at which the flanks meet.
    height = (right[upper] - left[upper]) / (slopes[1] - slopes[0])
    top = max(rows[upper] - height, rows[0] - TIP * hull.shape[0])
    up = rows[upper] - top
    corners = [
        (left[upper], rows[upper]),
        (right[upper], rows[upper]),
        (right[upper] - slopes[1] * up, top),
        (left[upper] - slopes[0] * up, top),
    ]
    filled = hull.astype(np.uint8)
    cv2.fillConvexPoly(filled, np.array(corners).round().astype(np.int32), 1)
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


def _tint(frames: U8, mask: Bool) -> npt.NDArray[np.int16]:
    """(TINT_BINS, 2) the median chroma of the clip at each brightness: 128 for grey maps, a curve for sepia and blue ones."""
    rows, columns = (index[::7] for index in np.nonzero(mask))
    pixels = np.stack([frame[rows, columns] for frame in frames[:: max(1, len(frames) // 8)]])
    ycc = cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb).reshape(-1, 3)
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


def _grow(mask: Bool, pixels: int) -> Bool:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), _disc(2 * pixels + 1)), np.bool_)


def _disc(size: float) -> U8:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_odd(size), _odd(size))), np.uint8)


def _odd(size: float) -> int:
    return int(size) | 1
