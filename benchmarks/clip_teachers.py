"""How long does a teacher of clips take for a clip: to prepare it, and to look at it?

    python benchmarks/clip_teachers.py --out benchmarks/results/clip_teachers_YYYYMM.md [--device cuda]

Networks of full size with random weights, in fp32: the time does not hang on the values. One clip is one batch; on a GPU also
full batches. Frames are noise of 600 x 800. Each number is the median of `--clips`, after one that is not counted.
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
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ecgecho import plugins
from ecgecho.pipeline import BATCH_CLIPS

FRAMES, SIZE = 40, (600, 800)
TEACHERS = {
    "echoprime": {"weights": "random:0"},
    "panecho": {"weights": "random:0"},
}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", type=Path)
    words.add_argument("--device", default="cpu")
    words.add_argument("--clips", type=int, default=2)
    words.add_argument("--threads", type=int, default=2)
    given = words.parse_args()
    torch.set_num_threads(given.threads)
    before = os.getloadavg()[0]
    sizes = (1,) if given.device == "cpu" else (1, BATCH_CLIPS)
    rows = [row for name in TEACHERS for row in measured(name, given.device, sizes, given.clips)]
    device = f"no GPU, {given.threads} threads" if given.device == "cpu" else torch.cuda.get_device_name(given.device)
    text = "\n".join(
        [
            "# Seconds a clip of the teachers of clips",
            "",
            f"- machine: {os.cpu_count()} cores, {platform.machine()}, {device}; load {before:.1f} before, "
            f"{os.getloadavg()[0]:.1f} after (other work was running where that is above the threads)",
            f"- date: {datetime.date.today()}, commit {_commit()}; torch {torch.__version__}, Python {platform.python_version()}",
            f"- command: `{' '.join(['python', *sys.argv])}`",
            f"- random weights of full size, fp32; noise of {FRAMES} frames of {SIZE[0]} x {SIZE[1]}; median (least to most) of "
            f"{given.clips} runs after one that is not counted; processor: user and system time of all threads, median",
            "",
            "| teacher | clips at once | prepare, s a clip | forward, s a clip | forward, processor s a clip |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    print(text)
    if given.out:
        given.out.write_text(text, encoding="utf-8")


def measured(name: str, device: str, sizes: tuple[int, ...], repeats: int) -> list[str]:
    """Rows of the table, one for each size of batch."""
    module = plugins.load("teachers", name)
    teacher = module.build(module.Config(**TEACHERS[name])).to(device)
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, *SIZE, 3), dtype=np.uint8)
    times = np.arange(FRAMES, dtype=np.float32) * 33
    values = module.prepare(teacher.spec, frames, times).values
    prepare, _ = _seconds(lambda: module.prepare(teacher.spec, frames, times), "cpu", repeats)
    rows = []
    for size in sizes:
        batch = torch.from_numpy(np.repeat(values, size, axis=0)).to(device)
        wall, processor = _seconds(lambda batch=batch: teacher.forward(batch), device, repeats)
        wall, processor = [x / size for x in wall], [x / size for x in processor]
        print(name, size, wall, file=sys.stderr, flush=True)
        rows.append(f"| {name} | {size} | {_told(prepare)} | {_told(wall)} | {statistics.median(processor):.3g} |")
    return rows


def _seconds(run: Callable[[], object], device: str, repeats: int) -> tuple[list[float], list[float]]:
    """Wall and processor seconds of each run but the first."""
    wall, processor = [], []
    for _ in range(repeats + 1):
        began, worked = time.perf_counter(), time.process_time()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - worked)
    return wall[1:], processor[1:]


def _told(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3g} ({min(seconds):.3g} to {max(seconds):.3g})"


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
