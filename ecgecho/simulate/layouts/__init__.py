"""Layouts: a dataset's folders, names, columns and quirks. A layout is a file here, found by its name.

A module of a layout has `NAME`; `READ_BY`, the command that reads it, with {root}, {beside} and {ecg} for its folders, or "";
`TABLES_ALONE`, whether that command takes tables without waveforms;
`TABLES`, what it streams while subjects come in order; `subject(job, person) -> Rows`, which writes the missing files of one
person and gives its rows; and `finish(job) -> int`, which writes what needs the whole cohort and gives the number of files that
were missing.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from ecgecho.simulate.ecg import DURATION_S, Beats, Body, Electro, record
from ecgecho.simulate.heart import Heart, stream
from ecgecho.simulate.noise import Artefact, draw_artefacts
from ecgecho.simulate.person import Ecg, Person, draw_person
from ecgecho.types import F32, UsageError

Row = list[object]
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that decides the bytes of a cohort."""

    subjects: int
    seed: int
    echo_share: float
    enrich: bool
    frames: int
    """Of a cine; 0: as many as machines record."""
    size: tuple[int, int]
    """Rows, columns."""
    views: tuple[str, ...]
    ecgs_per_subject: int
    years: float
    difficulty: float
    layout: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A plan, where it is carried out, and whether waveforms and pictures are written."""

    out: Path
    plan: Plan
    tables_only: bool

    def person(self, index: int) -> Person:
        plan = self.plan
        return draw_person(
            seed=plan.seed,
            index=index,
            start=_start(plan),
            enrich=plan.enrich,
            years=plan.years,
            ecgs_per_subject=plan.ecgs_per_subject,
            cines=index in with_echo(plan),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A text table that grows while subjects come in order; `.gz` in its path compresses it."""

    path: str
    columns: tuple[str, ...]
    """Its first line; none for a plain list."""
    delimiter: str = ","
    encoding: str = "utf-8"
    line_end: str = "\n"


@dataclass(slots=True)
class Rows:
    """What one person adds to the tables, by their names in `TABLES`, and to the truth."""

    tables: dict[str, list[Row]] = field(default_factory=dict)
    truth: list[dict[str, object]] = field(default_factory=list)
    files_written: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, table: str, *rows: Row) -> None:
        self.tables.setdefault(table, []).extend(rows)


class Layout(Protocol):
    """What a module of this package has."""

    NAME: str
    READ_BY: str
    TABLES_ALONE: bool
    TABLES: dict[str, Table]

    def subject(self, job: Job, person: Person) -> Rows:
        """Write the missing files of one person and give its rows."""

    def finish(self, job: Job) -> int:
        """Write what needs the whole cohort; the number of files that were missing."""


def load(name: str) -> Layout:
    """The layout of a name; dots, hyphens, underscores and case are one."""
    stems = {stem.replace("_", ""): stem for stem in sorted(path.stem for path in _HERE.glob("*.py")) if not stem.startswith("_")}
    key = _key(name)
    if key not in stems:
        known = names()
        close = difflib.get_close_matches(key, [_key(other) for other in known], n=1, cutoff=0.5)
        hint = next((f" Did you mean {other!r}?" for other in known if close and _key(other) == close[0]), "")
        raise UsageError(f"there is no layout {name!r}.{hint} There is: {', '.join(known)}.")
    module: Layout = importlib.import_module(f"{__name__}.{stems[key]}")
    return module


def names() -> list[str]:
    """The layouts there are."""
    return sorted(importlib.import_module(f"{__name__}.{path.stem}").NAME for path in _HERE.glob("*.py") if path.stem[0] != "_")


def _key(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


@lru_cache(maxsize=4)
def _start(plan: Plan) -> int:
    """Where this seed's identifiers start."""
    return int(stream(plan.seed, 0, "heart", 255).integers(0, 9_000_000 - 7 * plan.subjects))


@lru_cache(maxsize=4)
def with_echo(plan: Plan) -> frozenset[int]:
    """The subjects that have cines."""
    if plan.echo_share == 0:
        return frozenset()
    number = min(max(round(plan.echo_share * plan.subjects), 2), plan.subjects)
    order = stream(plan.seed, 0, "echo", 255).permutation(plan.subjects)
    return frozenset(order[:number].tolist())


def state(person: Person, heart: Heart, kind: str, days: float) -> dict[str, object]:
    """What a row of truth.parquet says of a heart on one day."""
    return {
        "kind": kind,
        "subject_id": str(person.subject_id),
        "days": round(days, 4),
        "age": heart.age,
        "sex": heart.sex,
        "lvef": heart.lvef,
        "edv_ml": heart.edv_ml,
        "esv_ml": round(heart.esv_ml, 2),
        "wall_mm": heart.wall_mm,
        "mass_g": round(heart.mass_g, 1),
        "bsa_m2": round(heart.bsa_m2, 3),
        "la_ml": heart.la_ml,
        "rv_mm": heart.rv_mm,
        "rvsp_mmhg": heart.rvsp_mmhg,
        "hr_bpm": heart.hr_bpm,
        "rhythm": heart.rhythm,
        "ectopy": heart.ectopy,
        "conduction": heart.conduction,
        "infarct": heart.infarct,
        "infarct_size": heart.infarct_size,
        "aortic_stenosis": heart.aortic_stenosis,
        "aortic_regurgitation": heart.aortic_regurgitation,
        "mitral_regurgitation": heart.mitral_regurgitation,
        "tricuspid_regurgitation": heart.tricuspid_regurgitation,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One ECG before it is recorded: all that tables need."""

    person: Person
    ecg: Ecg
    heart: Heart
    """On its day."""
    electro: Electro
    beats: Beats
    artefacts: tuple[Artefact, ...]

    def signal_mv(self) -> F32:
        """(12, L) in the simulator's order of leads, NaN where samples are not there."""
        found = record(self.heart, self.electro, self.beats, self.person.noise(self.ecg))
        assert set(self.artefacts) <= set(found.artefacts)
        signal = found.signal_mv
        for artefact in self.artefacts:
            if artefact.kind == "invalid":
                samples = slice(round(artefact.start_s * found.fs_hz), round(artefact.stop_s * found.fs_hz))
                signal[found.leads.index(artefact.lead), samples] = np.nan
        return signal

    def truth(self, ecg_id: int | str, path: str) -> dict[str, object]:
        """The row of truth.parquet."""
        return state(self.person, self.heart, "ecg", self.ecg.days) | {
            "ecg_id": str(ecg_id),
            "path": path,
            "hr_bpm": round(self.beats.hr_bpm, 1),
            "r_times_s": np.round(self.beats.inside_s, 4).tolist(),
            "artefacts_s": [dataclasses.asdict(artefact) for artefact in self.artefacts],
        }


def observe(
    job: Job, person: Person, ecg: Ecg, body: Body, *, duration_s: float = DURATION_S, frank: bool = False, gaps: bool = True
) -> Observed:
    """An ECG of a person: the heart of that day, how it conducts, its beats and what will disturb them.

    Without `gaps` no sample is missing.
    """
    heart = person.heart_on(ecg.days)
    artefacts = draw_artefacts(person.noise(ecg), duration_s=duration_s, frank=frank)
    return Observed(
        person=person,
        ecg=ecg,
        heart=heart,
        electro=person.electro(ecg, heart, body, difficulty=job.plan.difficulty),
        beats=person.beats(ecg, heart, duration_s=duration_s),
        artefacts=tuple(artefact for artefact in artefacts if gaps or artefact.kind != "invalid"),
    )
