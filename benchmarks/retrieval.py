"""How long do nearest neighbours, retrieval by measurement and a thousand resamples take, beside the published way?

    python benchmarks/retrieval.py --out benchmarks/results/retrieval_YYYYMM.md

Random vectors. Nearest rows with faiss and without, 10,000 x 10,000 x 512. Retrieval by one measurement at 10,000 ECGs and 10,000
studies; and at a smaller size beside a plain statement of the published protocol (specification section 1.8): positives by a
pass over all studies for each ECG in Python, full sorts, hits looked up in lists. Neighbours beside scikit-learn's brute force.
The evaluations of `ecgecho eval` at 10,000 test ECGs, each by itself, all with 1,000 resamples. `ecgecho search` as a command, in
stores of 10,000 studies of 6 cines and of 64.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

import embed_cache
from ecgecho import catalog as tables
from ecgecho import config, plugins, stats
from ecgecho import nearest as rooms
from ecgecho.encoders import resnet_small
from ecgecho.evals import phenotype_retrieval
from ecgecho.pairs import splits_of
from ecgecho.tasks import TASKS
from ecgecho.train import make_recipe, train
from ecgecho.types import Classes, EvalInputs, Phenotype, StudyInputs

THREADS = 1
LARGE, WIDTH = 10_000, 512
SMALL = (500, 1000, 2000)
KS = (1, 3, 5, 10)
SMALLEST, CINES, ECHO_DIM = 64, 6, 64
TIMES = 5


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the processor, which other work on the machine hardly changes."""
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def published(sim: np.ndarray, ecg_value: np.ndarray, study_value: np.ndarray) -> dict[str, float]:
    """The protocol in plain words: a data frame, a list of positives an ECG, a sort, look-ups in lists."""
    frame = pd.DataFrame({"study": np.arange(len(study_value)), "value": study_value})
    near = 0.5 * frame["value"].std(ddof=1)
    positives = [frame[frame["value"].apply(lambda v, q=q: abs(v - q) <= near)]["study"].tolist() for q in ecg_value]
    order = np.argsort(-sim, axis=1, kind="stable")
    found = {f"precision_at_{k}": 0.0 for k in KS} | {"mean_rank": 0.0}
    for q, right in enumerate(positives):
        ranked = order[q].tolist()
        for k in KS:
            found[f"precision_at_{k}"] += sum(s in right for s in ranked[:k]) / k / len(positives)
        first = next((place for place, s in enumerate(ranked, 1) if s in right), len(ranked) + 1)
        found["mean_rank"] += first / len(positives)
    return found


def cohort(n: int, width: int, *, train: int = 0) -> EvalInputs:
    """n test ECGs with a study each, and labelled ECGs to train on; two ECGs a subject."""
    rng = np.random.default_rng(0)
    whole = n + 2 * train
    subject = np.arange(whole) // 2
    split = np.array(["test"] * n + ["train"] * train + ["val"] * train)
    latent = rng.normal(size=whole)
    mean = rng.normal(size=(whole, width)).astype(np.float32)
    mean[:, 0] += 3 * latent
    asked = tuple(TASKS[name] for name in ("lvef_lt_40", "severe_lvh"))
    values = 55 + 12 * latent
    phenotypes = tuple(
        Phenotype(name=name, title=name, unit="", values=values[:n] + rng.normal(0, 5 * k, n))
        for k, name in enumerate(("lvef", "edv_ml", "esv_ml"))
    )
    studies = StudyInputs(
        mean=mean[:n] + rng.normal(size=(n, width)).astype(np.float32),
        logvar=None,
        subject=subject[:n],
        of_ecg=np.r_[np.arange(n), np.full(2 * train, -1)],
        phenotypes=phenotypes,
    )
    return EvalInputs(
        mean=mean,
        logvar=None,
        subject=subject,
        split=split,
        tasks=asked,
        labels={task.name: (latent > 1).astype(np.int64) for task in asked},
        text_key=np.full(whole, -1),
        floor_mean=rng.normal(size=(whole, width)).astype(np.float32),
        studies=studies,
        classes={Classes(name="lvef_3", tasks=("a", "b", "c"), title=""): np.digitize(values, [40, 50])},
    )


def stored(root: Path, num: int, name: str) -> dict[str, Path]:
    """A catalog, an ECG store and an echo store of random data: `num` studies of CINES cines, a measurement each.

    Only the first SMALLEST have an ECG: `search` reads none of them, and the run learns from as many.
    """
    rng = np.random.default_rng(num)
    people = [f"{name}{i:05d}" for i in range(num)]
    some, now = people[:SMALLEST], datetime.datetime(2020, 1, 1)  # noqa: DTZ001 - the catalog's times have no zone
    split = splits_of(name, people)
    clips = [(f"{who}-c{k}", f"{who}-s", who) for who in people for k in range(CINES)]
    tables.write(
        root / "catalog",
        root=root,
        dataset=name,
        family=name,
        tables={
            "subjects": pa.table({"subject_id": people, "split": split}),
            "ecgs": pa.table({"ecg_id": some, "subject_id": some, "path": some, "time": [now] * len(some)}),
            "clips": pa.table(
                {
                    "clip_id": [c for c, *_ in clips],
                    "study_id": [s for _, s, _ in clips],
                    "subject_id": [who for *_, who in clips],
                    "path": [c for c, *_ in clips],
                    "time": [now] * len(clips),
                }
            ),
            "labels": pa.table(
                {"subject_id": people, "time": [now] * num, "name": ["lvef"] * num, "value": rng.normal(55, 12, num)}
            ),
            "pairs": pa.table(
                {
                    "ecg_id": some,
                    "subject_id": some,
                    "study_id": [f"{who}-s" for who in some],
                    "gap_days": [0.0] * len(some),
                    "split": split[: len(some)],
                    "weight": [1.0] * len(some),
                }
            ),
        },
    )
    contract = resnet_small.CONTRACT
    shape = (len(contract.leads), contract.num_samples)
    fixed = {"scale": np.full(shape[0], 1e-3, np.float32), "lead_valid": np.ones(shape[0], np.uint8)}
    store(
        root / "ecg.zarr",
        "ecg",
        {"contract": config.to_json(contract), "contract_sha256": config.digest(contract), "unit": "mv"},
        [
            embed_cache.Column("signal", shape, "int16"),
            embed_cache.Column("scale", shape[:1], "float32"),
            embed_cache.Column("lead_valid", shape[:1], "uint8"),
        ],
        {who: {"signal": rng.integers(-1000, 1000, shape).astype(np.int16), **fixed} for who in some},
        some,
    )
    moments = np.abs(rng.normal(size=(len(clips), 2, ECHO_DIM))).astype(np.float16)
    store(
        root / "echo.zarr",
        "echo",
        {"teacher": "random", "weights_sha256": "0" * 64},
        [embed_cache.Column("moments", (2, ECHO_DIM), "float16")],
        {c: {"moments": m} for (c, *_), m in zip(clips, moments, strict=True)},
        [s for _, s, _ in clips],
    )
    return {"catalog": root / "catalog", "ecg": root / "ecg.zarr", "echo": root / "echo.zarr"}


def store(
    path: Path,
    kind: str,
    identity: dict[str, Any],
    columns: list[embed_cache.Column],
    values: dict[str, dict[str, np.ndarray]],
    groups: list[str],
) -> None:
    counts = ("num_frames",) if kind == "echo" else ()
    plan = embed_cache.make_plan(list(values), groups, seed=0)
    writer = embed_cache.Writer.create_or_resume(path, kind=kind, identity=identity, columns=columns, counts=counts, plan=plan)
    for part in writer.pending():
        rows = {
            item: embed_cache.Row("ok", values=values[item], counts=dict.fromkeys(counts, 30))
            for item, *_ in writer.rows_of(part)
        }
        writer.commit(part, rows, {})
    writer.seal({})


def commanded(out: Path, *words: object) -> tuple[float, float]:
    """Seconds of the processor and of the clock of an `ecgecho` command that prints to a file."""
    began = time.perf_counter()
    with out.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "ecgecho", *map(str, words)], stdout=file)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{words} ended with {status}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - began


def searched() -> list[str]:
    """`ecgecho search` in few studies and in many, the whole command."""
    what = f"{CINES} cines a study, moments of {ECHO_DIM} numbers, echo2ecg's small recipe"
    lines = [f"`ecgecho search`, {what}, the whole command, median of {TIMES}:", ""]
    lines += ["| studies | processor, s | clock, s |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        there = {num: stored(root / str(num), num, name) for num, name in ((SMALLEST, "few"), (LARGE, "many"))}
        own = there[SMALLEST]
        recipe = config.override(make_recipe("echo2ecg", "small"), ["optim.steps=1", "data.batch_size=16"])
        train(
            recipe,
            catalogs=[own["catalog"]],
            ecgs=[own["ecg"]],
            echos=[own["echo"]],
            out=root / "run",
            device="cpu",
            progress=False,
        )
        contract = resnet_small.CONTRACT
        signal = np.random.default_rng(0).normal(0, 0.3, (len(contract.leads), contract.num_samples))
        np.save(root / "one.npy", signal.astype(np.float32))
        said = ("--fs-hz", contract.fs_hz, "--unit", "mv", "--leads", ",".join(contract.leads), "--device", "cpu")
        measured: dict[int, list[tuple[float, float]]] = {num: [] for num in there}
        for _ in range(TIMES):
            for num, place in there.items():
                given = ("--store", place["echo"], "--catalog", place["catalog"], *said, "--json")
                measured[num].append(commanded(root / "found.json", "search", root / "run", root / "one.npy", *given))
                if json.loads((root / "found.json").read_text())["num_studies"] != num:
                    raise RuntimeError(f"not all of {num} studies were searched")
        for num, each in measured.items():
            spent, clock = np.median(each, axis=0)
            lines.append(f"| {num:,} | {spent:.1f} | {clock:.1f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(THREADS)
    load = os.getloadavg()[0]
    rng = np.random.default_rng(0)
    lines = []

    x, y = (rng.normal(size=(LARGE, WIDTH)).astype(np.float32) for _ in range(2))
    lines += [f"Nearest 10 of {LARGE:,} rows for {LARGE:,} queries of {WIDTH} numbers, seconds:", ""]
    lines += ["| metric | faiss | torch | same answer, bit by bit |", "|---|---|---|---|"]
    for metric in ("cosine", "euclidean"):
        rooms.HAS_FAISS = True
        one, by_faiss = timed(lambda m=metric: rooms.nearest(x, y, 10, metric=m))
        rooms.HAS_FAISS = False
        two, by_torch = timed(lambda m=metric: rooms.nearest(x, y, 10, metric=m))
        same = all((a == b).all() for a, b in zip(by_faiss, by_torch, strict=True))
        lines.append(f"| {metric} | {one:.1f} | {two:.1f} | {'yes' if same else 'NO'} |")
    rooms.HAS_FAISS = True

    from sklearn.neighbors import KNeighborsClassifier

    label = (y[:, 0] > 0).astype(int)
    brute, voted = timed(lambda: KNeighborsClassifier(5, algorithm="brute").fit(y, label).predict_proba(x)[:, 1])
    ours, near = timed(lambda: rooms.nearest(x, y, 5, metric="euclidean")[1])
    equal = np.isclose(label[near].mean(1), voted).mean()
    lines += ["", f"The vote of 5 neighbours at that size: scikit-learn's brute force {brute:.1f} s, ours {ours:.1f} s"]
    lines[-1] += f" ({brute / ours:.1f} times); the same vote for {100 * equal:.2f} % of queries."

    lines += ["", "Retrieval by one measurement, ECGs to studies, as many of each, no interval, seconds:", ""]
    lines += ["| ECGs | the published way | ours | ratio | largest difference of a metric |", "|---|---|---|---|---|"]
    for n in SMALL:
        given = cohort(n, 64)
        studies = given.studies
        assert studies is not None
        value = studies.phenotypes[0].values
        sim = stats.unit_rows(given.mean) @ stats.unit_rows(studies.mean).T
        plain, said = timed(lambda s=sim, v=value: published(s, v, v))
        near_value = 0.5 * value.std(ddof=1)

        def ask(sim: np.ndarray = sim, value: np.ndarray = value, near_value: float = near_value) -> dict[str, float]:
            right = torch.from_numpy(phenotype_retrieval.within(value, value, near_value))
            ranked = phenotype_retrieval.rank(torch.from_numpy(sim), right, None, KS)
            return {f"precision_at_{k}": float(ranked.hits[k].mean() / k) for k in KS} | {"mean_rank": float(ranked.first.mean())}

        fast, mine = timed(ask)
        apart = max(abs(said[name] - mine[name]) for name in said)
        lines.append(f"| {n:,} | {plain:.2f} | {fast:.4f} | {plain / fast:.0f} | {apart:.0e} |")

    lines += [
        "",
        f"Evaluations at {LARGE:,} test ECGs (and 5,000 training and 5,000 validation ECGs), embeddings of 256",
    ]
    lines[-1] += " numbers, two tasks and three classes, three measurements, all labels, 1,000 resamples of 5,000 subjects:"
    lines += ["", "| evaluation | rows | seconds |", "|---|---|---|"]
    given = cohort(LARGE, 256, train=LARGE // 2)
    object.__setattr__(given, "shares", (1.0,))
    for name in ("knn", "phenotype_retrieval"):
        plugin = plugins.load("evals", name)
        spent, rows = timed(lambda p=plugin: p.build(p.Config()).run(given))
        lines.append(f"| {name} | {len(rows)} | {spent:.1f} |")
    bare, _ = timed(
        lambda: stats.bootstrap(stats.auroc_of(given.labels["lvef_lt_40"][:LARGE], given.mean[:LARGE, 0]), given.subject[:LARGE])
    )
    lines += ["", f"One AUROC with 1,000 resamples at {LARGE:,} ECGs: {bare:.2f} s."]

    lines += ["", *searched()]

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    import faiss

    head = [
        "# Nearest neighbours and retrieval",
        "",
        f"- machine: {os.cpu_count()} cores, no GPU, {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, faiss {faiss.__version__}, {THREADS} thread",
        f"- date: {datetime.date.today()}, commit {commit}",  # noqa: DTZ011
        f"- command: `OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python {shlex.join(sys.argv)}`",
        f"- load of the machine at the start: {load:.1f}; seconds are those of the processor where nothing else is said",
        "- simulated data: random vectors",
        "",
    ]
    out.write_text("\n".join([*head, *lines, ""]), encoding="utf-8")
    print(out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
