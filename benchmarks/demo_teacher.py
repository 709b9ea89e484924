"""What does the demo teacher see in held-out simulated echo, and what not? From files, through the store.

    python benchmarks/demo_teacher.py --out benchmarks/results/NAME_YYYYMM.md

Zero-shot: a study's score is the mean over cines of the difference of cosines to two groups of prompts. Within a tercile of
end-diastolic volume the size of the ventricle tells little; what remains is motion. LVEF is read as the median of the fifth of
the sentences "ejection fraction is N percent" that are nearest. Probes are linear, on the mean of a study's vectors, judged on
folds of subjects that they were not fitted on. Simulated; a user's seed, never trained on.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import embed_cache
from ecgecho import stats
from ecgecho.simulate.text import VIEW_NAMES
from ecgecho.teachers import demo

F64 = npt.NDArray[np.float64]
LOW = ["reduced left ventricular systolic function", "severely reduced ejection fraction", "ejection fraction is 28 percent"]
HIGH = ["normal left ventricular systolic function", "normal ejection fraction", "ejection fraction is 62 percent"]
FRACTIONS = np.arange(10, 80)
NEAREST = 0.2


@dataclass(frozen=True)
class Finding:
    """A yes-or-no question about a study; prompts where the teacher's words have them."""

    title: str
    holds: Callable[[dict[str, Any]], bool]
    yes: tuple[str, ...] = ()
    no: tuple[str, ...] = ()


FINDINGS = (
    Finding("LVEF < 40 %", lambda t: t["lvef"] < 40, tuple(LOW), tuple(HIGH)),
    Finding(
        "wall of at least 16 mm",
        lambda t: t["wall_mm"] >= 16,
        ("severe left ventricular hypertrophy",),
        ("no left ventricular hypertrophy",),
    ),
    Finding(
        "end-diastolic volume above 150 mL",
        lambda t: t["edv_ml"] > 150,
        ("the left ventricle is dilated",),
        ("the left ventricle is normal sized",),
    ),
    Finding("left atrium above 34 mL/m2", lambda t: t["la_ml"] > 34 * t["bsa_m2"]),
    Finding("right ventricle above 41 mm", lambda t: t["rv_mm"] > 41),
    Finding("infarct", lambda t: t["infarct"] != "none"),
    Finding("left bundle branch block", lambda t: t["conduction"] == "lbbb"),
    Finding("aortic stenosis, moderate or severe", lambda t: t["aortic_stenosis"] >= 2),
    Finding("mitral regurgitation, moderate or severe", lambda t: t["mitral_regurgitation"] >= 2),
    Finding("atrial fibrillation", lambda t: t["rhythm"] == "af"),
    Finding("sex", lambda t: t["sex"] == "M"),
)


@dataclass(frozen=True)
class Seen:
    """Held-out studies, and what the teacher made of their cines."""

    vectors: F64
    """(N, D): the mean over a study's cines."""
    truth: list[dict[str, Any]]
    """The heart on the day of each study."""
    of_clip: F64
    """(M, D)."""
    clip_study: npt.NDArray[np.int64]
    clip_view: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=300)
    parser.add_argument("--seed", type=int, default=23)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        seen = measure(Path(scratch) / "cohort", words.subjects, words.seed)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    lines = [
        "# What the demo teacher sees in held-out simulated echo",
        "",
        f"- machine: {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} on the CPU",
        f"- date: {datetime.date.today().isoformat()}, commit {commit}",
        f"- command: `python benchmarks/demo_teacher.py --subjects {words.subjects} --seed {words.seed}`",
        f"- **simulated hearts, no real person**; enriched, default difficulty; {len(seen.truth)} studies, {len(seen.of_clip)} "
        f"cines of {len(set(seen.clip_view))} views, written as DICOM, masked, taught and stored as in real use",
        "- intervals: 95 %, bootstrap over subjects",
        "",
        *report(seen),
    ]
    words.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def report(seen: Seen) -> list[str]:
    """The tables."""
    teacher = demo.build(demo.Config())
    subjects, studies = np.array([row["subject_id"] for row in seen.truth]), len(seen.truth)
    unit = seen.of_clip / np.linalg.norm(seen.of_clip, axis=1, keepdims=True)
    lvef = np.array([row["lvef"] for row in seen.truth])
    volume = np.array([row["edv_ml"] for row in seen.truth])

    def said(texts: tuple[str, ...] | list[str]) -> F64:
        return teacher.embed_text(list(texts)).numpy().astype(np.float64)

    def by_study(of_clip: F64) -> F64:
        return np.bincount(seen.clip_study, of_clip, studies) / np.bincount(seen.clip_study, minlength=studies)

    def interval(statistic: stats.Statistic) -> str:
        found = stats.bootstrap(statistic, subjects)
        if found.value is None or found.low is None or found.high is None:
            return found.reason or "one class only"
        return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"

    lines = ["| finding | studies with it | zero-shot AUROC | linear probe AUROC |", "|---|---|---|---|"]
    for finding in FINDINGS:
        y = np.array([finding.holds(row) for row in seen.truth])
        zero = "no words for it"
        if finding.yes:
            direction = said(finding.yes).mean(0) - said(finding.no).mean(0)
            zero = interval(stats.auroc_of(y, by_study(unit @ direction)))
        probe = interval(stats.auroc_of(y, probed(seen.vectors, y, subjects))) if min(y.sum(), (~y).sum()) >= 10 else "too few"
        lines.append(f"| {finding.title} | {y.sum()} | {zero} | {probe} |")
    score = by_study(unit @ (said(LOW).mean(0) - said(HIGH).mean(0)))
    third = np.searchsorted(np.quantile(volume, [1 / 3, 2 / 3]), volume)
    for k in range(3):
        chosen = np.flatnonzero(third == k)
        y = lvef[chosen] < 40
        where = interval(stats.within(chosen, stats.auroc_of(y, score[chosen])))
        lines.append(
            f"| LVEF < 40 %, tercile {k + 1} of end-diastolic volume ({volume[chosen].mean():.0f} mL) | {y.sum()} | {where} | |"
        )

    numbers = said([f"ejection fraction is {n} percent" for n in FRACTIONS])
    keep = round(NEAREST * len(FRACTIONS))
    read = by_study(np.median(FRACTIONS[np.argsort(-(unit @ numbers.T), axis=1)[:, :keep]], axis=1))
    ridge = cross_val_predict(
        make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13))), seen.vectors, lvef, groups=subjects, cv=GroupKFold(5)
    )
    typical = np.full(len(lvef), np.median(lvef))
    lines += ["", "| LVEF | mean absolute error, points |", "|---|---|"]
    for title, guess in (
        ("read zero-shot", read),
        ("linear probe", ridge),
        ("always the median", typical),
    ):
        lines.append(f"| {title} | {interval(stats.mean_of(np.abs(guess - lvef)))} |")

    names = sorted(set(seen.clip_view))
    called = (unit @ said([VIEW_NAMES[name] for name in names]).T).argmax(1)  # type: ignore[index]
    lines += ["", "| view (rows: true) | cines | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for name in names:
        mine = np.array([view == name for view in seen.clip_view])
        counts = [f"{(called[mine] == other).mean():.2f}" for other in range(len(names))]
        lines.append(f"| {name} ({VIEW_NAMES[name]}) | {mine.sum()} | " + " | ".join(counts) + " |")  # type: ignore[index]
    return lines


def probed(vectors: F64, y: npt.NDArray[np.bool_], subjects: npt.NDArray[np.str_]) -> F64:
    """Scores of a linear probe for studies of subjects it was not fitted on."""
    model = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=7, cv=4, scoring="neg_log_loss", max_iter=2000))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    return np.asarray(cross_val_predict(model, vectors, y, groups=subjects, cv=folds, method="decision_function"))


def measure(cohort: Path, subjects: int, seed: int) -> Seen:
    """A cohort through the whole way."""
    run("simulate", cohort, "--subjects", subjects, "--seed", seed, "--echo-share", 1.0, "--enrich", "--years", 0,
        "--frames", 24)  # fmt: skip
    run("index", "mimic-iv", cohort, "--out", cohort / "catalog")
    run("cache-echo", cohort / "catalog", "--teacher", "demo", "--out", cohort / "echo.zarr")
    store = embed_cache.open(cohort / "echo.zarr")
    ok = {row["id"] for row in store.index.to_pylist() if row["live"] and row["status"] == "ok"}
    rows = pq.read_table(cohort / "truth.parquet").to_pylist()
    clips = [row for row in rows if row["kind"] == "clip" and row["content"] == "cine" and row["clip_id"] in ok]
    pooled = store.read("pooled", store.rows([row["clip_id"] for row in clips])).astype(np.float64)
    names, of = np.unique([row["study_id"] for row in clips], return_inverse=True)
    first = [int(np.flatnonzero(of == number)[0]) for number in range(len(names))]
    return Seen(
        vectors=np.stack([pooled[of == number].mean(0) for number in range(len(names))]),
        truth=[clips[number] for number in first],
        of_clip=pooled,
        clip_study=of,
        clip_view=[row["view"] for row in clips],
    )


def run(*words: object) -> None:
    done = subprocess.run([sys.executable, "-m", "ecgecho", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        sys.exit(done.stderr)


if __name__ == "__main__":
    main()
