"""Does the demo teacher read LVEF < 40 out of held-out simulated echo, and by motion? Zero-shot, from files, through the store.

    python benchmarks/demo_teacher.py --out benchmarks/results/NAME_YYYYMM.md

Within a tercile of end-diastolic volume the size of the ventricle tells little; what remains is motion. A subject's score is
the mean over clips of the difference of cosines to the two groups of prompts. Simulated; a user's seed, never trained on.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from sklearn.metrics import roc_auc_score

import embed_cache
from ecgecho import catalog as tables
from ecgecho.teachers import demo

LOW = ["reduced left ventricular systolic function", "severely reduced ejection fraction", "ejection fraction is 28 percent"]
HIGH = ["normal left ventricular systolic function", "normal ejection fraction", "ejection fraction is 62 percent"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--seed", type=int, default=23)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        score, lvef, volume = measure(Path(scratch) / "cohort", words.subjects, words.seed)
    positive = lvef < 40
    third = np.searchsorted(np.quantile(volume, [1 / 3, 2 / 3]), volume)
    rows = [("all", np.ones(len(score), bool))]
    rows += [(f"tercile {k + 1} of end-diastolic volume, {volume[third == k].mean():.0f} mL", third == k) for k in range(3)]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    lines = [
        "# The demo teacher on held-out simulated echo: zero-shot LVEF < 40 %",
        "",
        f"- machine: {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} on the CPU",
        f"- date: {datetime.date.today().isoformat()}, commit {commit}",
        f"- command: `python benchmarks/demo_teacher.py --subjects {words.subjects} --seed {words.seed}`",
        "- **simulated hearts, no real person**; enriched; two cines of each subject",
        "",
        "| subjects | n | positives | AUROC |",
        "|---|---|---|---|",
    ]
    for title, chosen in rows:
        both = 0 < positive[chosen].sum() < chosen.sum()
        auroc = f"{roc_auc_score(positive[chosen], score[chosen]):.3f}" if both else "one class only"
        lines.append(f"| {title} | {chosen.sum()} | {positive[chosen].sum()} | {auroc} |")
    words.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def measure(cohort: Path, subjects: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, LVEF (%) and end-diastolic volume (mL) of each subject."""
    run("simulate", cohort, "--subjects", subjects, "--seed", seed, "--echo-share", 1.0, "--enrich")
    run("index", "mimic-iv", cohort, "--out", cohort / "catalog")
    run("cache-echo", cohort / "catalog", "--teacher", "demo", "--out", cohort / "echo.zarr")
    store, clips = embed_cache.open(cohort / "echo.zarr"), tables.read(cohort / "catalog").clips
    teacher = demo.build(demo.Config())
    direction = (teacher.embed_text(LOW).mean(0) - teacher.embed_text(HIGH).mean(0)).numpy()
    pooled = store.read("pooled", store.rows(clips["clip_id"].to_pylist())).astype(np.float64)
    of_clip = pooled @ direction / np.linalg.norm(pooled, axis=1)
    people = np.array(clips["subject_id"].to_pylist())
    truth = [row for row in pq.read_table(cohort / "truth.parquet").to_pylist() if row["kind"] == "subject"]
    score = np.array([of_clip[people == row["subject_id"]].mean() for row in truth])
    return score, np.array([row["lvef"] for row in truth]), np.array([row["edv_ml"] for row in truth])


def run(*words: object) -> None:
    done = subprocess.run([sys.executable, "-m", "ecgecho", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)


if __name__ == "__main__":
    main()
