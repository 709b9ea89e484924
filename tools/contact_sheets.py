"""Contact sheets of the simulated cohort for the docs, to be looked at: views, states, difficulty, other modes, 12-lead prints.

    python tools/contact_sheets.py --out docs

A real cine, the one that pydicom ships for its tests, stands beside the views. Every picture stays below 250 kB.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import cv2
import numpy as np
from pydicom.data import get_testdata_file

from ecgecho.io import read_echo
from ecgecho.simulate.ecg import LEADS, draw_body, draw_electro, record
from ecgecho.simulate.echo import VIEWS, Cine, View, cine
from ecgecho.simulate.heart import Heart, draw_heart, stream
from ecgecho.simulate.modes import KINDS, picture
from ecgecho.simulate.rhythm import draw_beats
from ecgecho.types import U8

SEED = 20_261
CELL = (300, 400)
MOST_BYTES = 250_000
LIMB = ("I", "II", "III", "aVR", "aVL", "aVF")
PX_PER_MM = 4
MM_PER_S, MM_PER_MV = 25, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(0)
    save(out / "simulated_views.jpg", views())
    save(out / "simulated_states.jpg", states())
    save(out / "simulated_difficulty.jpg", difficulty())
    save(out / "simulated_modes.jpg", modes())
    save(out / "simulated_ecgs.jpg", prints())


def healthy(**more: object) -> Heart:
    """A heart with nothing wrong but what is asked."""
    drawn = draw_heart(stream(SEED, 2, "heart"), enrich=False)
    plain: dict[str, object] = {
        "age": 55, "lvef": 63.0, "edv_ml": 115.0, "septal_mm": 9.5, "posterior_mm": 9.0, "hr_bpm": 68.0, "rhythm": "sinus",
        "ectopy": "none", "ectopy_share": 0.0, "conduction": "normal", "infarct": "none", "infarct_size": 0.0, "la_ml": 48.0,
        "rv_mm": 34.0, "rvsp_mmhg": 25.0, "aortic_stenosis": 0, "aortic_regurgitation": 0, "mitral_regurgitation": 0,
        "tricuspid_regurgitation": 0,
    }  # fmt: skip
    return dataclasses.replace(drawn, **(plain | more))  # type: ignore[arg-type]


def extremes(drawn: Cine) -> list[U8]:
    volume = drawn.shot.volume_ml
    return [drawn.frames[int(volume.argmax())], drawn.frames[int(volume.argmin())]]


def views() -> U8:
    """End-diastole and end-systole of six views of one heart, and of the real cine."""
    heart = healthy()
    columns = []
    for item, view in enumerate(VIEWS):
        drawn = cine(heart, view, stream(SEED, 2, "echo", item), frames=30, size=CELL, difficulty=0.35)
        columns.append([titled(frame, f"{view} {when}") for frame, when in zip(extremes(drawn), ("ED", "ES"), strict=True)])
    real = read_echo(get_testdata_file("examples_ybr_color.dcm", download=False)).frames
    columns.append([titled(fitted(real[i]), "REAL (pydicom's example)") for i in (0, 12)])
    return grid(folded(columns), shrink=0.72)


def states() -> U8:
    """What a reader would be asked: failure, bundle branch block, infarct, stenosis, thick walls."""
    asked: tuple[tuple[str, View, Heart], ...] = (
        ("LVEF 63 %", "a4c", healthy()),
        ("LVEF 22 %, dilated", "a4c", healthy(lvef=22.0, edv_ml=230.0, la_ml=95.0, mitral_regurgitation=2)),
        ("anterior infarct, LVEF 35 %", "a2c", healthy(lvef=35.0, edv_ml=160.0, infarct="anterior", infarct_size=0.95)),
        ("inferior infarct, LVEF 45 %", "psax", healthy(lvef=45.0, edv_ml=135.0, infarct="inferior", infarct_size=0.8)),
        ("severe aortic stenosis", "plax", healthy(aortic_stenosis=3, septal_mm=14.0, posterior_mm=13.0)),
        ("walls of 19 mm", "psax", healthy(septal_mm=19.0, posterior_mm=16.0, edv_ml=85.0, lvef=70.0)),
        ("left atrium of 130 ml, fibrillation", "a4c", healthy(la_ml=130.0, rhythm="af", hr_bpm=88.0)),
        ("large right heart", "subcostal", healthy(rv_mm=52.0, rvsp_mmhg=70.0, tricuspid_regurgitation=3)),
    )
    columns = []
    for item, (words, view, heart) in enumerate(asked):
        drawn = cine(heart, view, stream(SEED, 3, "echo", item), frames=30, size=CELL, difficulty=0.35)
        columns.append([titled(frame, f"{words}: {when}") for frame, when in zip(extremes(drawn), ("ED", "ES"), strict=True)])
    return grid(folded(columns), shrink=0.72)


def difficulty() -> U8:
    """One heart at difficulties 0, 0.5 and 1; rows are views, two machines each."""
    heart = healthy(lvef=45.0)
    columns = []
    for level in (0.0, 0.5, 1.0):
        for item in (0, 1):
            columns.append(
                [
                    titled(
                        cine(heart, view, stream(SEED, 4, "echo", item), frames=2, size=CELL, difficulty=level).frames[0],
                        f"{level}",
                    )
                    for view in ("a4c", "plax", "psax")
                ]
            )
    return grid(columns, shrink=0.72)


def modes() -> U8:
    """The files that are no plain cines."""
    heart = healthy(mitral_regurgitation=3, aortic_stenosis=2, rvsp_mmhg=52.0, lvef=48.0)
    found: dict[str, U8] = {}
    for kind in KINDS:
        for item in range(12):
            made = picture(heart, kind, stream(SEED, 5, "echo", item), size=CELL, difficulty=0.35)
            lit = [int(np.ptp(frame.astype(int), axis=2).sum()) for frame in made.frames]
            name = made.what.split(" mitral reg")[0] if kind == "colour" else made.what.split(" m/s")[0].rstrip("0123456789. ")
            found.setdefault(name, made.frames[int(np.argmax(lit))])
    names = sorted(found)
    half = (len(names) + 1) // 2
    cells = [titled(found[name], name) for name in names] + [np.zeros((*CELL, 3), np.uint8)] * (2 * half - len(names))
    return grid([[cells[i], cells[i + half]] for i in range(half)], shrink=0.85)


def prints() -> U8:
    """12-lead prints on the usual grid, 25 mm/s and 10 mm/mV."""
    asked = (
        ("sinus rhythm", healthy()),
        ("left bundle branch block, LVEF 25 %", healthy(lvef=25.0, edv_ml=220.0, conduction="lbbb")),
        ("atrial fibrillation", healthy(rhythm="af", hr_bpm=95.0)),
        ("old anterior infarct", healthy(lvef=35.0, infarct="anterior", infarct_size=0.95)),
        ("walls of 18 mm", healthy(septal_mm=18.0, posterior_mm=16.0)),
        ("ventricular ectopy", healthy(ectopy="ventricular", ectopy_share=0.25)),
    )
    body = draw_body(stream(SEED, 6, "ecg"))
    sheets = []
    for item, (words, heart) in enumerate(asked):
        rng = stream(SEED, 6, "ecg", item + 1)
        electro = draw_electro(heart, body, rng, difficulty=0.2)
        sheets.append(print_12(record(heart, electro, draw_beats(heart, rng), rng).signal_mv, words))
    return grid([sheets[:3], sheets[3:]], shrink=0.7)


def print_12(signal_mv: np.ndarray, words: str, fs_hz: int = 500) -> U8:
    """(12, L) -> a page: four columns of 2.5 s and a rhythm strip of lead II."""
    rows, row_mm = 4, 26
    width, height = 256 * PX_PER_MM, (rows * row_mm + 8) * PX_PER_MM
    page = np.full((height, width, 3), 255, np.uint8)
    for mm in range(0, max(width, height) // PX_PER_MM + 1):
        colour = (238, 165, 165) if mm % 5 == 0 else (250, 222, 222)
        page[:, min(mm * PX_PER_MM, width - 1)] = (
            colour if mm % 5 == 0 else np.minimum(page[:, min(mm * PX_PER_MM, width - 1)], colour)
        )
        if mm * PX_PER_MM < height:
            page[mm * PX_PER_MM] = colour
    page[:, :: 5 * PX_PER_MM] = (238, 165, 165)
    page[:: 5 * PX_PER_MM] = (238, 165, 165)
    quarter = int(2.5 * fs_hz)
    named = dict(zip(LEADS, signal_mv, strict=True))
    strips = [[(lead, named[lead]) for lead in (LIMB[r], LIMB[3 + r], f"V{r + 1}", f"V{r + 4}")] for r in range(3)]
    for r, strip in enumerate(strips):
        for c, (lead, values) in enumerate(strip):
            _line(page, values[c * quarter : (c + 1) * quarter], c * 2.5, r, lead, fs_hz)
    _line(page, named["II"], 0.0, 3, "II", fs_hz)
    cv2.putText(page, words, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (20, 20, 20), 1, cv2.LINE_AA)
    return page


def _line(page: U8, values_mv: np.ndarray, start_s: float, row: int, lead: str, fs_hz: int) -> None:
    x = (3 + (start_s + np.arange(len(values_mv)) / fs_hz) * MM_PER_S) * PX_PER_MM
    base = (row * 26 + 19) * PX_PER_MM
    y = base - values_mv * MM_PER_MV * PX_PER_MM
    points = np.round(np.stack([x, y], axis=1) * 16).astype(np.int32)[:, None]
    cv2.polylines(page, [points], False, (20, 20, 40), 1, cv2.LINE_AA, 4)
    cv2.putText(page, lead, (int(x[0]) + 4, base - 44), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (20, 20, 20), 1, cv2.LINE_AA)


def fitted(frame: U8) -> U8:
    """Scaled to a cell, with black around."""
    factor = min(CELL[0] / frame.shape[0], CELL[1] / frame.shape[1])
    small = cv2.resize(frame, (int(frame.shape[1] * factor), int(frame.shape[0] * factor)), interpolation=cv2.INTER_AREA)
    out = np.zeros((*CELL, 3), np.uint8)
    out[: small.shape[0], : small.shape[1]] = small
    return out


def titled(frame: U8, words: str) -> U8:
    out = frame.copy()
    (width, _), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
    cv2.rectangle(out, (out.shape[1] - width - 22, 0), (out.shape[1], 20), (60, 20, 20), -1)
    cv2.putText(out, words, (out.shape[1] - width - 12, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 240, 200), 1, cv2.LINE_AA)
    return out


def folded(columns: list[list[U8]], number: int = 4) -> list[list[U8]]:
    """Columns beyond `number` go below the first ones."""
    cells = len(columns[0])
    blank = [np.zeros((*CELL, 3), np.uint8)] * cells
    filled = columns + [blank] * (-len(columns) % number)
    return [[cell for column in filled[i::number] for cell in column] for i in range(number)]


def grid(columns: list[list[U8]], *, shrink: float) -> U8:
    sheet = np.hstack([np.vstack(column) for column in columns])
    return np.asarray(cv2.resize(sheet, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA), np.uint8)


def save(path: Path, sheet: U8) -> None:
    """As good a JPEG as stays below MOST_BYTES."""
    for quality in range(88, 20, -6):
        done, code = cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert done
        if len(code) < MOST_BYTES:
            break
    path.write_bytes(code.tobytes())
    print(f"{path}: {sheet.shape[1]} x {sheet.shape[0]}, {len(code) // 1000} kB, quality {quality}")


if __name__ == "__main__":
    main()
