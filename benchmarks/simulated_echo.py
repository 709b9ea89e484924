"""What does a simulated echo study cost on one core, and where does the time go?

    python benchmarks/simulated_echo.py --out benchmarks/results/simulated_echo_YYYYMM.md

A study is six clips, one a view, of 32 frames at 708 x 1016; drawn, annotated and coded as JPEG. Processor time, not wall
time, so that other work on the machine matters less; the median of some studies of different hearts.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ecgecho.simulate import annotate
from ecgecho.simulate.echo import VIEWS, Probe, draw, shoot
from ecgecho.simulate.heart import draw_heart, stream
from ecgecho.simulate.write import jpegs

FRAMES, SIZE = 32, (708, 1016)
WANTED_S = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--studies", type=int, default=5)
    words = parser.parse_args()
    cv2.setNumThreads(0)
    spent: defaultdict[str, float] = defaultdict(float)
    for owner, name, words_for_it in (
        (Probe, "__init__", "what is fixed for a clip: scatterers, gain, maps"),
        (Probe, "canvas", "outlines of tissue, bent and mirrored"),
        (Probe, "_motion", "motion of the scatterers"),
        (Probe, "scan", "scan lines, without outlines and motion: carry, blur, compress"),
        (Probe, "frame", "laying out as a fan, grey to RGB"),
        (annotate, "annotate_frames", "burning in text and trace"),
    ):
        timed(owner, name, words_for_it, spent)
    study(0)  # the first one pays for fresh memory
    spent.clear()
    totals = [study(1 + i) for i in range(words.studies)]
    drawn, coded, shot = (statistics.median(part[i] for part in totals) for i in range(3))
    rows = within(dict(spent), words.studies)
    rows["everything else of drawing: beats, masks, memory"] = statistics.mean(t[0] for t in totals) - sum(rows.values())
    versions = f"numpy {np.__version__}, OpenCV {cv2.__version__}, Python {platform.python_version()}"
    lines = [
        "# What a simulated echo study costs",
        "",
        f"- machine: one core of {processor()}, no GPU, {versions}",
        f"- date: {datetime.date.today()}, commit {commit()}",
        f"- command: `python {' '.join(sys.argv)}`",
        f"- load of the machine meanwhile: {os.getloadavg()[0]:.1f}",
        f"- a study: six clips of {FRAMES} frames at {SIZE[0]} x {SIZE[1]}, one a view",
        f"- processor time, median of {words.studies} studies",
        "",
        f"**{drawn + coded:.2f} s a study** (wanted: under {WANTED_S:.0f} s): drawing {drawn:.2f} s, JPEG {coded:.2f} s. "
        f"Range {min(t[0] + t[1] for t in totals):.2f}-{max(t[0] + t[1] for t in totals):.2f} s. "
        f"Tables alone (`shoot`, no pictures): {1000 * shot / len(VIEWS):.1f} ms a clip.",
        "",
        "| where drawing goes | s a study |",
        "|---|---|",
        *(f"| {name} | {value:.2f} |" for name, value in rows.items()),
        "",
        "JPEG coding (quality 88, 4:2:2) is a smaller part than expected: most of a picture is black.",
        "",
    ]
    words.out.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def study(item: int) -> tuple[float, float, float]:
    """Seconds of drawing (with shooting), of coding, and of shooting."""
    heart = draw_heart(stream(20_261, item, "heart"), enrich=True)
    drawing = coding = shooting = 0.0
    for number, view in enumerate(VIEWS):
        rng = stream(20_261, item, "echo", number)
        start = time.process_time()
        shot = shoot(heart, view, rng, frames=FRAMES, size=SIZE)
        ready = time.process_time()
        drawn = draw(heart, shot, rng)
        done = time.process_time()
        jpegs(drawn.frames)
        drawing, coding, shooting = drawing + done - start, coding + time.process_time() - done, shooting + ready - start
    return drawing, coding, shooting


def timed(owner: Any, name: str, words: str, spent: defaultdict[str, float]) -> None:
    """Let a function note its processor time under `words`."""
    inner: Callable[..., Any] = getattr(owner, name)

    def outer(*args: Any) -> Any:
        start = time.process_time()
        try:
            return inner(*args)
        finally:
            spent[words] += time.process_time() - start

    setattr(owner, name, outer)


def within(spent: dict[str, float], studies: int) -> dict[str, float]:
    """Seconds a study of each part without the parts it calls."""
    part = {name: value / studies for name, value in spent.items()}
    fixed, outlines, motion, scan, fan, burn = (
        next(name for name in part if name.startswith(start))
        for start in ("what is fixed", "outlines", "motion", "scan lines", "laying out", "burning")
    )
    part[fan] -= part[scan]
    part[scan] -= part[outlines] + part[motion]
    return {name: part[name] for name in (outlines, motion, scan, fan, burn, fixed)}


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
