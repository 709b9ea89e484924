"""Does pooling a study's views teach an ECG more than one view? `echo2ecg` and its settings side by side on a simulated cohort.

    ecgecho simulate DIR/cohort --subjects 1600 --seed 61 --echo-share 1 --enrich --ecgs-per-subject 2 --frames 16 \\
        --resolution 240x320
    ecgecho index mimic-iv DIR/cohort --out DIR/cat
    ecgecho cache-echo DIR/cat --teacher demo --out DIR/echo.zarr
    ecgecho cache-ecg DIR/cat --contract echoing_ecg --out DIR/ecg.zarr
    python benchmarks/echo2ecg_cohort.py --data DIR --work DIR/runs --out benchmarks/results/NAME_YYYYMM.md

(what is missing of the first four is made.) Every training is a run directory, judged by `ecgecho eval`; the same command after a
kill goes on, and `--report-only` makes the tables of what is complete. Training seeds share one cohort: figures are means over
them, intervals resample the subjects of the test split, and differences are paired. How repeats of a study within a batch are
counted by the other runs is chosen on the validation split and said above the tables.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq
from simulated_cohort import name_views

SINGLE = "a4c"
REPEATS = ("negatives", "ignore", "positives")
EVALS = ("knn", "linear_probe", "phenotype_retrieval")
SHARES = (0.1, 1.0)
EVAL_BOOTSTRAPS = 50  # the intervals here are made anew from the predictions
TASKS = {"lvef_lt_40": "LVEF < 40 %", "severe_lvh": "severe LVH", "dilated_lv": "dilated LV", "lvef_3": "LVEF in three classes"}
PHENOTYPES = {"lvef": "LVEF", "wall_mm": "wall", "lvedd_mm": "LVEDD"}
DIRECTIONS = {"ecg_to_study": "ECG finds study", "study_to_ecg": "study finds ECG"}
TOLERANCE_SD = 0.5  # Echo2ECG Retriever.py: a heart within half a standard deviation is a hit
F64 = npt.NDArray[np.float64]
Key = tuple[str, str, str, float | None]
"""Evaluation, task, metric, share of the labels."""
Study = tuple[list[str], dict[str, float], str]
"""Usable cines, measurements by name, subject."""


@dataclass(frozen=True)
class Run:
    """One training."""

    name: str
    title: str
    method: str = "echo2ecg"
    settings: tuple[str, ...] = ()
    chosen_repeats: bool = True
    """Whether `method.repeats` is what the validation split chose."""


FIRST = tuple(
    Run(
        f"attention_{kind}",
        f"attention, repeats: {kind}",
        "echo2ecg",
        ("method.aggregation=attention", f"method.repeats={kind}"),
        False,
    )
    for kind in REPEATS
)
"""The published query, with each way to count repeats; the best of them on the validation split is the run "attention"."""
REST = (
    Run("single", f"single view, {SINGLE} alone", "echo2ecg", ("method.aggregation=single", f"data.views={SINGLE}")),
    Run("drawn", "single view, one drawn a pass", "echo2ecg", ("method.aggregation=single", "data.views=draw")),
    Run("mean", "mean of the views", "echo2ecg", ("method.aggregation=mean",)),
    Run("learnable", "attention, learned query", "echo2ecg", ("method.aggregation=learnable",)),
    Run("cls", "attention, CLS layer", "echo2ecg", ("method.aggregation=cls",)),
    Run("cool", "attention, temperature 0.07", "echo2ecg", ("method.aggregation=attention", "method.temperature=0.07")),
    Run("prob", "`prob_echo2ecg`", "prob_echo2ecg", (), False),
    Run("ecg_clip", "`ecg_clip` on echo, one view drawn", "ecg_clip", ("method.on=echo", "data.views=draw"), False),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of cohort, cat, echo.zarr and ecg.zarr")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of the trainings")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--bootstraps", type=int, default=1000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=max((os.cpu_count() or 2) // 2, 1), help="trainings at once, one thread each")
    parser.add_argument("--report-only", action="store_true")
    words = parser.parse_args()
    if not words.report_only:
        prepare(words)
        begin, *more = words.seeds
        everyone(words, [(run, begin) for run in (*FIRST, *(run for run in REST if not run.chosen_repeats))])
        rest = [settled(run, best_repeats(words)) for run in REST]
        everyone(words, [(run, begin) for run in rest])
        everyone(words, [(run, seed) for seed in more for run in (*FIRST, *rest)])
    text = report(words)
    words.out.write_text(text, encoding="utf-8")
    print(text)


def prepare(words: argparse.Namespace) -> None:
    """Cohort, catalog with named views, stores."""
    data = words.data
    if not (data / "cat").exists():
        command("simulate", data / "cohort", "--subjects", 1600, "--seed", 61, "--echo-share", 1.0, "--enrich",
                "--ecgs-per-subject", 2, "--frames", 16, "--resolution", "240x320")  # fmt: skip
        command("index", "mimic-iv", data / "cohort", "--out", data / "cat")
    if not named(data).exists():
        shutil.copytree(data / "cat", data / "cat_named.partial", dirs_exist_ok=True)
        name_views(data / "cohort", data / "cat_named.partial")
        (data / "cat_named.partial").rename(named(data))
    for kind, option in (("echo", ("--teacher", "demo")), ("ecg", ("--contract", "echoing_ecg"))):
        if not (data / f"{kind}.zarr").exists():
            command(f"cache-{kind}", data / "cat", *option, "--out", data / f"{kind}.zarr")


def named(data: Path) -> Path:
    """The catalog in which every cine says its view; beside the other, so that its paths hold."""
    return data / "cat_named"


def everyone(words: argparse.Namespace, wanted: Iterable[tuple[Run, int]]) -> None:
    with concurrent.futures.ThreadPoolExecutor(words.jobs) as pool:
        list(pool.map(lambda one: train(words, *one), wanted))


def settled(run: Run, repeats: str) -> Run:
    more = (f"method.repeats={repeats}",) if run.chosen_repeats else ()
    return Run(run.name, run.title, run.method, (*run.settings, *more), run.chosen_repeats)


def train(words: argparse.Namespace, run: Run, seed: int) -> None:
    """One training with its evaluation; nothing where it is done."""
    out = folder(words, run.name, seed)
    if (out / "metrics.json").exists():
        return
    settings = (f"optim.steps={words.steps}", f"seed={seed}", *run.settings)
    command("train", run.method, "--recipe", "small", "--catalog", named(words.data), "--ecg", words.data / "ecg.zarr",
            "--echo", words.data / "echo.zarr", "--out", out, "--device", words.device,
            *(w for s in settings for w in ("--set", s)))  # fmt: skip
    command("eval", out, "--bootstraps", EVAL_BOOTSTRAPS, *(w for name in EVALS for w in ("--evals", name)))


def folder(words: argparse.Namespace, name: str, seed: int) -> Path:
    path: Path = words.work / str(seed) / name
    return path


def command(*line: object) -> None:
    """One ecgecho command, quiet; a training or evaluation on one thread."""
    text = [str(w) for w in line]
    began = datetime.datetime.now()
    threads = {"OMP_NUM_THREADS": "1"} if text[0] in ("train", "eval") else {}
    done = subprocess.run(
        [sys.executable, "-m", "ecgecho", *text], capture_output=True, text=True, check=False, env=os.environ | threads
    )
    seconds = (datetime.datetime.now() - began).total_seconds()
    print(f"{seconds:6.0f} s  ecgecho {' '.join(text[:2])} load {os.getloadavg()[0]:.1f}", flush=True)
    if done.returncode not in (0, 3):  # 3: some items failed, which the cohort has on purpose
        sys.exit(f"ecgecho {' '.join(text)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


# The choice on the validation split


def best_repeats(words: argparse.Namespace) -> str:
    """The way to count repeats with the highest `validation_score` under the first seed, chosen once and kept."""
    path = words.work / "chosen.json"
    if not path.exists():
        scores = {kind: validation_score(words, folder(words, f"attention_{kind}", words.seeds[0])) for kind in REPEATS}
        best = max(REPEATS, key=lambda kind: scores[kind])
        path.write_text(json.dumps({"repeats": best, "scores": scores, "seed": words.seeds[0], "steps": words.steps}))
    kept: str = json.loads(path.read_text())["repeats"]
    return kept


def validation_score(words: argparse.Namespace, run: Path) -> float:
    """Mean P@10 on the validation split: ECG to study and study to ECG, over the three phenotypes, own subjects left out."""
    from ecgecho.embed import load

    student = load(run)
    ecgs, studies = held_out(words.data, "val")
    signals, echo = student.open_signals([words.data / "ecg.zarr"]), student.open_echo([words.data / "echo.zarr"])
    ecg, _ = student.embed_rows(signals, np.array([signals.rows[i] for i, _ in ecgs], np.int64))
    rows = [np.array([echo.rows[c] for c in clips], np.int64) for clips, _, _ in studies.values()]
    study, _ = student.embed_studies(echo, rows)
    number = {name: k for k, name in enumerate(studies)}
    own = np.array([number[name] for _, name in ecgs])
    person = np.array([who for _, _, who in studies.values()])
    likeness = np.where(person[own][:, None] == person[None], -np.inf, ecg @ study.T)  # nobody finds the own heart
    found = []
    for label in PHENOTYPES:
        value = np.array([values.get(label, np.nan) for _, values, _ in studies.values()])
        gallery = np.flatnonzero(np.isfinite(value))
        queries = np.flatnonzero(np.isfinite(value[own]))
        near = np.abs(value[own[queries]][:, None] - value[gallery][None]) <= TOLERANCE_SD * value[gallery].std(ddof=1)
        here = likeness[np.ix_(queries, gallery)]
        found += [precision(here, near), precision(here.T, near.T)]
    return float(np.mean(found))


def precision(likeness: npt.NDArray[np.floating], near: npt.NDArray[np.bool_], k: int = 10) -> float:
    """Share of hits among the k most alike, mean over queries. (Q, S), (Q, S) -> scalar."""
    first = np.argsort(-likeness, axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(near, first, axis=1).mean())


def held_out(data: Path, split: str) -> tuple[list[tuple[str, str]], dict[str, Study]]:
    """(ECG, nearest study) of a split, and its studies by id."""
    import embed_cache
    from ecgecho import catalog

    tables = catalog.read(named(data))
    index = embed_cache.open(data / "echo.zarr").index
    usable = set(index.filter(pc.and_(index["live"], pc.equal(index["status"], "ok")))["id"].to_pylist())
    signals = embed_cache.open(data / "ecg.zarr").index
    kept = set(signals.filter(pc.and_(signals["live"], pc.equal(signals["status"], "ok")))["id"].to_pylist())
    people = set(tables.subjects.filter(pc.equal(tables.subjects["split"], split))["subject_id"].to_pylist())
    studies: dict[str, Study] = {}
    for row in tables.clips.to_pylist():
        if row["subject_id"] in people and row["clip_id"] in usable:
            studies.setdefault(row["study_id"], ([], {}, row["subject_id"]))[0].append(row["clip_id"])
    for row in tables.table("labels", columns=("study_id", "name", "value")).to_pylist():
        if row["name"] in PHENOTYPES and row["study_id"] in studies:
            studies[row["study_id"]][1].setdefault(row["name"], row["value"])
    nearest: dict[str, tuple[float, str]] = {}
    for row in tables.pairs.to_pylist():
        if row["study_id"] in studies and row["ecg_id"] in kept:
            gap = abs(row["gap_days"])
            nearest[row["ecg_id"]] = min(nearest.get(row["ecg_id"], (np.inf, "")), (gap, row["study_id"]))
    return [(ecg, study) for ecg, (_, study) in sorted(nearest.items())], studies


# The tables


@dataclass(frozen=True)
class Judged:
    """What one question of one run scored on the test split."""

    ids: tuple[str, ...]
    subject: npt.NDArray[np.str_]
    y: npt.NDArray[np.int64]
    scores: F64
    """(draws, n), or (draws * classes, n)."""


def report(words: argparse.Namespace) -> str:
    chosen = words.work / "chosen.json"
    choice = json.loads(chosen.read_text()) if chosen.exists() else {"repeats": "ignore", "scores": {}}
    runs = {run.name: run for run in (*FIRST, *REST)}
    judged = {name: {seed: read(folder(words, name, seed)) for seed in words.seeds} for name in runs}
    done = {name: {seed: found for seed, found in by.items() if found} for name, by in judged.items()}
    done["attention"] = done[f"attention_{choice['repeats']}"]
    complete = min(len(by) for by in done.values())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    seeds = " ".join(map(str, words.seeds))
    lines = [
        "# Pooling the views of a study: `echo2ecg` on a simulated cohort",
        "",
        f"- machine: {platform.machine()}, {os.cpu_count()} cores, device {words.device}; Python {platform.python_version()}",
        f"- date: {datetime.date.today().isoformat()}, commit {commit}",
        f"- command: `python benchmarks/echo2ecg_cohort.py --data DIR --work DIR --seeds {seeds} --steps {words.steps} "
        f"--bootstraps {words.bootstraps}`",
        "- **simulated cohort, no real person**: " + about(words.data),
        f"- encoder `resnet_small`, small recipe, {words.steps} steps, batch 128, one thread each; training seeds complete for "
        f"every run: {complete} of {len(words.seeds)}; a row with another number says so",
        "- figures are means over training seeds; 95 % intervals resample the subjects of the test split and not the trainings; "
        "what each seed gave is in brackets",
        *counted(words),
        *chosen_lines(choice),
        "",
    ]
    return "\n".join([*lines, *tables(words, done, runs), *view_table(words.data)]) + "\n"


def about(data: Path) -> str:
    """How much there is, in words."""
    plan = json.loads((data / "cohort" / "simulated.json").read_text())
    ecgs, studies = held_out(data, "test")
    taught, own = held_out(data, "train")
    views = np.array([len(clips) for clips, _, _ in (*studies.values(), *own.values())])
    return (
        f"{plan['subjects']} subjects (seed {plan['seed']}), all with cines, views {', '.join(plan['views'])} of "
        f"{plan['frames']} frames, enriched, difficulty {plan['difficulty']:g}; demo teacher of 64 dimensions; {len(taught)} "
        f"training ECGs with one of {len(own)} studies; {len(ecgs)} test ECGs with a study, {len(studies)} test studies; "
        f"{views.mean():.1f} usable cines a study ({views.min()} to {views.max()})"
    )


def counted(words: argparse.Namespace) -> list[str]:
    """How many test ECGs each question was asked of."""
    first = next((path for run in FIRST if (path := folder(words, run.name, words.seeds[0]) / "metrics.json").exists()), None)
    if first is None:
        return []
    counts = json.loads(first.read_text())["data"]["counts"]["test"]
    each = [f"{title}: {{}} of {{}}".format(*counts["tasks"][name]) for name, title in TASKS.items() if name in counts["tasks"]]
    each += [
        f"{TASKS[name]}: {', '.join(map(str, numbers))}" for name, numbers in counts.get("classes", {}).items() if name in TASKS
    ]
    return [f"- positives among the test ECGs with a label: {'; '.join(each)}"]


def chosen_lines(choice: dict[str, Any]) -> list[str]:
    if not choice["scores"]:
        return ["- how repeats are counted was not chosen yet; `attention` is the run with its default"]
    each = ", ".join(f"{kind} {score:.3f}" for kind, score in choice["scores"].items())
    return [
        f"- repeats of a study in a batch: chosen on the validation split by P@10 (three measurements, both ways, first seed: "
        f"{each}): **{choice['repeats']}**, used in all other runs of `echo2ecg`; `attention` below is that run"
    ]


def read(run: Path) -> dict[Key, Judged] | None:
    """Every judged question of a run; None where it is not complete."""
    if not (run / "metrics.json").exists():
        return None
    table = pq.read_table(run / "predictions.parquet")
    columns = {c: np.array(table[c].to_pylist(), dtype=object) for c in ("evaluation", "task", "metric", "share")}
    whole = ["\x1f".join(map(str, key)) for key in zip(*columns.values(), strict=True)]
    _, first, group = np.unique(np.array(whole), return_index=True, return_inverse=True)
    values = {c: np.array(table[c].to_pylist()) for c in ("ecg_id", "draw", "class", "subject", "y", "score")}
    result: dict[Key, Judged] = {}
    for number, at in enumerate(first):
        here = np.flatnonzero(group == number)
        here = here[np.lexsort([values[c][here] for c in ("ecg_id", "class", "draw")])]
        n = len(np.unique(values["ecg_id"][here]))
        evaluation, task, metric, share = (columns[c][at] for c in columns)
        result[evaluation, task, metric, share] = Judged(
            ids=tuple(values["ecg_id"][here[:n]].tolist()),
            subject=values["subject"][here[:n]].astype(str),
            y=values["y"][here[:n]].astype(np.int64),
            scores=values["score"][here].reshape(-1, n).astype(np.float64),
        )
    return result


PROBES = tuple((e, t, "macro_auroc" if t == "lvef_3" else "auroc", s) for e in ("linear_probe",) for t in TASKS for s in SHARES)
NEIGHBOURS: tuple[Key, ...] = tuple(("knn", task, metric, share) for _, task, metric, share in PROBES)
MEASURED: tuple[Key, ...] = tuple(
    ("phenotype_retrieval", f"{direction}.{name}", "precision_at_10", None) for direction in DIRECTIONS for name in PHENOTYPES
)
OWN: tuple[Key, ...] = tuple(("phenotype_retrieval", f"{direction}.own", "recall_at_10", None) for direction in DIRECTIONS)
ENDPOINTS: dict[str, tuple[Key, ...]] = {
    "linear probes, AUROC": PROBES,
    "kNN, AUROC": NEIGHBOURS,
    "retrieval by measurement, P@10": MEASURED,
    "own study or ECG, R@10": OWN,
}
"""Each is the mean over its questions."""
PAIRS = (
    ("one drawn over a4c alone", "drawn", "single"),
    ("mean over one drawn", "mean", "drawn"),
    ("mean over a4c alone", "mean", "single"),
    ("attention over mean", "attention", "mean"),
    ("attention over one drawn", "attention", "drawn"),
    ("attention over a4c alone", "attention", "single"),
    ("learned query over mean query", "learnable", "attention"),
    ("CLS layer over mean query", "cls", "attention"),
    ("temperature 0.07 over 0.5", "cool", "attention"),
    ("`prob_echo2ecg` over attention", "prob", "attention"),
    ("attention over `ecg_clip`", "attention", "ecg_clip"),
    ("attention at 0.07 over `ecg_clip`", "cool", "ecg_clip"),
    ("`prob_echo2ecg` over `ecg_clip`", "prob", "ecg_clip"),
    ("repeats ignored over negatives", "attention_ignore", "attention_negatives"),
    ("repeats positive over negatives", "attention_positives", "attention_negatives"),
    ("repeats positive over ignored", "attention_positives", "attention_ignore"),
)
Done = dict[str, dict[int, dict[Key, Judged]]]


def tables(words: argparse.Namespace, done: Done, runs: dict[str, Run]) -> list[str]:
    """All tables; a run without any complete seed has no row."""
    rows = {name: run.title for name, run in runs.items() if done[name]}
    differences = [pair for pair in PAIRS if done[pair[1]] and done[pair[2]]]
    lines = ["Means over questions (what each seed gave in brackets):", ""]
    lines += ["| trained as | " + " | ".join(ENDPOINTS) + " |", "|---" * (len(ENDPOINTS) + 1) + "|"]
    for name, title in rows.items():
        cells = []
        for keys in ENDPOINTS.values():
            each = ", ".join(f"{value(found, keys):.3f}" for found in done[name].values())
            cells.append(f"{text(estimate(words, list(done[name].values()), keys))} ({each})")
        lines.append(f"| {title}{short(words, done[name])} | " + " | ".join(cells) + " |")
    lines += ["", "Differences of these, paired by subject (what clears 0 is bold; each seed in brackets):", ""]
    lines += ["| gain of | " + " | ".join(ENDPOINTS) + " |", "|---" * (len(ENDPOINTS) + 1) + "|"]
    for title, one, other in differences:
        cells = []
        for keys in ENDPOINTS.values():
            both = [(done[one][seed], done[other][seed]) for seed in done[one] if seed in done[other]]
            each = ", ".join(f"{value(a, keys) - value(b, keys):+.3f}" for a, b in both)
            found = estimate(words, [a for a, _ in both], keys, [b for _, b in both])
            cells.append(f"{text(found, signed=True)} ({each})")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    for title, evaluation, keys in (("Linear probes", "floor", PROBES), ("Five nearest neighbours", "floor.knn", NEIGHBOURS)):
        lines += ["", f"{title}: AUROC at 10 % and 100 % of the training labels (three classes: macro)", ""]
        head = [f"{TASKS[key[1]]}: {key[3]:.0%}" for key in keys]
        lines += ["| trained as | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
        lines += floor_row(words, done, evaluation, keys)
        lines += detail(words, done, rows, keys)
    lines += ["", "Retrieval by measurement: P@10 (a hit lies within half a standard deviation), own subject left out", ""]
    head = [f"{PHENOTYPES[key[1].split('.')[1]]}: {DIRECTIONS[key[1].split('.')[0]]}" for key in MEASURED]
    lines += ["| trained as | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    lines += beside(words, done, MEASURED, "precision_at_10")
    lines += detail(words, done, rows, MEASURED)
    ranks: tuple[Key, ...] = tuple((e, t, "mean_rank", share) for e, t, _, share in MEASURED)
    lines += ["", "Rank of the first hit, mean (less is better)", ""]
    lines += ["| trained as | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    lines += beside(words, done, ranks, "mean_rank")
    lines += detail(words, done, rows, ranks, digits=2)
    metrics = ("recall_at_1", "recall_at_10", "mean_rank")
    own: tuple[Key, ...] = tuple((e, t, metric, None) for e, t, _, _ in OWN for metric in metrics)
    lines += ["", "The own study, or an own ECG, among all", ""]
    names = {"recall_at_1": "R@1", "recall_at_10": "R@10", "mean_rank": "mean rank"}
    head = [f"{DIRECTIONS[key[1].split('.')[0]]}: {names[key[2]]}" for key in own]
    lines += ["| trained as | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    lines += [line for line in beside(words, done, own, "own") if line.startswith("| chance")]
    lines += detail(words, done, rows, own)
    return lines


def view_table(data: Path) -> list[str]:
    """What the teacher's vectors tell of a heart by themselves: all that an ECG could be taught."""
    from sklearn.linear_model import RidgeCV

    import embed_cache
    from ecgecho import catalog

    clips = catalog.read(named(data)).clips
    view_of = dict(zip(clips["clip_id"].to_pylist(), clips["view"].to_pylist(), strict=True))
    store = embed_cache.open(data / "echo.zarr")
    features: dict[str, dict[str, F64]] = {}
    measured = {}
    names = sorted({view for view in view_of.values() if view})
    for split in ("train", "test"):
        _, studies = held_out(data, split)
        whole = {k: s for k, s in studies.items() if sorted(view_of[c] for c in s[0]) == names}
        ordered = [sorted(s[0], key=lambda clip: view_of[clip]) for s in whole.values()]
        rows = store.rows([clip for clips in ordered for clip in clips])
        vectors = store.read("moments", rows)[:, 0].astype(np.float64).reshape(len(whole), len(names), -1)
        each = {f"{name} alone": vectors[:, k] for k, name in enumerate(names)}
        features[split] = each | {"mean of all": vectors.mean(1), "all side by side": vectors.reshape(len(whole), -1)}
        measured[split] = {label: np.array([s[1].get(label, np.nan) for s in whole.values()]) for label in PHENOTYPES}
    lines = [
        "",
        "What the teacher's vectors tell by themselves: R2 on test studies of a ridge regression fitted on training studies",
        "",
    ]
    lines += ["| views | " + " | ".join(PHENOTYPES.values()) + " |", "|---" * (len(PHENOTYPES) + 1) + "|"]
    for name in features["train"]:
        cells = []
        for label in PHENOTYPES:
            known = {split: np.isfinite(measured[split][label]) for split in measured}
            x, y = ({k: v[k][of][known[k]] for k in known} for v, of in ((features, name), (measured, label)))
            scale = x["train"].std(0) + 1e-8
            model = RidgeCV(np.logspace(-2, 4, 13)).fit(x["train"] / scale, y["train"])
            cells.append(f"{model.score(x['test'] / scale, y['test']):.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def detail(words: argparse.Namespace, done: Done, rows: dict[str, str], keys: tuple[Key, ...], digits: int = 3) -> list[str]:
    return [
        f"| {title}{short(words, done[name])} | "
        + " | ".join(
            text(estimate(words, list(done[name].values()), (key,)), digits=1 if key[2] == "mean_rank" else digits)
            for key in keys
        )
        + " |"
        for name, title in rows.items()
    ]


def short(words: argparse.Namespace, by_seed: dict[int, Any]) -> str:
    return "" if len(by_seed) == len(words.seeds) else f" ({len(by_seed)} seed{'s' if len(by_seed) != 1 else ''})"


def floor_row(words: argparse.Namespace, done: Done, evaluation: str, keys: tuple[Key, ...]) -> list[str]:
    """The encoder of the run "attention" before training, by the same probe."""
    there: tuple[Key, ...] = tuple((evaluation, *key[1:]) for key in keys)
    found = [one for one in done["attention"].values() if all(key in one for key in there)]
    if not found:
        return []
    return ["| floor (never trained) | " + " | ".join(text(estimate(words, found, (key,))) for key in there) + " |"]


def beside(words: argparse.Namespace, done: Done, keys: tuple[Key, ...], metric: str) -> list[str]:
    """What guessing and the true measurement score, from the metrics of one run; equal in all with the same gallery."""
    folders = [folder(words, name, seed) for seed in words.seeds for name in FIRST_NAMES]
    there = next((path for path in folders if (path / "metrics.json").exists()), None)
    if there is None:
        return []
    rows = json.loads((there / "metrics.json").read_text())["rows"]
    found = {(row["evaluation"], row["task"], row["metric"]): row for row in rows}
    chance, best = [], []
    for evaluation, task, name, _ in keys:
        digits = 1 if name == "mean_rank" else 3
        row = found.get((evaluation, task, name), {})
        top = found.get((f"{evaluation}.oracle", task, name), {})
        chance.append("-" if row.get("chance") is None else f"{row['chance']:.{digits}f}")
        best.append("-" if top.get("value") is None else f"{top['value']:.{digits}f}")
    return ["| chance | " + " | ".join(chance) + " |", "| oracle (order by the true difference) | " + " | ".join(best) + " |"]


FIRST_NAMES = tuple(run.name for run in FIRST)


def statistic_of(judged: Judged, key: Key) -> Any:
    """The score as a function of weights of the rows."""
    from ecgecho import stats

    if key[2] == "auroc":
        return stats.average([stats.auroc_of(judged.y, draw) for draw in judged.scores])
    if key[2] == "macro_auroc":
        classes = len(np.unique(judged.y))
        parts = judged.scores.reshape(-1, classes, judged.scores.shape[1])
        return stats.average([stats.macro_auroc_of(judged.y, draw) for draw in parts])
    return stats.mean_of(judged.scores.mean(0))


def estimate(
    words: argparse.Namespace,
    first: list[dict[Key, Judged]],
    keys: tuple[Key, ...],
    second: list[dict[Key, Judged]] | None = None,
) -> Any:
    """Mean over seeds and questions of one run, or of the difference of two, with its interval over subjects."""
    from ecgecho import stats

    people: list[npt.NDArray[np.str_]] = []
    start = 0

    def placed(found: list[dict[Key, Judged]]) -> Any:
        nonlocal start
        parts = []
        for one in found:
            for key in keys:
                judged = one[key]
                n = len(judged.ids)
                parts.append(stats.within(np.arange(start, start + n), statistic_of(judged, key)))
                people.append(judged.subject)
                start += n
        return stats.average(parts)

    statistic = placed(first)
    if second is not None:
        statistic = stats.difference(statistic, placed(second))
    return stats.bootstrap(statistic, np.concatenate(people), resamples=words.bootstraps)


def value(found: dict[Key, Judged], keys: tuple[Key, ...]) -> float:
    return float(np.mean([statistic_of(found[key], key)(np.ones((1, len(found[key].ids))))[0] for key in keys]))


def text(found: Any, *, signed: bool = False, digits: int = 3) -> str:
    if found.value is None:
        return str(found.reason)
    shape = f"{'+' if signed else ''}.{digits}f"
    whole = f"{found.value:{shape}}" + (f" [{found.low:{shape}}, {found.high:{shape}}]" if found.low is not None else "")
    return f"**{whole}**" if signed and found.low is not None and (found.low > 0 or found.high < 0) else whole


if __name__ == "__main__":
    main()
