"""Judging a run: its ECGs are embedded once, then every evaluation asks its question of the same arrays.

What the run cannot do is a row with its reason. `metrics.json` holds every number with its interval, its counts and what it is
held against; `predictions.parquet` beside it holds the score of every judged ECG (ids and labels, no signal and no text), so that
report/tables.py can set two runs against each other ECG by ECG.

A run that learnt from echo also embeds the echo studies of the test split, and is asked for one by the other.

Judging elsewhere: the other catalog's own splits are used, the probes are fitted on its training split, and a subject of its test
split that the run was trained on is an error. Ids of another family cannot be compared, which is said.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

import ecgecho
import embed_cache
from ecgecho import catalog as tables
from ecgecho import config, embed, log, pairs, plugins, stats
from ecgecho import tasks as questions
from ecgecho.catalog import Catalog, subject_tag
from ecgecho.data.examples import is_shown
from ecgecho.data.sources import catalog_hash
from ecgecho.data.tables import EchoTable, SignalTable
from ecgecho.data.texts import key_of
from ecgecho.embed import Student
from ecgecho.state import write_json
from ecgecho.types import (
    I64,
    Classes,
    EvalInputs,
    EvalRow,
    Json,
    Phenotype,
    StudyInputs,
    Task,
    UsageError,
    UserError,
)

SCHEMA = "ecgecho.metrics"
VERSION = 1
PREDICTIONS = "predictions.parquet"
ORDER = (
    "zero_shot",
    "linear_probe",
    "knn",
    "fine_tune",
    "supervised",
    "floor",
    "retrieval",
    "phenotype_retrieval",
    "uncertainty",
)
LEVEL_SHARE = 0.02  # of the whole fall of the validation loss: a training that gains less in its last fifth has levelled off
HEAD_RATE = 10.0  # the head starts from nothing, the encoder does not
CHECKS = 6  # how often fine-tuning looks at the validation split
JUDGE_BATCH = 256
LONGEST_NAME = 100  # of the evaluations in the name of a file


def evaluate(
    run: Path,
    *,
    catalog: Path | None = None,
    ecg: Path | None = None,
    echo: Sequence[Path] = (),
    evals: Sequence[str] | None = None,
    labels_share: Sequence[float] = (0.1, 1.0),
    seed: int = 0,
    bootstraps: int = 1000,
    window_days: float | None = None,
    tasks: Sequence[str] | None = None,
    settings: Sequence[str] = (),
    out: Path | None = None,
    device: str = "auto",
) -> Json:
    """Judge a run on the test split of its own catalogs, or of another; writes `out` (default `place` of it), gives the same.

    `tasks` are names that `tasks.find` or `tasks.CLASSES` knows; without, the usual ones and those of the run's own that these
    catalogs know. `echo` are echo stores; without, a run judged on its own catalogs takes those it was trained on. A study or a
    measurement further than `window_days` from an ECG says nothing of it; without, the window that the run learnt with.
    `settings` are words such as "fine_tune.steps=40". All rows of the result are `EvalRow` without its arrays.
    """
    began = time.monotonic()
    _check_shares(labels_share)
    chosen = _chosen(evals, settings)
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    student = embed.load(run, device=where)
    window_days = student.recipe.data.window_days if window_days is None else window_days
    pairs.check_window(window_days)
    catalogs, stores = _sources(student, catalog, ecg)
    notes = _refuse_leaks(student, catalogs)
    signals = student.open_signals(stores)
    wanted = tasks if tasks is not None else (*questions.to_judge(catalogs), *questions.known(student.tasks, catalogs))
    cohort = _cohort(catalogs, signals, *_questions(wanted, catalogs), window_days)
    log.say(f"judging {run.name} on {cohort.describe()}")
    studies: Studies | str = "no chosen evaluation asks for echo studies"
    if any(getattr(plugins.load("evals", name), "NEEDS_STUDIES", False) for name in chosen):
        studies = _studies(student, catalogs, cohort, echo, elsewhere=catalog is not None, window_days=window_days)
    with_features = any(_asks_for_features(settled) for settled in chosen.values())
    shares = tuple(sorted(set(labels_share)))
    inputs = _inputs(
        student, signals, cohort, studies, with_features=with_features, shares=shares, seed=seed, bootstraps=bootstraps
    )

    rows: list[EvalRow] = []
    with log.Bar("evaluations", len(chosen), unit="evals") as bar:
        for name, settled in chosen.items():
            if name == "supervised" and evals is None and not inputs.predictions:
                bar.advance()  # only a supervised run has it, and nobody asked
                continue
            rows += plugins.load("evals", name).build(settled).run(inputs)
            bar.advance(note=name)

    result: Json = {
        "schema": SCHEMA,
        "version": VERSION,
        "run": _about_run(student),
        "data": {
            "catalogs": [{"dataset": c.dataset, "family": c.family, "sha256": catalog_hash(c.path)} for c in catalogs],
            "ecg_stores": [embed_cache.open(path).content_hash() for path in stores],
            "contract_sha256": config.digest(student.contract),
            "cohort_sha256": cohort.digest(),
            "simulated": all(_is_simulated(c) for c in catalogs),
            "elsewhere": catalog is not None,
            "split_version": pairs.SPLIT_VERSION,
            "window_days": window_days,
            "counts": cohort.counts(),
            "notes": notes + cohort.notes,
            **({} if isinstance(studies, str) else studies.about()),
        },
        "seed": seed,
        "bootstraps": bootstraps,
        "labels_share": list(shares),
        "evals": {name: config.to_json(settled) for name, settled in chosen.items()},
        "tasks": {task.name: task.title for task in cohort.tasks},
        "classes": {asked.name: {"title": asked.title, "tasks": list(asked.tasks)} for asked in cohort.classes},
        "rows": [_row_json(row) for row in rows],
    }
    result["digest"] = config.digest(result)
    result |= {"code": _code(), "device": str(student.device), "seconds": round(time.monotonic() - began, 1)}
    target = out if out is not None else place(run, catalog, result)
    target.parent.mkdir(parents=True, exist_ok=True)
    own = target.name == "metrics.json"
    _write_predictions(target.with_name(PREDICTIONS if own else f"{target.stem}.{PREDICTIONS}"), rows, inputs, cohort, studies)
    write_json(target, result)
    return result


def place(run: Path, catalog: Path | None, result: Json) -> Path:
    """Where a result goes: RUN/metrics.json; for another catalog a file beside it, named by that catalog's hash.

    A file there that holds an evaluation, a question or a share of the labels that this result does not have is left as it is:
    the result then goes beside it, named by its evaluations.
    """
    usual = run / ("metrics.json" if catalog is None else f"metrics.{catalog_hash(catalog)[:8]}.json")
    try:
        there = json.loads(usual.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return usual
    if not isinstance(there, dict) or (there.get("schema"), there.get("version")) != (SCHEMA, VERSION):
        return usual
    if all(set(there.get(kind, ())) <= set(result[kind]) for kind in ("evals", "tasks", "classes", "labels_share")):
        return usual
    names = "_".join(Path(name).stem for name in result["evals"])
    short = names if len(names) <= LONGEST_NAME else config.digest(list(result["evals"]))[:8]
    return usual.with_name(f"{usual.stem}.{short}.json")


# What is judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """The ECGs that are needed, in the order of their ids."""

    ecg_id: tuple[str, ...]
    row: I64
    """In the signal table."""
    subject: I64
    split: Any
    labels: Mapping[str, I64]
    tasks: tuple[Task, ...]
    classes: Mapping[Classes, I64]
    people: tuple[str, ...]
    """Who the numbers of `subject` are; never written anywhere."""
    text_key: I64
    texts: tuple[str, ...]
    """Distinct reports of the test split; never written anywhere."""
    notes: list[str]

    def digest(self) -> str:
        """Equal for equal questions: which ECGs, in which split, with which labels."""
        parts = [json.dumps(self.ecg_id), json.dumps(self.split.tolist()), json.dumps(self.subject.tolist())]
        parts += [json.dumps([name, self.labels[name].tolist()]) for name in sorted(self.labels)]
        parts += [json.dumps([asked.name, asked.tasks, number.tolist()]) for asked, number in self.classes.items()]
        return hashlib.sha256("\n".join([*parts, json.dumps(self.text_key.tolist())]).encode()).hexdigest()

    def counts(self) -> Json:
        """Per split: ECGs, subjects, of each task the positives and what is known, and how many are in each class."""
        result: Json = {}
        for name in ("train", "val", "test"):
            here = self.split == name
            result[name] = {
                "ecgs": int(here.sum()),
                "subjects": len(np.unique(self.subject[here])),
                "tasks": {t: [int((y[here] == 1).sum()), int((y[here] >= 0).sum())] for t, y in self.labels.items()},
                "classes": {
                    asked.name: [int((number[here] == c).sum()) for c in range(len(asked.tasks))]
                    for asked, number in self.classes.items()
                },
            }
        return result

    def describe(self) -> str:
        """One line."""
        counts = self.counts()
        labelled = ", ".join(f"{t.title}: {counts['test']['tasks'][t.name][0]} positive" for t in self.tasks)
        return f"{counts['test']['ecgs']} test ECGs of {counts['test']['subjects']} subjects ({labelled})"


def _questions(names: Sequence[str], catalogs: Sequence[Catalog]) -> tuple[tuple[Task, ...], tuple[Classes, ...]]:
    """Each once."""
    once = list(dict.fromkeys(names))
    classes = tuple(questions.CLASSES[name] for name in once if name in questions.CLASSES)
    return tuple(
        questions.find(name, catalogs, list(questions.CLASSES)) for name in once if name not in questions.CLASSES
    ), classes


def _check_shares(shares: Sequence[float]) -> None:
    if not shares or (wrong := [share for share in shares if not 0 < share <= 1]):
        shown = f"{wrong[0]:g}" if shares else "missing"
        raise UsageError(f"a share of the training labels is {shown}; it must be above 0 and at most 1, as 0.1 for a tenth.")


def _cohort(
    catalogs: Sequence[Catalog],
    signals: SignalTable,
    tasks: tuple[Task, ...],
    classes: tuple[Classes, ...],
    window_days: float,
) -> Cohort:
    """Test ECGs with a report, a label or a study, and labelled ECGs of the other splits; those the stores lack are counted."""
    parts, notes, absent = [], [], 0
    for number, catalog in enumerate(catalogs):
        ecgs = catalog.ecgs
        place = pc.index_in(_flat(ecgs["subject_id"]), value_set=_flat(catalog.subjects["subject_id"]))
        frame: dict[str, Any] = {
            "ecg_id": ecgs["ecg_id"],
            "person": pc.binary_join_element_wise(catalog.family, _flat(ecgs["subject_id"]), "\x1f"),
            "split": _flat(catalog.subjects["split"]).take(place),
            "catalog": np.full(ecgs.num_rows, number),
        }
        for task in tasks:
            frame[task.name] = questions.answers(catalog, ecgs["ecg_id"].to_pylist(), task, window_days)
        for asked in classes:
            frame[asked.name] = questions.class_answers(catalog, ecgs["ecg_id"].to_pylist(), asked, window_days)
        frame["studied"] = pc.is_in(_flat(ecgs["ecg_id"]), value_set=_flat(_paired(catalog, window_days)["ecg_id"]))
        text_row = pc.index_in(_flat(ecgs["ecg_id"]), value_set=_flat(catalog.pairs["ecg_id"]))
        frame["text_id"] = _flat(catalog.pairs["text_id"]).take(text_row)
        part = pa.table(frame)
        known = np.array([i in signals.rows for i in part["ecg_id"].to_pylist()], bool)
        absent += int((~known).sum())
        parts.append(part.filter(pa.array(known)))
    whole = pa.concat_tables(parts).sort_by("ecg_id")
    labels = {task.name: whole[task.name].to_numpy() for task in tasks}
    split = np.array(whole["split"].to_pylist(), dtype=np.str_)
    numbers = {asked: whole[asked.name].to_numpy() for asked in classes}
    labelled = np.any([y >= 0 for y in (*labels.values(), *numbers.values())], axis=0)
    reported = (split == "test") & whole["text_id"].is_valid().to_numpy()
    studied = (split == "test") & whole["studied"].to_numpy()
    wanted = np.flatnonzero(np.isin(split, ("train", "val", "test")) & (labelled | reported | studied))
    if not (split[wanted] == "test").any():
        raise UserError(
            f"{', '.join(str(c.path) for c in catalogs)}: no ECG of the test split with a report, a label or an echo "
            "study is in the stores. "
            "Were the stores made from these catalogs, and do the subjects have splits?"
        )
    if absent:
        notes.append(f"{absent} ECGs of the catalogs are not in the ECG stores")
    text_key, texts = _reports(catalogs, whole, np.flatnonzero(reported))
    people, subject = np.unique(np.array(whole["person"].to_pylist()), return_inverse=True)
    return Cohort(
        ecg_id=tuple(whole["ecg_id"].take(wanted).to_pylist()),
        row=np.array([signals.rows[i] for i in whole["ecg_id"].take(wanted).to_pylist()], np.int64),
        subject=subject[wanted].astype(np.int64),
        people=tuple(people.tolist()),
        split=split[wanted],
        labels={name: y[wanted].astype(np.int64) for name, y in labels.items()},
        tasks=tasks,
        classes={asked: number[wanted].astype(np.int64) for asked, number in numbers.items()},
        text_key=text_key[wanted],
        texts=texts,
        notes=notes,
    )


def _paired(catalog: Catalog, window_days: float) -> pa.Table:
    """ECG and study of the pairs within the window, the nearest first."""
    rows = catalog.pairs.select(["ecg_id", "study_id", "gap_days"]).filter(pc.is_valid(catalog.pairs["study_id"]))
    gap = pc.fill_null(pc.abs(rows["gap_days"]), 0.0)
    near = pc.less_equal(gap, window_days)
    order = np.argsort(gap.filter(near).to_numpy(), kind="stable")
    return rows.filter(near).take(order)


@dataclass(frozen=True, slots=True, kw_only=True)
class Studies:
    """The echo studies of the test split that the run can embed."""

    inputs: StudyInputs
    study_id: tuple[str, ...]
    stores: tuple[str, ...]
    """Hashes of their content."""

    def about(self) -> Json:
        """What it says of itself in metrics.json; equal hashes are equal galleries."""
        measured = {p.name: p.values.tolist() for p in self.inputs.phenotypes}
        parts = [json.dumps(self.study_id), json.dumps(self.inputs.of_ecg.tolist()), json.dumps(measured)]
        return {
            "echo_stores": list(self.stores),
            "studies": {
                "studies": len(self.study_id),
                "subjects": len(np.unique(self.inputs.subject)),
                "ecgs": int((self.inputs.of_ecg >= 0).sum()),
                "phenotypes": {
                    p.name: {"title": p.title, "unit": p.unit, "studies": int(np.isfinite(p.values).sum())}
                    for p in self.inputs.phenotypes
                },
                "sha256": hashlib.sha256("\n".join(parts).encode()).hexdigest(),
            },
        }


def _studies(
    student: Student, catalogs: Sequence[Catalog], cohort: Cohort, echo: Sequence[Path], *, elsewhere: bool, window_days: float
) -> Studies | str:
    """The studies of the test split with usable cines in the echo stores, embedded; or why there are none."""
    name = student.recipe.method_name
    if not student.has_echo:
        without = student.run.get("teacher") is None
        return f"{name} was trained without echo" if without else f"{name} does not embed echo studies"
    if elsewhere and not echo:
        return "no echo store of this catalog was given; name it with --echo"
    stores = list(echo) or student.source_paths("echos")
    gone = [path for path in stores if not embed_cache.is_remote(path) and not path.exists()]
    if gone and not echo:
        return "the echo stores that the run was trained on are not there; name them with --echo"
    try:
        found = _embedded(student, catalogs, cohort, stores, window_days)
    except (UserError, embed_cache.StoreError, OSError) as error:
        if echo:
            raise
        said = str(error)
        for path in (*stores, student.path):  # which metrics.json tells nobody
            said = said.replace(str(path.resolve()), path.name).replace(str(path), path.name)
        return f"the run's own echo stores cannot be used: {said}"
    given = () if isinstance(found, str) else (found.inputs.mean, found.inputs.logvar)
    if not all(np.isfinite(each).all() for each in given if each is not None):
        raise UserError(f"{student.path} gives embeddings of studies that are not finite; its training diverged.")
    return found


def _embedded(
    student: Student, catalogs: Sequence[Catalog], cohort: Cohort, stores: Sequence[Path], window_days: float
) -> Studies | str:
    """Those of these stores."""
    table = student.open_echo(stores)
    people = {person: number for number, person in enumerate(cohort.people)}
    ids: list[str] = []
    rows: list[I64] = []
    subject: list[int] = []
    of_ecg = np.full(len(cohort.ecg_id), -1, np.int64)
    values: dict[str, list[stats.F64]] = {label: [] for label in questions.PHENOTYPES}
    for catalog in catalogs:
        found, owner = _cines(student, catalog, table)
        start, names = len(ids), sorted(found)
        ids += names
        rows += [np.array(sorted(found[study]), np.int64) for study in names]
        for study in names:
            subject.append(people.setdefault(f"{catalog.family}\x1f{owner[study]}", len(people)))
        _nearest_studies(_paired(catalog, window_days), cohort.ecg_id, names, start, of_ecg)
        for label, parts in values.items():
            parts.append(questions.study_values(catalog, names, label, window_days))
    if not ids:
        return "the echo stores hold no usable cine of a study of the test split"
    of_ecg[cohort.split != "test"] = -1
    mean, logvar = student.embed_studies(table, rows)
    measured = {label: np.concatenate(parts) for label, parts in values.items()}
    phenotypes = tuple(
        Phenotype(name=label, title=title, unit=unit, values=measured[label])
        for label, (title, unit) in questions.PHENOTYPES.items()
        if np.isfinite(measured[label]).any()
    )
    inputs = StudyInputs(mean=mean, logvar=logvar, subject=np.array(subject, np.int64), of_ecg=of_ecg, phenotypes=phenotypes)
    return Studies(inputs=inputs, study_id=tuple(ids), stores=tuple(embed_cache.open(path).content_hash() for path in stores))


def _cines(student: Student, catalog: Catalog, table: EchoTable) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Study of the test split -> its usable cines in the table, of the view that the run learnt from; and whose it is."""
    test, wanted = set(_subjects(catalog, "test")), student.recipe.data.views
    found: dict[str, list[int]] = {}
    owner: dict[str, str] = {}
    columns = ("clip_id", "study_id", "subject_id", "kind", "view")
    for clip_id, study_id, subject_id, kind, view in zip(*(catalog.clips[c].to_pylist() for c in columns), strict=True):
        row = table.rows.get(clip_id)
        if row is None or subject_id not in test or not is_shown(wanted, kind, view, row, table.view_of_row):
            continue
        found.setdefault(study_id, []).append(row)
        owner[study_id] = subject_id
    return found, owner


def _nearest_studies(paired: pa.Table, ecg_ids: Sequence[str], studies: Sequence[str], start: int, of_ecg: I64) -> None:
    """Writes into `of_ecg` the nearest of these studies, numbered from `start`, of each ECG that is paired with one."""
    place = pc.index_in(_flat(paired["ecg_id"]), value_set=pa.array(ecg_ids, pa.string()))
    number = pc.index_in(_flat(paired["study_id"]), value_set=pa.array(studies, pa.string()))
    both = pc.and_(pc.is_valid(place), pc.is_valid(number))
    ecg, study = (column.filter(both).to_numpy(zero_copy_only=False) for column in (place, number))
    first = np.unique(ecg, return_index=True)[1]  # the nearest comes first
    of_ecg[ecg[first]] = study[first] + start


def _reports(catalogs: Sequence[Catalog], whole: pa.Table, rows: I64) -> tuple[I64, tuple[str, ...]]:
    """For every row the number of its report among the distinct ones, -1 where it is not asked for; and those reports."""
    number, text_id = whole["catalog"].to_numpy(), whole["text_id"].to_pylist()
    words: dict[tuple[int, str], str] = {}
    for k, catalog in enumerate(catalogs):
        wanted = [text_id[i] for i in rows if number[i] == k]
        found = catalog.texts_of(wanted)
        words.update(((k, i), text) for i, text in zip(found["text_id"].to_pylist(), found["text"].to_pylist(), strict=True))
    keys: dict[str, int] = {}
    texts: list[str] = []
    result = np.full(whole.num_rows, -1, np.int64)
    for i in rows:
        text = words[int(number[i]), text_id[i]]
        key = key_of(text)
        if key not in keys:
            keys[key] = len(texts)
            texts.append(text)
        result[i] = keys[key]
    return result, tuple(texts)


def _inputs(
    student: Student,
    signals: SignalTable,
    cohort: Cohort,
    studies: Studies | str,
    *,
    with_features: bool,
    shares: tuple[float, ...],
    seed: int,
    bootstraps: int,
) -> EvalInputs:
    """Everything embedded once."""
    values: dict[str, Any] = {}
    floor = Student.random(student, seed)
    if with_features:
        mean, logvar, values["features"] = student.embed_rows_and_features(signals, cohort.row)
        floor_mean, _, values["floor_features"] = floor.embed_rows_and_features(signals, cohort.row)
    else:
        mean, logvar = student.embed_rows(signals, cohort.row)
        floor_mean, _ = floor.embed_rows(signals, cohort.row)
    given = (mean, logvar, values.get("features"))
    if not all(np.isfinite(each).all() for each in given if each is not None):
        raise UserError(f"{student.path} gives embeddings that are not finite; its training diverged.")
    absent = {
        "text": f"{student.recipe.method_name} was trained without text",
        "supervised": f"{student.recipe.method_name} predicts no labels",
        "uncertainty": f"{student.recipe.method_name} has no variance",
    }
    if isinstance(studies, str):
        absent["echo"] = studies
    else:
        values["studies"] = studies.inputs
    if student.has_text:
        values["embed_texts"] = lambda texts: student.embed_texts(texts)[0]
        if cohort.texts:
            values["text_mean"], values["text_logvar"] = student.embed_texts(cohort.texts)
        else:
            absent["text"] = "the test split has no reports"
    if student.tasks:
        predicted = student.predict_rows(signals, cohort.row)
        values["predictions"] = {name: predicted[:, k] for k, name in enumerate(student.tasks)}
    return EvalInputs(
        mean=mean,
        logvar=logvar,
        subject=cohort.subject,
        split=cohort.split,
        tasks=cohort.tasks,
        labels=cohort.labels,
        classes=cohort.classes,
        text_key=cohort.text_key,
        floor_mean=floor_mean,
        fine_tune=FineTuner(student=student, signals=signals, rows=cohort.row),
        absent=absent,
        shares=shares,
        seed=seed,
        bootstraps=bootstraps,
        **values,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuner:
    """Trains a copy of the student's encoder with a linear head on its mean token; the student stays as it is."""

    student: Student
    signals: SignalTable
    rows: I64

    def __call__(
        self,
        train: I64,
        y_train: I64,
        val: I64,
        y_val: I64,
        judge: I64,
        *,
        steps: int,
        batch_size: int,
        learning_rate: float,
        seed: int,
    ) -> stats.F64:
        """Logits of `judge` at the step with the best AUROC on `val`; weighted so that both classes count the same."""
        device = self.student.device
        encoder = copy.deepcopy(self.student.encoder_module)
        head = nn.Linear(int(encoder.width), 1).to(device)  # type: ignore[arg-type]
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        rates = [learning_rate, learning_rate * HEAD_RATE]
        groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in zip((encoder, head), rates, strict=True)]
        optimizer = torch.optim.AdamW(groups, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.1, cycle_momentum=False)
        positive_weight = torch.tensor(float((y_train == 0).sum() / max((y_train == 1).sum(), 1)), device=device)
        best: tuple[float, Json] = (-1.0, {})
        batches = _batches(len(train), batch_size, steps, seed)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            for step, chosen in enumerate(batches):
                encoder.train()
                logits = self._logits(encoder, head, train[chosen])
                target = torch.from_numpy(y_train[chosen]).to(logits)
                loss = nn.functional.binary_cross_entropy_with_logits(logits, target, pos_weight=positive_weight)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_([*encoder.parameters(), *head.parameters()], 1.0)
                optimizer.step()
                schedule.step()
                if (step + 1) % max(1, steps // CHECKS) == 0 or step + 1 == steps:
                    quality = stats.auroc(y_val, self._judge(encoder, head, val)) or 0.0
                    if quality > best[0]:
                        best = (quality, copy.deepcopy({"encoder": encoder.state_dict(), "head": head.state_dict()}))
        encoder.load_state_dict(best[1]["encoder"])
        head.load_state_dict(best[1]["head"])
        return self._judge(encoder, head, judge)

    def _judge(self, encoder: nn.Module, head: nn.Linear, rows: I64) -> stats.F64:
        encoder.eval()
        with torch.no_grad():
            parts = [self._logits(encoder, head, rows[k : k + JUDGE_BATCH]) for k in range(0, len(rows), JUDGE_BATCH)]
        return torch.cat(parts).double().cpu().numpy()

    def _logits(self, encoder: nn.Module, head: nn.Linear, rows: I64) -> Tensor:
        signal, lead_valid = self.signals.take(self.rows[rows])
        tokens = encoder(self.student.normaliser(signal, lead_valid))
        logits: Tensor = head(tokens.float().mean(1)).squeeze(1)
        return logits


def _batches(num_rows: int, batch_size: int, steps: int, seed: int) -> list[I64]:
    """Rows of each step, passing over all of them in a new order again and again; at least two rows, which a batch norm needs."""
    rng = np.random.default_rng(seed)
    size = max(2, min(batch_size, num_rows))
    order = np.concatenate([rng.permutation(num_rows) for _ in range(-(-steps * size // num_rows))])
    return [order[k * size : (k + 1) * size] for k in range(steps)]


# Where it lies, and whether it may be judged there


def _sources(student: Student, catalog: Path | None, ecg: Path | None) -> tuple[list[Catalog], list[Path]]:
    if (catalog is None) != (ecg is None):
        given, missing = ("--catalog", "--ecg") if ecg is None else ("--ecg", "--catalog")
        raise UsageError(f"{given} is given without {missing}; to judge elsewhere give both.")
    if catalog is not None and ecg is not None:
        return [tables.read(catalog)], [ecg]
    paths, stores = student.source_paths("catalogs"), student.source_paths("ecgs")
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}, the catalog {student.path} was trained on, is not there; name it with --catalog and --ecg.")
    return [tables.read(path) for path in paths], stores


def _refuse_leaks(student: Student, judged: Sequence[Catalog]) -> list[str]:
    """Refuse test subjects that the run was trained on; what could not be checked, or only by rule, is returned to be said."""
    notes = []
    identity = student.run["identity"]
    for entry, path in zip(identity["catalogs"], student.source_paths("catalogs"), strict=True):
        trained = tables.read(path) if path.exists() and catalog_hash(path) == entry["sha256"] else None
        for catalog in judged:
            test = _subjects(catalog, "test")
            if entry["family"] != catalog.family:
                if trained is not None and trained.origin == catalog.origin:
                    raise UserError(
                        f"{catalog.path} and the catalog that {student.path} was trained on both come from the people of "
                        f"{catalog.origin}, under ids that cannot be compared. Judge with a catalog of the same key."
                    )
                notes.append(
                    f"subject ids of {catalog.dataset} (family {catalog.family}) and of {entry['dataset']} (family "
                    f"{entry['family']}) cannot be compared: that no one is in both is taken on trust"
                )
            elif trained is not None:
                _refuse(catalog, sorted(set(test) & set(_subjects(trained, "train"))), student.path)
            else:
                _refuse_by_rule(catalog, test, entry, identity["split_version"], student.path)
                notes.append(
                    f"the catalog the run was trained on is gone or was indexed anew; that no test subject of {catalog.dataset} "
                    f"was trained on follows from split version {pairs.SPLIT_VERSION} alone"
                )
    return list(dict.fromkeys(notes))


def _refuse(catalog: Catalog, people: Sequence[str], run: Path) -> None:
    if people:
        shown = ", ".join(subject_tag(p) for p in people[:5])
        raise UserError(
            f"{len(people)} subjects of the test split of {catalog.path} are in the training split of {run} (by hash: "
            f"{shown}{', ...' if len(people) > 5 else ''}). Index {catalog.path} again so that one rule splits both, or judge on "
            "other people."
        )


def _refuse_by_rule(catalog: Catalog, test: Sequence[str], entry: Json, split_version: int, run: Path) -> None:
    if split_version != pairs.SPLIT_VERSION:
        raise UserError(
            f"{run} was trained with split version {split_version}, this ecgecho splits by version {pairs.SPLIT_VERSION}, and "
            "the catalog it was trained on is gone: its training subjects may be in this test split. Put that catalog back."
        )
    by_rule = pairs.splits_of(catalog.family, test)
    own = [person for person, split in zip(test, by_rule, strict=True) if split != "test"]
    if own:
        raise UserError(
            f"{len(own)} test subjects of {catalog.path} have an official split other than the rule's, and the catalog {run} "
            f"was trained on ({entry['dataset']}) is gone or was indexed anew: it may know them. Put that catalog back."
        )


def _subjects(catalog: Catalog, split: str) -> list[str]:
    found: list[str] = catalog.subjects.filter(pc.equal(catalog.subjects["split"], split))["subject_id"].to_pylist()
    return found


def _place(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def _is_simulated(catalog: Catalog) -> bool:
    return bool(catalog.meta.get("simulated")) or (catalog.root / "simulated.json").is_file()


def _chosen(evals: Sequence[str] | None, settings: Sequence[str]) -> dict[str, Any]:
    """Name -> its configuration."""
    names = list(evals) if evals is not None else sorted(plugins.names("evals"), key=_place)
    result = {}
    for name in names:
        module = plugins.load("evals", name)
        stem = name if name.endswith(".py") else name.replace("-", "_")
        own = [word.removeprefix(f"{stem}.") for word in settings if word.startswith(f"{stem}.")]
        result[stem] = config.override(module.Config(), own)
    for word in settings:
        if word.partition(".")[0] not in result:
            raise UsageError(f"{word!r} sets nothing.{plugins.near_miss(word.partition('.')[0], list(result))}")
    return result


def _asks_for_features(settled: Any) -> bool:
    """Whether a configuration, or one within it, says that it looks at features."""
    within = [getattr(settled, f.name) for f in dataclasses.fields(settled)]
    return getattr(settled, "on", "") == "features" or any(_asks_for_features(c) for c in within if dataclasses.is_dataclass(c))


# What is written


def _about_run(student: Student) -> Json:
    run, weights = student.run, student.path / "model.safetensors"
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "name": student.path.resolve().name,
        "method": student.recipe.method_name,
        "encoder": student.recipe.encoder_name,
        "steps": run["num_steps"],
        "seed": student.recipe.seed,
        "levelled_off": _has_levelled_off(student.path / "metrics.jsonl"),
        "recipe_sha256": config.digest(student.recipe),
        "weights_sha256": digest,
        "echo_stores": run["identity"]["echos"],
    }


def _has_levelled_off(path: Path) -> bool | None:
    """Whether the validation loss fell by less than 2 % of its whole fall from the last fifth but one of the steps to the last.

    Medians, because one pass over a small validation split is noisy; None where too few passes were logged.
    """
    if not path.is_file():
        return None
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    points = [(line["step"], line["loss"]) for line in lines if line["kind"] == "val" and line.get("loss") is not None]
    if not points:
        return None
    step, loss = np.array(points, dtype=np.float64).T
    fifth = np.ceil(5 * step / step[-1])
    if not (fifth == 4).any():
        return None
    fell = float(np.median(loss[fifth == 4]) - np.median(loss[fifth == 5]))
    return fell <= LEVEL_SHARE * float(loss[0] - loss.min())


def _row_json(row: EvalRow) -> Json:
    fields = [f.name for f in dataclasses.fields(EvalRow) if f.name not in ("rows", "scores")]
    return {name: getattr(row, name) for name in fields}


def _code() -> Json:
    folder = Path(ecgecho.__file__).parent
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    return {
        "ecgecho": ecgecho.__version__,
        "commit": done.stdout.strip() if done.returncode == 0 else "",
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _write_predictions(path: Path, rows: Sequence[EvalRow], inputs: EvalInputs, cohort: Cohort, studies: Studies | str) -> None:
    """One row per evaluation, draw, class (-1 where there are none) and ECG; of unit "study", `ecg_id` is a study's."""
    known = {"ecg": (np.array(cohort.ecg_id), inputs.subject)}
    if not isinstance(studies, str):
        known["study"] = (np.array(studies.study_id), studies.inputs.subject)
    numbers = {asked.name: (number, len(asked.tasks)) for asked, number in cohort.classes.items()}
    parts = []
    for row in rows:
        if row.rows is None or row.scores is None or not row.scores.size:
            continue
        lines, n = row.scores.shape
        y, classes = np.full(n, -1), 0
        if row.task in inputs.labels:
            y = inputs.labels[row.task][row.rows]
        elif row.task in numbers:
            y, classes = numbers[row.task][0][row.rows], numbers[row.task][1]
        line = np.arange(lines)
        draw, number = (line // classes, line % classes) if classes else (line, np.full(lines, -1))
        ids, subject = known[row.unit]
        told = {name: pa.array([getattr(row, name)]) for name in ("evaluation", "task", "metric")}
        same = pa.array(np.zeros(lines * n, np.int32))
        parts.append(
            pa.table(
                {
                    **{name: pa.DictionaryArray.from_arrays(same, word).dictionary_decode() for name, word in told.items()},
                    "share": pa.array([row.share] * lines * n, pa.float64()),
                    "draw": np.repeat(draw.astype(np.int16), n),
                    "class": np.repeat(number.astype(np.int8), n),
                    "unit": pa.array([row.unit] * lines * n),
                    "ecg_id": np.tile(ids[row.rows], lines),
                    "subject": np.tile(subject[row.rows], lines),
                    "y": np.tile(y.astype(np.int8), lines),
                    "score": row.scores.ravel(),
                }
            )
        )
    if parts:
        partial = path.with_name(path.name + ".partial")
        pq.write_table(pa.concat_tables(parts), partial)
        partial.replace(path)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
