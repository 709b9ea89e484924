"""Does the echo teacher help? Does PCME++ beat InfoNCE? Does variance find artefacts? Methods side by side on simulated cohorts.

    python benchmarks/simulated_cohort.py --work DIR --out benchmarks/results/NAME_YYYYMM.md

Each seed is a cohort of its own and the seed of its trainings. The cohort with the largest share of echo is written, cached and
taught once; smaller shares are subsets of its studies, so every run of a seed is judged on the same ECGs. Figures are means over
seeds; intervals resample subjects within each seed, and differences are paired by ECG. Every step resumes; the same command after
a kill goes on, and `--report-only` makes the table of what is complete.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SHARES = (1 / 3, 1 / 10, 1 / 100)
TASKS = {"lvef_lt_40": "LVEF < 40 %", "severe_lvh": "severe LVH", "dilated_lv": "dilated LV"}
SINGLE = "a4c"
VIEWS = (SINGLE, "a2c", "plax")
FRAMES = 16
PLACED = 120
"""Clean test recordings of a seed that are disturbed."""
EVALS = ("zero_shot", "linear_probe", "uncertainty", "supervised")
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """One training; `share` of the subjects have cines, 0 for none."""

    name: str
    title: str
    method: str
    share: float = 0.0
    settings: tuple[str, ...] = ()


def runs() -> list[Run]:
    """All of them, the most telling first."""
    without = ("method.on=text", "method.dim=64")
    found = [
        Run("supervised", "supervised", "supervised", 0.0, (f"data.tasks={json.dumps(list(TASKS))}",)),
        Run("clip_text", "`ecg_clip` on text", "ecg_clip", 0.0, without),
        Run("pcme_text", "`echoing_ecg` on text", "echoing_ecg", 0.0, without),
    ]
    for share in SHARES:
        one = f"1/{round(1 / share)}"
        found += [
            Run(f"pcme_both_{one[2:]}", f"`echoing_ecg` on text and echo, {one}", "echoing_ecg", share),
            Run(f"clip_both_{one[2:]}", f"`ecg_clip` on text and echo, {one}", "ecg_clip", share, ("method.on=both",)),
        ]
    found += [
        Run(f"clip_echo_{round(1 / share)}", f"`ecg_clip` on echo, 1/{round(1 / share)}", "ecg_clip", share, ("method.on=echo",))
        for share in SHARES
    ]
    found += [
        Run("pcme_merge", "the same, 1/3, views merged", "echoing_ecg", SHARES[0], ("data.views=merge",)),
        Run("pcme_single", f"the same, 1/3, {SINGLE} alone", "echoing_ecg", SHARES[0], (f"data.views={SINGLE}",)),
    ]
    return found


PAIRS = (
    ("the echo teacher, 1/3", "pcme_both_3", "pcme_text"),
    ("the echo teacher, 1/10", "pcme_both_10", "pcme_text"),
    ("the echo teacher, 1/100", "pcme_both_100", "pcme_text"),
    ("the echo teacher under InfoNCE, 1/3", "clip_both_3", "clip_text"),
    ("the echo teacher under InfoNCE, 1/10", "clip_both_10", "clip_text"),
    ("the echo teacher under InfoNCE, 1/100", "clip_both_100", "clip_text"),
    ("PCME++ over InfoNCE, text", "pcme_text", "clip_text"),
    ("PCME++ over InfoNCE, text and echo 1/3", "pcme_both_3", "clip_both_3"),
    ("PCME++ over InfoNCE, text and echo 1/10", "pcme_both_10", "clip_both_10"),
    ("views merged over one drawn", "pcme_merge", "pcme_both_3"),
    ("one drawn over a single view", "pcme_both_3", "pcme_single"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[31, 32, 33])
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--bootstraps", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=max((os.cpu_count() or 2) // 2, 1), help="trainings at once, one thread each")
    parser.add_argument("--report-only", action="store_true")
    words = parser.parse_args()
    if not words.report_only:
        for seed in words.seeds:
            prepare(words.work / str(seed), seed, words.subjects)
            with concurrent.futures.ThreadPoolExecutor(words.jobs) as pool:
                list(pool.map(lambda run, seed=seed: train(words.work / str(seed), seed, run, words), runs()))
    text = report(words)
    words.out.write_text(text, encoding="utf-8")
    print(text)


def prepare(work: Path, seed: int, subjects: int) -> None:
    """Cohort, catalogs and stores of one seed."""
    cohort = work / "cohort"
    command("simulate", cohort, "--subjects", subjects, "--seed", seed, "--enrich", "--ecgs-per-subject", 2,
            "--frames", FRAMES, "--views", ",".join(VIEWS), "--echo-share", SHARES[0])  # fmt: skip
    command("index", "mimic-iv", cohort, "--out", catalog_of(work, SHARES[0]))
    name_views(cohort, catalog_of(work, SHARES[0]))
    for share in SHARES[1:]:
        thin(catalog_of(work, SHARES[0]), catalog_of(work, share), share, subjects, seed)
    command("cache-echo", catalog_of(work, SHARES[0]), "--teacher", "demo", "--out", work / "echo.zarr")
    command("cache-ecg", catalog_of(work, SHARES[0]), "--contract", "echoing_ecg", "--out", work / "ecg.zarr")


def catalog_of(work: Path, share: float) -> Path:
    return work / f"catalog_{round(1 / share)}"


def thin(whole: Path, out: Path, share: float, subjects: int, seed: int) -> None:
    """The catalog `whole` as if only `share` of the subjects had cines; smaller shares are subsets of larger ones."""
    clips = pq.read_table(whole / "clips.parquet")
    people = sorted(set(clips["subject_id"].to_pylist()))
    order = np.random.default_rng(seed).permutation(len(people))
    kept = pa.array([people[k] for k in order[: round(share * subjects)]], pa.string())
    shutil.copytree(whole, out, dirs_exist_ok=True)
    pq.write_table(clips.filter(pc.is_in(clips["subject_id"].cast(pa.string()), value_set=kept)), out / "clips.parquet")
    pairs = pq.read_table(whole / "pairs.parquet")
    stays = pc.is_in(pairs["subject_id"].cast(pa.string()), value_set=kept)
    for name in ("study_id", "gap_days"):
        place = pairs.column_names.index(name)
        nothing = pa.nulls(pairs.num_rows, pairs.schema.field(name).type)
        pairs = pairs.set_column(place, pairs.schema.field(name), pc.if_else(stays, pairs[name], nothing))
    pq.write_table(pairs, out / "pairs.parquet")


def name_views(cohort: Path, catalog: Path) -> None:
    """Write the true view of each cine into the catalog, as a laboratory with labelled views would."""
    path = catalog / "clips.parquet"
    clips = pq.read_table(path)
    truth = pq.read_table(cohort / "truth.parquet", columns=["clip_id", "view"])
    named = {row["clip_id"]: row["view"] for row in truth.to_pylist() if row["clip_id"]}
    views = pa.array([named.get(clip) for clip in clips["clip_id"].to_pylist()], pa.string())
    if "view" in clips.column_names:
        clips = clips.set_column(clips.column_names.index("view"), clips.schema.field("view"), views)
    else:
        clips = clips.append_column("view", views)
    pq.write_table(clips, path)


def train(work: Path, seed: int, run: Run, words: argparse.Namespace) -> None:
    """One training with its evaluation; nothing where it is done."""
    out = work / "runs" / run.name
    if (out / "metrics.json").exists():
        return
    echo = ("--echo", work / "echo.zarr") if run.share else ()
    settings = [w for s in (f"optim.steps={words.steps}", f"seed={seed}", *run.settings) for w in ("--set", s)]
    command("train", run.method, "--recipe", "small", "--catalog", catalog_of(work, run.share or SHARES[0]),
            "--ecg", work / "ecg.zarr", *echo, "--out", out, *settings)  # fmt: skip
    chosen = [w for name in EVALS for w in ("--evals", name)]
    command("eval", out, "--bootstraps", words.bootstraps, *chosen)


def command(*words: object) -> None:
    """One ecgecho command, quiet, on one thread."""
    line = [str(w) for w in words]
    began = datetime.datetime.now()
    threads = {} if line[0].startswith("cache") else {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "ecgecho", *line], capture_output=True, text=True, check=False, env=os.environ | threads
    )
    seconds = (datetime.datetime.now() - began).total_seconds()
    print(f"{seconds:6.0f} s  ecgecho {' '.join(line[:2])} {line[-1] if line[0] == 'eval' else ''}", flush=True)
    if done.returncode not in (0, 3):  # 3: some items failed, which the cohort has on purpose
        sys.exit(f"ecgecho {' '.join(line)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


# The table


@dataclass(frozen=True)
class Judged:
    """What one run scored on the test ECGs of one seed, by evaluation, task and share of labels."""

    scores: dict[tuple[str, str, float | None], tuple[tuple[str, ...], npt.NDArray[np.int64], npt.NDArray[np.str_], F64]]
    """-> ids (n,), y (n,), subjects (n,), scores (draws, n); rows in the order of their ids."""
    metrics: dict[str, Any]


def report(words: argparse.Namespace) -> str:
    judged = {run.name: {seed: read(words.work / str(seed) / "runs" / run.name) for seed in words.seeds} for run in runs()}
    judged = {name: {seed: found for seed, found in by.items() if found} for name, by in judged.items()}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    seeds = " ".join(map(str, words.seeds))
    complete = min((len(by) for by in judged.values()), default=0)
    lines = [
        "# Methods on simulated cohorts",
        "",
        f"- machine: {platform.machine()}, {os.cpu_count()} cores, no GPU; Python {platform.python_version()}",
        f"- date: {datetime.date.today().isoformat()}, commit {commit}",
        f"- command: `python benchmarks/simulated_cohort.py --subjects {words.subjects} --seeds {seeds} --steps {words.steps} "
        f"--bootstraps {words.bootstraps}`",
        f"- **simulated cohorts, no real person**: {words.subjects} subjects a seed, enriched, at most 2 ECGs each, "
        f"views {', '.join(VIEWS)} of {FRAMES} frames, default difficulty; small recipe, {words.steps} steps, one thread",
        f"- seeds complete for every run: {complete} of {len(words.seeds)}; a cell with another number says so",
        "- AUROC: mean over seeds, 95 % interval by bootstrap over subjects within seeds",
        "",
    ]
    lines += main_table(judged)
    lines += ["", "Differences of AUROC, paired by ECG (what clears 0 is bold):", ""]
    lines += difference_table(judged)
    lines += ["", "The surer and the less sure half of the test ECGs (zero-shot AUROC, mean over seeds; low: less variance):", ""]
    lines += halves_table(judged)
    lines += ["", "Does variance find the artefacts that were put there? AUROC of an ECG's variance for having the artefact:", ""]
    lines += artefact_table(words, judged)
    lines += [
        "",
        "The same, for strong artefacts put on recordings that have none (paired: share of ECGs whose variance rises):",
        "",
    ]
    lines += placed_table(words, judged)
    lines += ["", "Views of a study in the teacher's space (medians over studies, all seeds):", ""]
    lines += view_table(words)
    return "\n".join(lines).replace(f" ({complete} seed{'s' if complete > 1 else ''})", "") + "\n"


def read(run: Path) -> Judged | None:
    if not (run / "metrics.json").exists():
        return None
    table = pq.read_table(run / "predictions.parquet")
    table = table.filter(pc.equal(table["metric"], "auroc"))
    found: dict[tuple[str, str, float | None], Any] = {}
    keys = {(r["evaluation"], r["task"], r["share"]) for r in table.select(["evaluation", "task", "share"]).to_pylist()}
    for evaluation, task, share in keys:
        mine = pc.and_(pc.equal(table["evaluation"], evaluation), pc.equal(table["task"], task))
        mine = pc.and_(mine, pc.is_null(table["share"]) if share is None else pc.equal(table["share"], share))
        rows = table.filter(mine).sort_by([("draw", "ascending"), ("ecg_id", "ascending")])
        draws = len(set(rows["draw"].to_pylist()))
        n = rows.num_rows // draws
        found[evaluation, task, share] = (
            tuple(rows["ecg_id"].to_pylist()[:n]),
            rows["y"].to_numpy()[:n].astype(np.int64),
            np.array(rows["subject"].to_pylist()[:n]).astype(str),
            rows["score"].to_numpy().reshape(draws, n),
        )
    return Judged(scores=found, metrics=json.loads((run / "metrics.json").read_text()))


CELLS = (("zero_shot", None, "zero-shot"), ("linear_probe", 0.1, "10 %"), ("linear_probe", 1.0, "100 %"))


def main_table(judged: dict[str, dict[int, Judged]]) -> list[str]:
    head = [f"{title}: {label}" for title in TASKS.values() for _, _, label in CELLS]
    lines = ["| trained as | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    floor = ["floor (encoder never trained)"]
    for task in TASKS:
        floor += [_cell(_pick(judged["clip_text"], ("floor", task, share))) if share else "-" for _, share, _ in CELLS]
    lines.append("| " + " | ".join(floor) + " |")
    for run in runs():
        cells = [run.title]
        for task in TASKS:
            for evaluation, share, _ in CELLS:
                own = "supervised" if run.method == "supervised" and share == 1.0 else evaluation
                cells.append(_cell(_pick(judged[run.name], (own, task, share if own != "supervised" else None))))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _pick(by_seed: dict[int, Judged], key: tuple[str, str, float | None]) -> list[Any]:
    found = []
    for judged in by_seed.values():
        evaluation, task, share = key
        options = [key, (evaluation, task, None), (evaluation, task, 1.0)] if evaluation == "supervised" else [key]
        found += [judged.scores[option] for option in options if option in judged.scores][:1]
    return found


def _pooled(parts: list[Any], of: Callable[[Any, int], Any]) -> tuple[Any, npt.NDArray[np.str_]]:
    """A statistic that is the mean of one of each seed, over the rows of all seeds, and the subjects of those rows."""
    from ecgecho import stats

    statistics, people, start = [], [], 0
    for number, part in enumerate(parts):
        n = len(part[0])
        statistics.append(stats.within(np.arange(start, start + n), of(part, number)))
        people.append(np.char.add(f"{number}/", part[2]))
        start += n
    return stats.average(statistics), np.concatenate(people)


def _auroc(part: Any) -> Any:
    from ecgecho import stats

    return stats.average([stats.auroc_of(part[1], draw) for draw in part[3]])


def _cell(parts: list[Any]) -> str:
    from ecgecho import stats

    if not parts:
        return "-"
    statistic, people = _pooled(parts, lambda part, _: _auroc(part))
    return _text(stats.bootstrap(statistic, people), len(parts))


def _text(found: Any, seeds: int, *, signed: bool = False) -> str:
    if found.value is None:
        return found.reason
    shape = "+.2f" if signed else ".2f"
    text = f"{found.value:{shape}}" + (f" [{found.low:{shape}}, {found.high:{shape}}]" if found.low is not None else "")
    text = f"**{text}**" if signed and found.low is not None and (found.low > 0 or found.high < 0) else text
    return f"{text} ({seeds} seed{'s' if seeds > 1 else ''})"


def difference_table(judged: dict[str, dict[int, Judged]]) -> list[str]:
    from ecgecho import stats

    head = [f"{title}: {label}" for title in TASKS.values() for _, _, label in CELLS]
    lines = ["| gain of | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for title, one, other in PAIRS:
        both = [seed for seed in judged[one] if seed in judged[other]]
        cells = [title]
        for task in TASKS:
            for evaluation, share, _ in CELLS:
                key = (evaluation, task, share)
                seeds = [s for s in both if key in judged[one][s].scores and key in judged[other][s].scores]
                first = [judged[one][s].scores[key] for s in seeds]
                second = [judged[other][s].scores[key] for s in seeds]
                if not seeds:
                    cells.append("-")
                    continue
                assert all(a[0] == b[0] for a, b in zip(first, second, strict=True)), "judged on the same ECGs"
                statistic, people = _pooled(
                    first, lambda part, k, second=second: stats.difference(_auroc(part), _auroc(second[k]))
                )
                cells.append(_text(stats.bootstrap(statistic, people), len(seeds), signed=True))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def halves_table(judged: dict[str, dict[int, Judged]]) -> list[str]:
    lines = ["| trained as | task | low | high | low - high, each seed |", "|---|---|---|---|---|"]
    for run in runs():
        if run.method != "echoing_ecg":
            continue
        for task, title in TASKS.items():
            found: dict[str, list[dict[str, Any]]] = {"low": [], "high": [], "low - high": []}
            for one in judged[run.name].values():
                for row in one.metrics["rows"]:
                    if (row["evaluation"], row["task"], row["metric"]) == ("uncertainty.zero_shot", task, "auroc"):
                        found.get(row["subset"], []).append(row)
            known = {name: [r for r in rows if r["value"] is not None] for name, rows in found.items()}
            if not known["low - high"]:
                continue
            means = [f"{np.mean([r['value'] for r in known[name]]):.2f}" if known[name] else "-" for name in ("low", "high")]
            each = ", ".join(
                f"{r['value']:+.2f}" + (f" [{r['low']:+.2f}, {r['high']:+.2f}]" if r["low"] is not None else "")
                for r in known["low - high"]
            )
            lines.append(f"| {run.title} | {title} | {means[0]} | {means[1]} | {each} |")
    return lines


def artefact_table(words: argparse.Namespace, judged: dict[str, dict[int, Judged]]) -> list[str]:
    import embed_cache
    from ecgecho import stats
    from ecgecho.embed import load

    lines = ["| trained as | artefact | ECGs with it, of all test ECGs | AUROC of the variance |", "|---|---|---|---|"]
    for run in runs():
        if run.name not in ("pcme_text", "pcme_both_3"):
            continue
        parts: dict[str, list[Any]] = {}
        for seed in judged[run.name]:
            work = words.work / str(seed)
            tested = _test_subjects(catalog_of(work, SHARES[0]))
            truth = pq.read_table(work / "cohort" / "truth.parquet", columns=["kind", "ecg_id", "subject_id", "artefacts_s"])
            rows = {row["ecg_id"]: row for row in truth.to_pylist() if row["kind"] == "ecg"}
            test = [i for i, row in rows.items() if row["subject_id"] in tested]
            store = embed_cache.open(work / "ecg.zarr")
            kept = store.index.filter(pc.and_(store.index["live"], pc.equal(store.index["status"], "ok")))["id"].to_pylist()
            ids = sorted(set(test) & set(kept))
            _, logvar = load(work / "runs" / run.name).embed_rows(store, store.rows(ids))
            assert logvar is not None
            variance = np.exp(logvar.astype(np.float64)).sum(1)
            people = np.array([rows[i]["subject_id"] for i in ids])
            kinds = {a["kind"] for i in ids for a in rows[i]["artefacts_s"]}
            for kind in sorted(kinds) + ["any"]:
                y = np.array([any(kind in (a["kind"], "any") for a in rows[i]["artefacts_s"]) for i in ids]).astype(np.int64)
                parts.setdefault(kind, []).append((tuple(ids), y, people, variance[None]))
        for kind, found in sorted(parts.items()):
            counts = f"{sum(int(p[1].sum()) for p in found)} of {sum(len(p[1]) for p in found)}"
            if not all(0 < p[1].sum() < len(p[1]) for p in found):
                continue
            statistic, people = _pooled(found, lambda part, _: _auroc(part))
            lines.append(f"| {run.title} | {kind} | {counts} | {_text(stats.bootstrap(statistic, people), len(found))} |")
    return lines


def placed_table(words: argparse.Namespace, judged: dict[str, dict[int, Judged]]) -> list[str]:
    """Clean test recordings as files, disturbed before the contract's filter, embedded as a user would."""
    from ecgecho import stats
    from ecgecho.embed import load
    from ecgecho.io import read_ecg

    lines = [
        "| trained as | artefact | variance, disturbed : clean | share that rises | AUROC, disturbed against clean |",
        "|---|---|---|---|---|",
    ]
    for run in runs():
        if run.name not in ("pcme_text", "pcme_both_3"):
            continue
        parts: dict[str, list[Any]] = {}
        for seed in judged[run.name]:
            work = words.work / str(seed)
            tested = _test_subjects(catalog_of(work, SHARES[0]))
            truth = pq.read_table(
                work / "cohort" / "truth.parquet", columns=["kind", "ecg_id", "subject_id", "path", "artefacts_s"]
            )
            clean = [r for r in truth.to_pylist() if r["kind"] == "ecg" and r["subject_id"] in tested and not r["artefacts_s"]][
                :PLACED
            ]
            student = load(work / "runs" / run.name)
            rng = np.random.default_rng(seed)
            found: dict[str, list[float]] = {}
            for row in clean:
                record = read_ecg(work / "cohort" / row["path"])
                for kind, signal in {"none": record.signal, **disturbed(record.signal, record.fs_hz, record.leads, rng)}.items():
                    logvar = student.embed(signal, record.fs_hz, record.leads).logvar
                    assert logvar is not None
                    found.setdefault(kind, []).append(float(logvar.double().exp().sum()))
            people = np.array([row["subject_id"] for row in clean] * 2)
            plain = np.array(found.pop("none"))
            for kind, values in found.items():
                both = np.concatenate([np.array(values), plain])
                y = np.repeat([1, 0], len(plain))
                parts.setdefault(kind, []).append((tuple(people), y, people, both[None]))
        for kind, seeds in parts.items():
            ratio = np.median(np.concatenate([p[3][0][: len(p[1]) // 2] / p[3][0][len(p[1]) // 2 :] for p in seeds]))
            rises = np.mean(np.concatenate([p[3][0][: len(p[1]) // 2] > p[3][0][len(p[1]) // 2 :] for p in seeds]))
            statistic, people = _pooled(seeds, lambda part, _: _auroc(part))
            auroc = _text(stats.bootstrap(statistic, people), len(seeds))
            lines.append(f"| {run.title} | {kind} | {ratio:.2f} | {rises:.2f} | {auroc} |")
    return lines


def disturbed(signal: Any, fs_hz: float, leads: tuple[str, ...], rng: np.random.Generator) -> dict[str, Any]:
    """Artefacts that nobody would overlook, each alone on (12, L) mV."""
    time = np.arange(signal.shape[1]) / fs_hz
    off, moved = signal.copy(), signal.copy()
    off[[leads.index(name) for name in ("V1", "V2", "V3")]] = 0
    moved[:, round(3 * fs_hz) : round(4 * fs_hz)] += 2 * rng.choice([-1.0, 1.0], (len(signal), 1)).astype(np.float32)
    return {
        "baseline wander, 1 mV at 0.3 Hz": (signal + np.sin(2 * np.pi * 0.3 * time)).astype(np.float32),
        "mains, 0.3 mV at 60 Hz": (signal + 0.3 * np.sin(2 * np.pi * 60 * time)).astype(np.float32),
        "muscle, 0.3 mV": (signal + 0.3 * rng.standard_normal(signal.shape)).astype(np.float32),
        "motion, 2 mV for 1 s in all leads": moved,
        "V1-V3 flat": off,
    }


def _test_subjects(path: Path) -> frozenset[str]:
    from ecgecho import catalog

    people = catalog.read(path).subjects
    return frozenset(people.filter(pc.equal(people["split"], "test"))["subject_id"].to_pylist())


def view_table(words: argparse.Namespace) -> list[str]:
    """Total variance of a clip's frames (motion) beside that of the means of a study's clips (views)."""
    import embed_cache

    motion, between = [], []
    for seed in words.seeds:
        path = words.work / str(seed) / "echo.zarr"
        if not path.exists():
            continue
        store = embed_cache.open(path)
        good = store.index.filter(pc.and_(store.index["live"], pc.equal(store.index["status"], "ok")))
        rows = store.rows(good["id"].to_pylist())
        moments = store.read("moments", rows).astype(np.float64)  # (N, 2, D): mean, standard deviation
        study = np.array(good["group"].to_pylist())
        inside = np.square(moments[:, 1]).sum(1)
        for name in np.unique(study):
            mine = study == name
            if mine.sum() > 1:
                motion.append(inside[mine].mean())
                between.append(moments[mine, 0].var(axis=0).sum())
    if not motion:
        return ["no study has two cines"]
    one, other = np.array(motion), np.array(between)
    return [
        "| studies | motion: variance over the frames of a cine | variance between the means of the views | views : motion |",
        "|---|---|---|---|",
        f"| {len(one)} | {np.median(one):.4f} | {np.median(other):.4f} | {np.median(other / one):.2f} |",
    ]


if __name__ == "__main__":
    main()
