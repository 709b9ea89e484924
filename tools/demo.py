"""The main job on a simulated cohort, with the commands a user types; prints them, their seconds, and one table.

    python tools/demo.py --out demo --size full

Sizes: full (1,500 subjects, the table of the README), smallest (CI: shows that everything runs, its figures mean nothing).
The same command again resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    subjects: int
    echo_share: float
    steps: int
    bootstraps: int


SIZES = {
    "full": Size(subjects=1500, echo_share=0.08, steps=360, bootstraps=1000),
    "smallest": Size(subjects=120, echo_share=0.1, steps=8, bootstraps=50),
}
EVALS = ("zero_shot", "linear_probe", "retrieval", "uncertainty", "supervised")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    name: str
    title: str
    method: str
    settings: tuple[str, ...] = ()
    echo: bool = False


RUNS = (
    Run(name="ecg_clip_text", title="ecg_clip on text", method="ecg_clip", settings=("method.on=text", "method.dim=64")),
    Run(
        name="echoing_ecg_text",
        title="echoing_ecg without echo",
        method="echoing_ecg",
        settings=("method.on=text", "method.dim=64"),
    ),
    Run(name="echoing_ecg", title="echoing_ecg with the echo teacher", method="echoing_ecg", echo=True),
    Run(name="supervised", title="supervised (ceiling)", method="supervised"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--size", choices=sorted(SIZES), default="full")
    words = parser.parse_args()
    size, out = SIZES[words.size], words.out
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    cohort, catalog, echo, ecg = (
        out / "cohort",
        out / "cohort" / "catalog",
        out / "cohort" / "echo.zarr",
        out / "cohort" / "ecg.zarr",
    )

    command("simulate", cohort, "--subjects", size.subjects, "--seed", 11, "--echo-share", size.echo_share,
            "--ecgs-per-subject", 2, "--enrich", "--views", "a4c,plax", "--frames", 24)  # fmt: skip
    command("index", "mimic-iv", cohort, "--out", catalog)
    echo_s = command("cache-echo", catalog, "--teacher", "demo", "--out", echo)
    ecg_s = command("cache-ecg", catalog, "--contract", "echoing_ecg", "--out", ecg)
    before_training = time.monotonic() - began

    for run in RUNS:
        stores = ["--catalog", catalog, "--ecg", ecg, *(["--echo", echo] if run.echo else [])]
        settings = [w for s in (f"optim.steps={size.steps}", *run.settings) for w in ("--set", s)]
        command("train", run.method, "--recipe", "small", *stores, "--out", out / "runs" / run.name, *settings)
    training = time.monotonic() - began - before_training
    for run in RUNS:
        chosen = [w for name in EVALS for w in ("--evals", name)]
        command("eval", out / "runs" / run.name, "--bootstraps", size.bootstraps, *chosen, quiet=True)

    from ecgecho.report.tables import compare

    print()
    print(compare([(run.title, out / "runs" / run.name / "metrics.json") for run in RUNS]))
    epoch_s = epoch_seconds(out / "runs" / "echoing_ecg")
    first = first_time(out / "seconds.json", {"cache-echo": echo_s, "cache-ecg": ecg_s})
    again_s = epoch_s + first["cache-echo"] + first["cache-ecg"]
    print(f"\none epoch of echoing_ecg from the stores: {epoch_s:.1f} s; decoding and teaching again each time: {again_s:.1f} s")
    total = time.monotonic() - began
    print(f"demo: {total:.0f} s ({before_training:.0f} s before training, {training:.0f} s training, the rest judging), in {out}")
    return 0


def command(*words: object, quiet: bool = False) -> float:
    """Run one ecgecho command, shown as a user would type it; gives its seconds."""
    line = [str(w) for w in words]
    print("\n$ ecgecho", " ".join(line), flush=True)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "ecgecho", *line], stdout=subprocess.DEVNULL if quiet else None, check=False)
    if done.returncode not in (0, 3):  # 3: done, but some items failed, as ECGs without one whole lead do
        sys.exit(done.returncode)
    return time.monotonic() - began


def epoch_seconds(run: Path) -> float:
    """Seconds of one pass over the ECGs, validation included, from the run's own record."""
    result = json.loads((run / "run.json").read_text())["result"]
    return float(result["seconds"] / result["epochs"])


def first_time(path: Path, seconds: dict[str, float]) -> dict[str, float]:
    """Seconds of the first time each stage ran here: a second run of the demo finds its stages done."""
    known = json.loads(path.read_text()) if path.exists() else {}
    kept = {**seconds, **known}
    path.write_text(json.dumps(kept, indent=1) + "\n")
    return kept


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
