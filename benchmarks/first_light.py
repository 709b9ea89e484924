"""How fast are the stages of the main job on this machine? One question a row, one command, one Markdown table.

    python benchmarks/first_light.py --out benchmarks/results/NAME_YYYYMM.md [--device cuda]

Simulated cines and ECGs; `echoclip` is randomly initialised (its speed does not depend on its weights).
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--echoclip-subjects", type=int, default=4, help="at least 4; the large teacher is slow on a CPU")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(Path(scratch), words.device, words.subjects, words.echoclip_subjects)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available() and words.device != "cpu"
        else platform.processor() or platform.machine()
    )
    settings = f"--device {words.device} --subjects {words.subjects} --echoclip-subjects {words.echoclip_subjects}"
    lines = [
        "# First light: the stages of the main job",
        "",
        f"- machine: {device}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        f"- date: {datetime.date.today().isoformat()}, commit {commit}",
        f"- command: `python benchmarks/first_light.py {settings}`",
        "- data: simulated; whole commands, start, verification and the two recomputed rows included",
        "",
        "| stage | items | seconds | rate |",
        "|---|---|---|---|",
        *rows,
    ]
    words.out.parent.mkdir(parents=True, exist_ok=True)
    words.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def measure(scratch: Path, device: str, subjects: int, echoclip_subjects: int) -> list[str]:
    rows = []
    cohort, few = scratch / "cohort", scratch / "few"
    rows.append(timed("simulate", f"{subjects} subjects", subjects, "simulate", cohort, "--subjects", subjects, "--seed", 7))
    run("index", "mimic-iv", cohort, "--out", cohort / "catalog")
    clips = len(list(cohort.glob("**/*.dcm")))
    ecgs = len(list(cohort.glob("**/*.hea")))
    place = ("--device", device)
    rows.append(
        timed(
            "cache-echo, demo teacher",
            f"{clips} clips",
            clips,
            "cache-echo",
            cohort / "catalog",
            "--teacher",
            "demo",
            "--out",
            cohort / "echo.zarr",
            *place,
        )
    )
    rows.append(
        timed(
            "cache-ecg",
            f"{ecgs} ECGs",
            ecgs,
            "cache-ecg",
            cohort / "catalog",
            "--contract",
            "echoing_ecg",
            "--out",
            cohort / "ecg.zarr",
        )
    )
    rows.append(timed("store verify (echo)", f"{clips} rows", clips, "store", "verify", cohort / "echo.zarr"))
    run("simulate", few, "--subjects", echoclip_subjects, "--seed", 8, "--echo-share", 1.0)
    run("index", "mimic-iv", few, "--out", few / "catalog")
    few_clips = len(list(few.glob("**/*.dcm")))
    rows.append(
        timed(
            "cache-echo, echoclip (random weights)",
            f"{few_clips} clips",
            few_clips,
            "cache-echo",
            few / "catalog",
            "--teacher",
            "echoclip",
            "--weights",
            "random:0",
            "--out",
            few / "echo.zarr",
            *place,
        )
    )
    stores = ("--catalog", cohort / "catalog", "--echo", cohort / "echo.zarr", "--ecg", cohort / "ecg.zarr")
    for title, settings, steps in (
        ("train echoing_ecg, recipe small", (), 60),
        (
            "train echoing_ecg, encoder of the paper, small text tower, batch 16",
            ("encoder_name=echoing_ecg", "data.batch_size=16"),
            3,
        ),
    ):
        sets = [w for s in (f"optim.steps={steps}", *settings) for w in ("--set", s)]
        out = scratch / f"run{steps}"
        rows.append(
            timed(
                title, f"{steps} steps", steps, "train", "echoing_ecg", "--recipe", "small", *stores, "--out", out, *sets, *place
            )
        )
    return rows


def timed(title: str, what: str, count: int, *words: object) -> str:
    began = time.monotonic()
    run(*words)
    seconds = time.monotonic() - began
    return f"| {title} | {what} | {seconds:.1f} | {count / seconds:.3g} /s |"


def run(*words: object) -> None:
    done = subprocess.run([sys.executable, "-m", "ecgecho", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):  # 3: some ECGs have a gap through all leads
        sys.exit(f"{json.dumps([str(w) for w in words])} ended with {done.returncode}:\n{done.stderr}")


if __name__ == "__main__":
    main()
