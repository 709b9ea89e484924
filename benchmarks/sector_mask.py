"""How well is the sector found, how much of what is burned in stays, and how much tissue is lost? By kind of cine.

    python benchmarks/sector_mask.py --out benchmarks/results/sector_mask_YYYYMM.md [--pictures docs/sector_kinds.jpg]

Simulated cines only: the truth is the fan that the simulator drew in. Each kind changes one thing of the plain cine: where the
sector lies, what is burned in, what the tags say, how it was coded. Counted before the code's loss, on the pixels of all frames:
a pixel is burned in where it is not black outside the fan (the simulator draws nothing there), or differs from the picture
without annotations inside it.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pydicom
from pydicom.data import get_testdata_file

from ecgecho.echo.sector import blank, drawn_boxes, find_sector
from ecgecho.io import jpeg, read_echo
from ecgecho.simulate import annotate
from ecgecho.simulate.echo import VIEWS, Shot, View, draw, shoot
from ecgecho.simulate.heart import draw_heart, stream
from ecgecho.simulate.modes import picture, shot_of
from ecgecho.types import U8, Bool, ClipKind, EchoClip, Region

SEED = 20_263
SIZE, FRAMES = (300, 400), 20
INK = 24
"""Grey levels by which burned-in ink differs from what lies under it."""
GREY = (205, 205, 205)
FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Scene:
    """A cine before it is coded, and the truth."""

    clean: U8
    """(T, H, W, 3) without anything burned in."""
    frames: U8
    """(T, H, W, 3) with it."""
    fan: Bool
    """(H, W)"""
    shot: Shot
    regions: tuple[Region, ...]
    kind: ClipKind = "b_mode"
    defects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Score:
    """Of one clip."""

    overlap: float
    """Intersection over union of the sector found and the fan."""
    outside: float
    """Share of the burned-in pixels outside the fan that are left."""
    inside: float
    """The same inside; NaN where there are none, or the clip is colour, in which drawing stays."""
    lost: float
    """Share of the fan's pixels without ink that are gone."""
    boxes: float
    """Of these, the part that was blanked as drawing, not cut as outside."""
    source: str
    defects: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--clips", type=int, default=12, help="of each kind")
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    words = parser.parse_args()
    cv2.setNumThreads(0)
    if words.pictures:
        save(words.pictures, contact_sheet())
    if not words.out and not words.only:
        return
    start, load = time.perf_counter(), os.getloadavg()[0]
    scores: dict[str, list[Score]] = defaultdict(list)
    for name, make in KINDS.items():
        if words.only not in name:
            continue
        for number in range(words.clips):
            scores[name].append(judge(make(number)))
        print(row(name, scores[name]), flush=True)
    lines = [
        "# The sector mask on simulated cines",
        "",
        f"- machine: 2 cores of {processor()}, no GPU, load {load:.1f};"
        f" OpenCV {cv2.__version__}, Python {platform.python_version()}",
        f"- date: {datetime.date.today()}, commit {commit()}",
        f"- command: `python {' '.join(sys.argv)}`",
        f"- {words.clips} clips of each kind, six views in turn, {FRAMES} frames of {SIZE[0]} x {SIZE[1]} unless said otherwise,"
        f" difficulty 0.5, three layouts of annotations in turn, one right region, JPEG of quality 88 with halved chroma;"
        f" {time.perf_counter() - start:.0f} s",
        "- **all of it is simulated**; the truth is the fan that the simulator drew in",
        "- IoU: of the sector found with the fan, before drawing in it is blanked. Ink left: share of the burned-in pixels that"
        " are not black afterwards, outside and inside the fan (aim 0). Tissue lost: share of the fan's other pixels that are"
        " gone; as drawing: the part of it that was blanked as drawing inside the sector (median)",
        "",
        *HEAD,
        *(row(name, found) for name, found in scores.items()),
        "",
    ]
    if words.out:
        words.out.write_text("\n".join(lines), encoding="utf-8")


HEAD = (
    "| kind | IoU: median, least | ink left outside: mean, most | ink left inside: mean, most | tissue lost: median, most"
    " | as drawing | found by | defects |",
    "|---|---|---|---|---|---|---|---|",
)


def row(name: str, scores: list[Score]) -> str:
    def share(values: list[float], middle: Callable[[list[float]], float], worst: Callable[[list[float]], float]) -> str:
        known = [value for value in values if not math.isnan(value)]
        return f"{100 * float(middle(known)):.2f} %, {100 * worst(known):.1f} %" if known else "-"

    overlap = [score.overlap for score in scores]
    found = ", ".join(f"{source} {count}" for source, count in Counter(score.source for score in scores).most_common())
    defects = ", ".join(sorted({defect for score in scores for defect in score.defects})) or "-"
    return (
        f"| {name} | {np.median(overlap):.3f}, {min(overlap):.3f} | {share([s.outside for s in scores], np.mean, max)}"
        f" | {share([s.inside for s in scores], np.mean, max)} | {share([s.lost for s in scores], np.median, max)}"
        f" | {100 * np.median([s.boxes for s in scores]):.1f} % | {found} | {defects} |"
    )


def judge(made: tuple[Scene, EchoClip]) -> Score:
    scene, clip = made
    sector = find_sector(clip)
    seen = blank(clip.frames, sector, clip.kind)
    boxes = drawn_boxes(clip.frames, sector.mask) if clip.kind == "b_mode" else np.zeros_like(sector.mask)
    kept = sector.mask & ~boxes
    # A pixel beside the fan is drawn by interpolation.
    beyond = cv2.dilate(scene.fan.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    ink = (scene.frames.max(axis=3) > INK) & beyond
    left = ink & seen.any(axis=3)
    drawn = (np.abs(scene.frames.astype(np.int16) - scene.clean).max(axis=3) > INK) & scene.fan
    tissue = scene.fan & ~drawn.any(axis=0)
    lost = tissue & ~kept
    return Score(
        overlap=float((sector.mask & scene.fan).sum() / (sector.mask | scene.fan).sum()),
        outside=float(left.sum() / ink.sum()) if ink.any() else math.nan,
        inside=float((drawn & seen.any(axis=3)).sum() / drawn.sum()) if drawn.any() and clip.kind == "b_mode" else math.nan,
        lost=float(lost.sum() / tissue.sum()),
        boxes=float((lost & boxes).sum() / tissue.sum()),
        source=sector.source,
        defects=sector.defects,
    )


# --- scenes


def scene(number: int, *, size: tuple[int, int] = SIZE, difficulty: float = 0.5, layout: int | None = None) -> Scene:
    """A plain cine: one view in turn, one layout in turn."""
    heart = draw_heart(stream(SEED, number, "heart"), enrich=number % 2 == 1)
    rng = stream(SEED, number, "echo")
    view: View = VIEWS[number % len(VIEWS)]
    shot = shoot(heart, view, rng, frames=FRAMES, size=size, difficulty=difficulty)
    shot = replace(shot, layout=(number // 2) % 3 if layout is None else layout)
    clean = draw(heart, shot, rng, annotate=False).frames
    return burned(Scene(clean=clean, frames=clean, fan=fan_of(shot), shot=shot, regions=(region_of(shot.geometry.box),)))


def burned(bare: Scene) -> Scene:
    frames = bare.clean.copy()
    annotate.annotate_frames(frames, bare.shot)
    return replace(bare, frames=frames)


def fan_of(shot: Shot) -> Bool:
    mask = np.zeros(shot.size, np.uint8)
    cv2.fillPoly(mask, [shot.geometry.polygon().round().astype(np.int32)], 1)
    return mask.astype(np.bool_)


def region_of(box: tuple[int, int, int, int], data_type: int = 1, spatial_format: int = 1) -> Region:
    x0, y0, x1, y1 = box
    return Region(x0=x0, y0=y0, x1=x1, y1=y1, spatial_format=spatial_format, data_type=data_type)


def coded(made: Scene, quality: int = 88) -> tuple[Scene, EchoClip]:
    """As JPEG, 4:2:2."""
    codes = []
    for frame in made.frames:
        words = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422]
        codes.append(cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), words)[1].tobytes())
    rows, columns = made.fan.shape
    frames, _ = jpeg.decode(codes, rows=rows, columns=columns, samples=3, photometric="YBR_FULL_422")
    return made, clip_of(made, frames)


def as_video(made: Scene, codec: str = "libx264", crf: int = 26) -> tuple[Scene, EchoClip]:
    """As an MP4 or AVI without tags."""
    import av

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.mp4" if codec == "libx264" else "a.avi")
        with av.open(str(path), "w") as target:
            options = {"crf": str(crf)} if codec == "libx264" else {"qscale": "5", "flags": "+qscale"}
            out = target.add_stream(codec, rate=Fraction(25), options=options)
            out.height, out.width = made.fan.shape
            out.pix_fmt = "yuv420p" if codec != "mjpeg" else "yuvj420p"
            for frame in made.frames:
                target.mux(out.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            target.mux(out.encode(None))
        return made, read_echo(path)


def clip_of(made: Scene, frames: U8) -> EchoClip:
    times = (np.arange(len(frames)) * made.shot.frame_time_ms).astype(np.float32)
    return EchoClip(
        frames=frames, frame_time_ms=times, regions=made.regions, kind=made.kind, cm_per_px=None, defects=made.defects
    )


def with_regions(made: Scene, *regions: Region, defects: tuple[str, ...] = ()) -> Scene:
    return replace(made, regions=regions, defects=defects)


def whole(made: Scene) -> Region:
    rows, columns = made.fan.shape
    return region_of((0, 0, columns - 1, rows - 1))


def shifted(made: Scene) -> Region:
    """A region a third of the picture too far to the left and up: that of another picture."""
    rows, columns = made.fan.shape
    box = made.shot.geometry.box
    dx, dy = columns // 3, rows // 4
    return region_of((max(box[0] - dx, 0), max(box[1] - dy, 0), max(box[2] - dx, 40), max(box[3] - dy, 40)))


def frozen(made: Scene, *, swept: bool) -> Scene:
    """One picture throughout; its annotations frozen with it, or the cursor of the trace still running."""
    clean = np.repeat(made.clean[:1], len(made.clean), axis=0)
    if not swept:
        return replace(made, clean=clean, frames=np.repeat(made.frames[:1], len(made.frames), axis=0))
    return burned(replace(made, clean=clean))


def turned(made: Scene, *, degrees: float = 0.0, zoom: float = 1.0, flip: bool = False) -> Scene:
    """The fan turned or enlarged in the picture, annotations where they were."""
    rows, columns = made.fan.shape
    turn = cv2.getRotationMatrix2D((columns / 2, 0.45 * rows), degrees, zoom)

    def moved(image: np.ndarray) -> np.ndarray:
        if flip:
            image = np.ascontiguousarray(image[::-1])
        return np.asarray(cv2.warpAffine(image, turn, (columns, rows), flags=cv2.INTER_LINEAR))

    fan = moved(made.fan.astype(np.uint8)).astype(np.bool_)
    y, x = np.nonzero(fan)
    box = (int(x.min()), int(y.min()), int(x.max()), int(y.max()))
    return burned(replace(made, clean=np.stack([moved(frame) for frame in made.clean]), fan=fan, regions=(region_of(box),)))


def footprint(made: Scene) -> Scene:
    """A sector whose tip is an arc, as a curved probe has it: the first 12 % of the depth are not there."""
    geometry = made.shot.geometry
    y, x = np.mgrid[: made.fan.shape[0], : made.fan.shape[1]]
    near = np.hypot(x - geometry.apex_x, y - geometry.apex_y) < 0.12 * geometry.radius_px
    return burned(replace(made, clean=made.clean * ~near[None, :, :, None], fan=made.fan & ~near))


def tinted(made: Scene) -> Scene:
    tint = np.array([1.0, 0.82, 0.58])
    return burned(replace(made, clean=(made.clean * tint).astype(np.uint8)))


def inked(made: Scene, ink: Callable[[U8, int, Scene], None]) -> Scene:
    """More burned into each frame."""
    frames = made.frames.copy()
    for number, frame in enumerate(frames):
        ink(frame, number, made)
    return replace(made, frames=frames)


def logo(frame: U8, number: int, made: Scene) -> None:
    """A maker's mark in white and blue, a patient's line, and a large grey box of results."""
    rows, columns = frame.shape[:2]
    cv2.circle(frame, (columns - columns // 10, rows // 8), rows // 16, (40, 90, 230), -1, cv2.LINE_AA)
    cv2.putText(frame, "ACME", (columns - columns // 6, rows // 8 + 4), FONT, rows / 500, (250, 250, 250), 1, cv2.LINE_AA)
    cv2.rectangle(frame, (2, rows // 3), (columns // 6, rows // 2), (90, 90, 100), -1)
    for line in range(3):
        cv2.putText(frame, f"V{line} 1.{line}2 m/s", (4, rows // 3 + 14 + 14 * line), FONT, rows / 900, GREY, 1, cv2.LINE_AA)


def clock(frame: U8, number: int, made: Scene) -> None:
    """Numbers that change from frame to frame, and a bar that flickers."""
    rows, columns = frame.shape[:2]
    cv2.putText(frame, f"{number:03d}/{len(made.frames)}", (columns // 40, rows - 8), FONT, rows / 700, GREY, 1, cv2.LINE_AA)
    cv2.putText(frame, f"{(number * 7919) % 1000:03d}", (columns - 44, rows // 2), FONT, rows / 600, GREY, 1, cv2.LINE_AA)
    cv2.rectangle(frame, (columns - 14, 3 * rows // 4 - (number * 13) % 40), (columns - 8, 3 * rows // 4), GREY, -1)


def white_trace(frame: U8, number: int, made: Scene) -> None:
    """The ECG again, in white, scrolling, under the fan and into its lower end."""
    rows, columns = frame.shape[:2]
    line = annotate.trace(made.shot, columns * 2)
    step = round(number * made.shot.frame_time_ms / 1000 / annotate.SWEEP_S * columns)
    x = np.arange(columns)
    y = 0.955 * rows - 0.13 * rows * line[(x + step) % len(line)]
    cv2.polylines(frame, [np.stack([x, y], 1).round().astype(np.int32)[:, None]], False, (235, 235, 235), 1, cv2.LINE_AA)


def border(frame: U8, number: int, made: Scene) -> None:
    """A white frame around the picture and one around the region, as some archives draw."""
    rows, columns = frame.shape[:2]
    x0, y0, x1, y1 = made.shot.geometry.box
    cv2.rectangle(frame, (0, 0), (columns - 1, rows - 1), (255, 255, 255), 1)
    cv2.rectangle(frame, (x0 - 3, max(y0 - 3, 1)), (min(x1 + 3, columns - 2), min(y1 + 3, rows - 2)), (120, 120, 120), 1)


def calipers(frame: U8, number: int, made: Scene) -> None:
    """Yellow and white crosses and a dotted line inside the fan."""
    geometry = made.shot.geometry
    first = (round(geometry.apex_x - 0.12 * geometry.radius_px), round(geometry.apex_y + 0.5 * geometry.radius_px))
    second = (first[0] + round(0.25 * geometry.radius_px), first[1] + round(0.1 * geometry.radius_px))
    for point in (first, second):
        cv2.drawMarker(frame, point, (235, 235, 80), cv2.MARKER_CROSS, 9, 1, cv2.LINE_AA)
    for share in np.linspace(0, 1, 16):
        cv2.circle(frame, tuple(round(a + share * (b - a)) for a, b in zip(first, second, strict=True)), 0, (235, 235, 80), -1)


def rate_inside(frame: U8, number: int, made: Scene) -> None:
    """The heart rate in grey figures on the tissue: colour does not tell them from it."""
    geometry = made.shot.geometry
    place = (round(geometry.apex_x - 20), round(geometry.apex_y + 0.45 * geometry.radius_px))
    cv2.putText(frame, f"HR {made.shot.hr_bpm:.0f}", place, FONT, frame.shape[0] / 790, GREY, 1, cv2.LINE_AA)


def colour_cine(number: int) -> tuple[Scene, EchoClip]:
    """A colour Doppler cine: its box and flow belong to the fan."""
    heart = draw_heart(stream(SEED, number, "heart"), enrich=True)
    made = picture(heart, "colour", stream(SEED, number, "echo"), size=SIZE)
    shot = shot_of(heart, "colour", stream(SEED, number, "echo"), size=SIZE)
    regions = tuple(region_of(tuple(part[:4]), part[5], part[4]) for part in made.regions)  # type: ignore[arg-type]
    return coded(Scene(clean=made.frames, frames=made.frames, fan=fan_of(shot), shot=shot, regions=regions, kind="colour"))


def small(number: int) -> tuple[Scene, EchoClip]:
    """112 x 112 without annotations or tags, as EchoNet's files are: the fan fills the picture."""
    made = scene(number, size=(300, 340))
    x0, y0, x1, y1 = made.shot.geometry.box

    def cut(image: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.resize(image[y0 : y1 + 1, x0 : x1 + 1], (112, 112), interpolation=cv2.INTER_AREA))

    clean = np.stack([cut(frame) for frame in made.clean])
    shrunk = replace(made, clean=clean, frames=clean, fan=cut(made.fan.astype(np.uint8)).astype(np.bool_), regions=())
    return as_video(shrunk, "mjpeg")


def ecg_region(made: Scene) -> Region:
    rows, columns = made.fan.shape
    return region_of((0, round(0.9 * rows), columns - 1, rows - 1), data_type=10, spatial_format=4)


KINDS: dict[str, Callable[[int], tuple[Scene, EchoClip]]] = {
    **{
        view: (lambda number, at=at: coded(scene(len(VIEWS) * number + at)))  # type: ignore[misc]
        for at, view in enumerate(VIEWS)
    },
    "first layout": lambda n: coded(scene(n, layout=0)),
    "second layout": lambda n: coded(scene(n, layout=1)),
    "third layout": lambda n: coded(scene(n, layout=2)),
    "180 x 240": lambda n: coded(scene(n, size=(180, 240))),
    "480 x 640": lambda n: coded(scene(n, size=(480, 640))),
    "708 x 1016": lambda n: coded(scene(n, size=(708, 1016))),
    "112 x 112 AVI, fan fills the picture": small,
    "difficulty 0": lambda n: coded(scene(n, difficulty=0.0)),
    "difficulty 1": lambda n: coded(scene(n, difficulty=1.0)),
    "JPEG quality 50": lambda n: coded(scene(n), 50),
    "JPEG quality 20": lambda n: coded(scene(n), 20),
    "H.264 MP4, no tags": lambda n: as_video(scene(n)),
    "Motion JPEG AVI, no tags": lambda n: as_video(scene(n), "mjpeg"),
    "no region": lambda n: coded(with_regions(scene(n), defects=("no_regions",))),
    "region is the whole picture": lambda n: coded(with_regions(made := scene(n), whole(made))),
    "wrong region": lambda n: coded(with_regions(made := scene(n), shifted(made))),
    "wrong region, coordinates guessed": lambda n: coded(
        with_regions(made := scene(n), shifted(made), defects=("region_rescaled",))
    ),
    "region of the trace as well": lambda n: coded(with_regions(made := scene(n), *made.regions, ecg_region(made))),
    "frozen": lambda n: coded(frozen(scene(n), swept=False)),
    "frozen, cursor runs": lambda n: coded(frozen(scene(n), swept=True)),
    "frozen, no region": lambda n: coded(with_regions(frozen(scene(n), swept=True))),
    "turned by 25 degrees": lambda n: coded(turned(scene(n), degrees=25)),
    "turned by 25 degrees, no region": lambda n: coded(with_regions(turned(scene(n), degrees=25))),
    "upside down": lambda n: coded(turned(scene(n), flip=True)),
    "upside down, no region": lambda n: coded(with_regions(turned(scene(n), flip=True))),
    "zoomed, cut by the picture": lambda n: coded(turned(scene(n), zoom=1.5)),
    "zoomed, no region": lambda n: coded(with_regions(turned(scene(n), zoom=1.5))),
    "half size": lambda n: coded(turned(scene(n), zoom=0.5)),
    "half size, no region": lambda n: coded(with_regions(turned(scene(n), zoom=0.5))),
    "curved probe": lambda n: coded(footprint(scene(n))),
    "sepia map": lambda n: coded(tinted(scene(n))),
    "logo and results": lambda n: coded(inked(scene(n), logo)),
    "logo and results, no region": lambda n: coded(with_regions(inked(scene(n), logo))),
    "numbers that change": lambda n: coded(inked(scene(n), clock)),
    "numbers that change, no region": lambda n: coded(with_regions(inked(scene(n), clock))),
    "white scrolling trace": lambda n: coded(inked(scene(n), white_trace)),
    "white scrolling trace, no region": lambda n: coded(with_regions(inked(scene(n), white_trace))),
    "lines around the picture": lambda n: coded(inked(scene(n), border)),
    "lines around the picture, no region": lambda n: coded(with_regions(inked(scene(n), border))),
    "calipers": lambda n: coded(inked(scene(n), calipers)),
    "heart rate written on the tissue": lambda n: coded(inked(scene(n), rate_inside)),
    "colour Doppler": colour_cine,
}


# --- pictures


CELL = (225, 300)
SHOWN = {
    "a4c": 0, "psax": 3, "no region": 2, "wrong region": 1, "frozen, cursor runs": 4, "turned by 25 degrees": 0,
    "upside down, no region": 0, "zoomed, cut by the picture": 2, "curved probe": 3, "sepia map": 5, "logo and results": 3,
    "white scrolling trace": 2, "calipers": 0, "colour Doppler": 1,
}  # fmt: skip


def contact_sheet() -> U8:
    """Each kind as read, with the outline of what is kept, and as blanked; the real cine of pydicom first."""
    cells = [pair("REAL: pydicom's example", read_echo(get_testdata_file("examples_ybr_color.dcm", download=False)))]
    cells += [pair(name, KINDS[name](number)[1]) for name, number in SHOWN.items()]
    cells += [np.zeros_like(cells[0])] * (-len(cells) % 3)
    columns = [np.vstack(cells[i::3]) for i in range(3)]
    return np.hstack(columns)


def pair(name: str, clip: EchoClip) -> U8:
    sector = find_sector(clip)
    seen = blank(clip.frames, sector, clip.kind)
    middle = len(clip.frames) // 2
    outlined = clip.frames[middle].copy()
    boxes = drawn_boxes(clip.frames, sector.mask) if clip.kind == "b_mode" else np.zeros_like(sector.mask)
    for mask, colour in ((sector.mask, (255, 200, 0)), (sector.mask & ~boxes, (255, 80, 80))):
        edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        large = [edge for edge in edges if cv2.contourArea(edge) > 0.002 * mask.size]
        cv2.drawContours(outlined, large, -1, colour, max(1, mask.shape[0] // 300))
    cell = np.hstack([fitted(outlined), fitted(seen[middle])])
    cv2.rectangle(cell, (0, 0), (2 * CELL[1], 17), (60, 20, 20), -1)
    cv2.putText(cell, f"{name}: {sector.source}", (4, 13), FONT, 0.42, (255, 240, 200), 1, cv2.LINE_AA)
    return cell


def fitted(frame: U8) -> U8:
    factor = min((CELL[0] - 18) / frame.shape[0], CELL[1] / frame.shape[1])
    small_one = cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    out = np.zeros((*CELL, 3), np.uint8)
    out[18 : 18 + small_one.shape[0], : small_one.shape[1]] = small_one
    return out


def save(path: Path, sheet: U8, most: int = 195_000) -> None:
    """As good a JPEG as stays below `most` bytes."""
    for quality in range(88, 10, -6):
        code = cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        if len(code) < most:
            break
    path.write_bytes(code.tobytes())
    print(
        f"{path}: {sheet.shape[1]} x {sheet.shape[0]}, {len(code) // 1000} kB, quality {quality}; pydicom {pydicom.__version__}"
    )


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
