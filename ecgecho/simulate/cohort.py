"""The cohort on disk: folders, names, columns and quirks of MIMIC-IV-ECG 1.0 and MIMIC-IV-ECHO 1.0, contents simulated.

A subject is a pure function of (seed, its number), so any number of workers writes the same bytes, and a rerun writes only the
files that are missing. Tables come last.

Source of columns and quirks: the dataset cards of MIMIC-IV-ECG, MIMIC-IV-ECHO and MIMIC-IV (hosp).
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ecgecho.simulate import text, write
from ecgecho.simulate.ecg import DURATION_S, FS_HZ, LEADS, Beats, Electro, draw_beats, draw_electro, record
from ecgecho.simulate.echo import VIEWS, draw, shoot
from ecgecho.simulate.heart import Heart, draw_heart, stream
from ecgecho.types import Json, UsageError, UserError

USER_SEEDS = 1_000_000
"""Seeds below are the users'; what ships with the package is trained on seeds from here on."""
VERSION = 1
"""Raised whenever the same seed would give other bytes."""

_DAT_BYTES = 2 * len(LEADS) * DURATION_S * FS_HZ
_SUBJECTS_PER_WORKER = 24  # fewer are done before a second process has started

RECORD_LIST = ("subject_id", "study_id", "file_name", "ecg_time", "path")
MACHINE = (
    ("subject_id", "study_id", "cart_id", "ecg_time")
    + tuple(f"report_{i}" for i in range(18))
    + (
        "bandwidth",
        "filtering",
        "rr_interval",
        "p_onset",
        "p_end",
        "qrs_onset",
        "qrs_end",
        "t_end",
        "p_axis",
        "qrs_axis",
        "t_axis",
    )
)
ECHO_RECORDS = ("subject_id", "study_id", "acquisition_datetime", "dicom_filepath")
ECHO_STUDIES = (
    "subject_id", "study_id", "study_datetime", "note_id", "note_seq", "note_charttime", "measurement_id", "measurement_datetime",
)  # fmt: skip
MEASUREMENTS = (
    "subject_id", "measurement_id", "measurement_datetime", "test_type", "measurement", "measurement_description",
    "result", "unit",
)  # fmt: skip
PATIENTS = ("subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod")

Row = list[object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that decides the bytes of a cohort."""

    subjects: int
    seed: int
    echo_share: float
    enrich: bool
    frames: int
    size: tuple[int, int]
    ecgs_per_subject: int
    version: int = VERSION


@dataclass(slots=True)
class Rows:
    """What one subject adds to the tables."""

    ecgs: list[Row] = field(default_factory=list)
    machine: list[Row] = field(default_factory=list)
    clips: list[Row] = field(default_factory=list)
    studies: list[Row] = field(default_factory=list)
    measurements: list[Row] = field(default_factory=list)
    patient: Row = field(default_factory=list)
    truth: list[dict[str, object]] = field(default_factory=list)
    files_written: int = 0
    counts: Counter[str] = field(default_factory=Counter)


def simulate(
    out: Path,
    *,
    subjects: int,
    seed: int,
    echo_share: float = 0.25,
    workers: int = 0,
    enrich: bool = False,
    frames: int = 24,
    size: tuple[int, int] = (300, 400),
    ecgs_per_subject: int = 3,
    progress: Callable[[int, int], object] | None = None,
    shipped_training: bool = False,
) -> dict[str, int]:
    """Write a cohort to `out` and return its counts; the same call again completes it, or finds it complete.

    Every subject has 1 to `ecgs_per_subject` ECGs with a report and one visit with structured measurements; a share
    `echo_share`, at least two subjects, has two cines (apical four-chamber and parasternal long axis) of that visit.
    `enrich` raises LVEF < 40 % and walls of 16 mm or more, each, from about 7 % and 4 % of subjects to about 15 %; the
    counts `lvef_lt_40` and `wall_ge_16` tell what was drawn. `workers` = 0 takes as many as there are cores.
    """
    plan = Plan(
        subjects=subjects,
        seed=seed,
        echo_share=float(echo_share),
        enrich=enrich,
        frames=frames,
        size=(int(size[0]), int(size[1])),
        ecgs_per_subject=ecgs_per_subject,
    )
    _check(plan, shipped_training=shipped_training)
    _claim(out, plan)
    tasks = [(out, plan, index) for index in range(plan.subjects)]
    rows = []
    for row in _run(tasks, workers):
        rows.append(row)
        if progress is not None:
            progress(len(rows), len(tasks))
    _write_tables(out, rows)
    counts: Counter[str] = Counter(
        subjects=len(rows),
        ecgs=sum(len(r.ecgs) for r in rows),
        studies=sum(len(r.studies) for r in rows),
        clips=sum(len(r.clips) for r in rows),
        files_written=sum(r.files_written for r in rows),
    )
    for r in rows:
        counts.update(r.counts)
    return dict(counts)


def _check(plan: Plan, *, shipped_training: bool) -> None:
    if plan.seed < 0 or (plan.seed >= USER_SEEDS) != shipped_training:
        raise UsageError(
            f"seed {plan.seed} cannot be used: seeds from 0 to {USER_SEEDS - 1:,} are for cohorts, seeds from {USER_SEEDS:,} on "
            "for what ships with the package, so that nothing is judged on what it was trained on. Choose another --seed."
        )
    if not 2 <= plan.subjects <= 1_000_000:
        raise UsageError(f"--subjects is {plan.subjects}; choose from 2 to 1,000,000.")
    if not 0 <= plan.echo_share <= 1:
        raise UsageError(f"--echo-share is {plan.echo_share}; it is a fraction, from 0 to 1.")
    if not 2 <= plan.frames <= 200 or not all(64 <= side <= 2048 for side in plan.size):
        raise UsageError(
            f"{plan.frames} frames of {plan.size[0]} x {plan.size[1]} cannot be drawn; "
            "choose 2 to 200 frames with sides from 64 to 2048."
        )
    if not 1 <= plan.ecgs_per_subject <= 9:
        raise UsageError(f"ecgs_per_subject is {plan.ecgs_per_subject}; choose from 1 to 9.")


def _claim(out: Path, plan: Plan) -> None:
    """Refuse a folder that holds another cohort; else leave the plan in it."""
    path = out / "simulated.json"
    wanted: Json = json.loads(json.dumps({"what": "simulated cohort: no real person is in it", **asdict(plan)}))
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        other = [f"{key} {found.get(key)!r} there, {value!r} asked" for key, value in wanted.items() if found.get(key) != value]
        if other:
            raise UserError(
                f"{out} holds another simulated cohort ({'; '.join(other)}). Choose another folder, or ask for that one."
            )
    elif out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty and holds no simulated cohort. Choose a new folder.")
    else:
        write.atomic(path, (json.dumps(wanted, indent=1) + "\n").encode())


def _run(tasks: list[tuple[Path, Plan, int]], workers: int) -> Iterator[Rows]:
    workers = min(workers or len(os.sched_getaffinity(0)), max(len(tasks) // _SUBJECTS_PER_WORKER, 1))
    if workers <= 1:
        yield from map(_subject, tasks)
        return
    # Not multiprocessing.Pool: it starts a worker that died (out of memory, no room) anew for ever, and the job hangs.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        yield from pool.map(_subject, tasks, chunksize=4)


def _subject(task: tuple[Path, Plan, int]) -> Rows:
    """One subject: its missing files, and its rows."""
    out, plan, index = task
    rng = stream(plan.seed, index, "measurement")
    year = 2110 + int(rng.integers(0, 90))
    who = _Subject(
        out=out,
        plan=plan,
        index=index,
        heart=draw_heart(stream(plan.seed, index, "heart"), enrich=plan.enrich),
        visit=datetime(year, 1, 1) + timedelta(minutes=int(rng.integers(0, 525_000))),
        start=_start(plan),
    )
    rows = Rows(patient=[who.subject_id, who.heart.sex, who.heart.age, year, "2017 - 2019", ""])
    rows.counts.update(lvef_lt_40=int(who.heart.lvef < 40), wall_ge_16=int(who.heart.wall_mm >= 16))
    rows.truth.append(who.truth("subject"))
    _measurements(rows, who, rng)
    _ecgs(rows, who)
    if index in _with_echo(plan):
        _clips(rows, who)
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """One subject and its fake identifiers, in the ranges the real tables use."""

    out: Path
    plan: Plan
    index: int
    heart: Heart
    visit: datetime
    start: int

    @property
    def subject_id(self) -> int:
        return 10_000_000 + self.start + 7 * self.index

    @property
    def study_id(self) -> int:
        return 90_000_000 + self.start + self.index

    @property
    def measurement_id(self) -> int:
        return 50_000_000 + self.start + self.index

    def ecg_id(self, item: int) -> int:
        return 40_000_000 + self.start % 900_000 + 9 * self.index + item

    def truth(self, kind: str) -> dict[str, object]:
        heart = self.heart
        return {
            "kind": kind,
            "subject_id": str(self.subject_id),
            "lvef": heart.lvef,
            "edv_ml": heart.edv_ml,
            "esv_ml": round(heart.esv_ml, 2),
            "wall_mm": heart.wall_mm,
            "hr_bpm": heart.hr_bpm,
            "rhythm": heart.rhythm,
            "conduction": heart.conduction,
            "infarct": heart.infarct,
        }


@lru_cache(maxsize=4)
def _start(plan: Plan) -> int:
    """Where this seed's identifiers start."""
    return int(stream(plan.seed, 0, "heart", 255).integers(0, 9_000_000 - 7 * plan.subjects))


@lru_cache(maxsize=4)
def _with_echo(plan: Plan) -> frozenset[int]:
    """The subjects that have cines."""
    if plan.echo_share == 0:
        return frozenset()
    number = min(max(round(plan.echo_share * plan.subjects), 2), plan.subjects)
    order = stream(plan.seed, 0, "echo", 255).permutation(plan.subjects)
    return frozenset(order[:number].tolist())


def _ecgs(rows: Rows, who: _Subject) -> None:
    plan, heart = who.plan, who.heart
    rng = stream(plan.seed, who.index, "text")
    electro = draw_electro(heart, rng)
    most = plan.ecgs_per_subject
    number = most if most == 1 or rng.random() < 0.8 else int(rng.integers(1, most))
    for item in range(number):
        time = who.visit + timedelta(seconds=round(86_400 * float(rng.normal(0, 0.4 if item == 0 else 8.0))))
        ecg_id = who.ecg_id(item)
        relative = f"files/p{str(who.subject_id)[:4]}/p{who.subject_id}/s{ecg_id}"
        folder = who.out / "mimic-iv-ecg" / relative
        signal_rng = stream(plan.seed, who.index, "ecg", item)
        beats = draw_beats(heart, signal_rng)
        if not (_complete(folder / f"{ecg_id}.dat", size=_DAT_BYTES) and _complete(folder / f"{ecg_id}.hea")):
            write.ecg(folder, str(ecg_id), record(heart, electro, beats, signal_rng), subject_id=who.subject_id, time=time)
            rows.files_written += 1
        rows.ecgs.append([who.subject_id, ecg_id, ecg_id, f"{time:%Y-%m-%d %H:%M:%S}", f"{relative}/{ecg_id}"])
        lines = text.machine_lines(heart, electro, beats.hr_bpm, rng)
        if len(lines) > 1 and rng.random() < 0.06:
            lines = [lines[1], lines[0], *lines[2:]]  # the first line is not always the rhythm
        rows.machine.append(
            [
                who.subject_id,
                ecg_id,
                6_800_000 + int(rng.integers(0, 400)),
                f"{time:%Y-%m-%d %H:%M:%S}",
                *lines,
                *[""] * (18 - len(lines)),
                "0.005-150 Hz",
                "60 Hz notch Baseline filter",
                *_intervals(heart, electro, beats, rng),
            ]
        )
        rows.truth.append(
            who.truth("ecg")
            | {
                "ecg_id": str(ecg_id),
                "path": f"mimic-iv-ecg/{relative}/{ecg_id}",
                "hr_bpm": round(beats.hr_bpm, 1),
                "r_times_s": beats.inside_s.round(4).tolist(),
            }
        )


def _intervals(heart: Heart, electro: Electro, beats: Beats, rng: np.random.Generator) -> Row:
    """rr_interval to t_axis of machine_measurements.csv, sentinels where nothing was measured."""
    onset = 40 + round(electro.pr_ms)
    rr_ms = round(60_000 / beats.hr_bpm)
    p_known = electro.pr_ms > 0 and rng.random() > 0.02
    t_axis = round(electro.axis_deg - electro.t_turn_deg * 0.5)
    return [
        65535 if rng.random() < 0.01 else rr_ms,
        40 if p_known else 29999,
        150 if p_known else 29999,
        onset,
        onset + round(electro.qrs_ms),
        onset + round(electro.qtc_ms * (rr_ms / 1000) ** 0.5) if rng.random() > 0.01 else 29999,
        round(50 + 15 * rng.normal()) if p_known else 32767,
        round(electro.axis_deg),
        t_axis if heart.rhythm != "af" or rng.random() > 0.05 else -32768,
    ]


def _measurements(rows: Rows, who: _Subject, rng: np.random.Generator) -> None:
    """Rows of one visit. Walls come in cm or mm by visit (`unit` says so, but for the few where it is blank)."""
    heart = who.heart
    lvef, biplane = (round(heart.lvef + float(np.clip(0.5 * rng.normal(), -1, 1))) for _ in range(2))
    named = rng.random()
    found = []
    if named > 0.05:
        found.append(("lvef", "Left ventricular ejection fraction", f"{lvef}%" if rng.random() < 0.02 else str(lvef), "%"))
    if named <= 0.05 or named > 0.7:
        found.append(("biplane_lvef", "Left ventricular ejection fraction, biplane", str(biplane), "%"))
    unit = "mm" if rng.random() < 0.3 else "cm"
    shown = unit if rng.random() > 0.03 else ""
    for name, title, value in (
        ("septal_thickness", "Septal wall thickness", heart.septal_mm),
        ("inf_lat_thickness", "Inferolateral wall thickness", heart.posterior_mm),
    ):
        if rng.random() > 0.03:
            found.append((name, title, str(round(value)) if unit == "mm" else f"{round(value) / 10:.1f}", shown))
    diameter = 4.75 * (heart.edv_ml / 120) ** (1 / 3) + 0.15 * rng.normal()
    found.append(("lvedd", "Left ventricular end-diastolic dimension", f"{diameter:.1f}", "cm"))
    found.append(("resting_hr", "Resting heart rate", str(round(heart.hr_bpm)), "bpm"))
    rows.measurements += [[who.subject_id, who.measurement_id, f"{who.visit:%Y-%m-%d %H:%M:%S}", "tte", *row] for row in found]


def _clips(rows: Rows, who: _Subject) -> None:
    plan, visit = who.plan, f"{who.visit:%Y-%m-%d %H:%M:%S}"
    relative = f"files/p{str(who.subject_id)[:2]}/p{who.subject_id}/s{who.study_id}"
    rows.studies.append([who.subject_id, who.study_id, visit, "", "", "", who.measurement_id, visit])
    for item, view in enumerate(VIEWS, start=1):
        clip_id = f"{who.study_id}_{item:04d}"
        time = who.visit + timedelta(seconds=75 * item)
        path = who.out / "mimic-iv-echo" / relative / f"{clip_id}.dcm"
        rng = stream(plan.seed, who.index, "echo", item)
        shot = shoot(who.heart, view, rng, frames=plan.frames, size=plan.size)
        if not _complete(path):
            cine = draw(who.heart, shot, rng)
            write.dicom(path, cine, subject_id=who.subject_id, study_id=who.study_id, instance=item, time=time)
            rows.files_written += 1
        rows.clips.append([who.subject_id, who.study_id, f"{time:%Y-%m-%d %H:%M:%S}", f"{relative}/{clip_id}.dcm"])
        rows.truth.append(
            who.truth("clip")
            | {
                "clip_id": clip_id,
                "study_id": str(who.study_id),
                "view": view,
                "path": f"mimic-iv-echo/{relative}/{clip_id}.dcm",
                "hr_bpm": round(shot.hr_bpm, 1),
                "frame_time_ms": shot.frame_time_ms,
                "r_times_s": shot.inside_s.round(4).tolist(),
                "volume_ml": shot.volume_ml.round(2).tolist(),
                "sector_polygon": shot.geometry.polygon().round(2).ravel().tolist(),
            }
        )


def _complete(path: Path, *, size: int | None = None) -> bool:
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return False
    return found == size if size is not None else found > 0


def _write_tables(out: Path, rows: list[Rows]) -> None:
    def flat(parts: Iterable[list[Any]]) -> list[Any]:
        return [row for part in parts for row in part]

    write.table(out / "mimic-iv-ecg" / "record_list.csv", RECORD_LIST, flat(r.ecgs for r in rows))
    write.table(out / "mimic-iv-ecg" / "machine_measurements.csv", MACHINE, flat(r.machine for r in rows))
    write.table(out / "mimic-iv-echo" / "echo-record-list.csv", ECHO_RECORDS, flat(r.clips for r in rows))
    write.table(out / "mimic-iv-echo" / "echo-study-list.csv", ECHO_STUDIES, flat(r.studies for r in rows))
    write.table(out / "mimic-iv-echo" / "structured-measurement.csv.gz", MEASUREMENTS, flat(r.measurements for r in rows))
    write.table(out / "hosp" / "patients.csv.gz", PATIENTS, [r.patient for r in rows])
    write.truth(out / "truth.parquet", flat(r.truth for r in rows))
