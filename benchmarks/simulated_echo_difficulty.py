"""How well does a simple reader read LVEF from simulated four-chamber cines as `--difficulty` rises, and is it by motion?

    python benchmarks/simulated_echo_difficulty.py --out benchmarks/results/simulated_echo_difficulty_YYYYMM.md

The reader is a ridge on 30 x 40 pixels: the mean over a clip's frames alone (no motion), or with their standard deviation. Eight
folds; one clip a subject. It is a floor for readers, not a ceiling: a network trained on many clips reads better.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from ecgecho.simulate.echo import cine
from ecgecho.simulate.heart import draw_heart, stream

SEED, FRAMES, SIZE, SMALL = 900, 16, (150, 200), (40, 30)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=400)
    words = parser.parse_args()
    cv2.setNumThreads(0)
    hearts = [draw_heart(stream(SEED, i, "heart"), enrich=True) for i in range(words.subjects)]
    lvef = np.array([heart.lvef for heart in hearts])
    volume = np.array([heart.edv_ml for heart in hearts])
    low, third = lvef < 40, np.searchsorted(np.quantile(volume, [1 / 3, 2 / 3]), volume)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    processor = next((line.split(":", 1)[1].strip() for line in about if line.startswith("model name")), platform.machine())
    versions = f"numpy {np.__version__}, OpenCV {cv2.__version__}, Python {platform.python_version()}"
    lines = [
        "# Reading LVEF from simulated four-chamber cines with a linear reader",
        "",
        f"- machine: one core of {processor}, no GPU, {versions}",
        f"- date: {datetime.date.today()}, commit {commit}",
        f"- command: `python {' '.join(sys.argv)}`",
        f"- {words.subjects} subjects, {int(low.sum())} with LVEF < 40 %, seed {SEED}, `enrich`",
        f"- {FRAMES} frames of {SIZE[0]} x {SIZE[1]}",
        f"- end-diastolic volume alone, measured without error: AUROC {roc_auc_score(low, volume):.3f}",
        "",
        "| difficulty | reader | AUROC LVEF < 40 % | within terciles of end-diastolic volume | mean absolute error, points |",
        "|---|---|---|---|---|",
    ]
    for difficulty in (0.0, 0.5, 1.0):
        mean, spread = zip(*(features(i, difficulty) for i in range(words.subjects)), strict=True)
        for name, seen in (
            ("mean frame", np.stack(mean)),
            ("mean and spread", np.concatenate([mean, 3 * np.stack(spread)], axis=1)),
        ):
            read = cross_val_predict(RidgeCV(np.logspace(-1, 4, 12)), seen, lvef, cv=8)
            parts = ", ".join(f"{roc_auc_score(low[third == k], -read[third == k]):.3f}" for k in range(3))
            error = np.abs(read - lvef).mean()
            lines.append(f"| {difficulty} | {name} | {roc_auc_score(low, -read):.3f} | {parts} | {error:.1f} |")
    lines.append("")
    words.out.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def features(item: int, difficulty: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over a clip's frames, flat."""
    heart = draw_heart(stream(SEED, item, "heart"), enrich=True)
    drawn = cine(heart, "a4c", stream(SEED, item, "echo"), frames=FRAMES, size=SIZE, difficulty=difficulty, annotate=False)
    small = (
        np.stack([cv2.resize(frame[..., 0], SMALL, interpolation=cv2.INTER_AREA) for frame in drawn.frames]).astype(np.float32)
        / 255
    )
    return small.mean(axis=0).ravel(), small.std(axis=0).ravel()


if __name__ == "__main__":
    main()
