"""mimic-iv: MIMIC-IV-ECG 1.0, MIMIC-IV-ECHO 1.0, Note 2.2 and hosp tables of one subject-id space.

Names, columns and quirks: the datasets' documentation and public code that read them. Reports of echoes are not released in
MIMIC; ours lie beside the modules, in echo-reports.csv.gz.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import cast

import numpy as np

from ecgecho.simulate import icd, measurements, modes, notes, text, write
from ecgecho.simulate.ecg import DURATION_S, FS_HZ, LEADS, axes_deg
from ecgecho.simulate.echo import VIEWS, View, draw, shoot
from ecgecho.simulate.heart import Heart, stream
from ecgecho.simulate.layouts import Job, Observed, Row, Rows, Table, observe, state
from ecgecho.simulate.measurements import Reading
from ecgecho.simulate.person import Admission, Person, Visit

NAME = "mimic-iv"
READ_BY = "ecgecho index mimic-iv {root} --out {beside}"
TABLES_ALONE = True

MACHINE = (
    "subject_id", "study_id", "cart_id", "ecg_time", *(f"report_{i}" for i in range(18)), "bandwidth", "filtering",
    "rr_interval", "p_onset", "p_end", "qrs_onset", "qrs_end", "t_end", "p_axis", "qrs_axis", "t_axis",
)  # fmt: skip
ECHO_STUDIES = ("subject_id", "study_id", "study_datetime", "note_id", "note_seq", "note_charttime")

TABLES = {
    "ecgs": Table(path="mimic-iv-ecg/record_list.csv", columns=("subject_id", "study_id", "file_name", "ecg_time", "path")),
    "machine": Table(path="mimic-iv-ecg/machine_measurements.csv", columns=MACHINE),
    "links": Table(
        path="mimic-iv-ecg/waveform_note_links.csv",
        columns=("subject_id", "study_id", "waveform_path", "note_id", "note_seq", "charttime"),
    ),
    "clips": Table(
        path="mimic-iv-echo/echo-record-list.csv",
        columns=("subject_id", "study_id", "acquisition_datetime", "dicom_filepath"),
    ),
    "studies": Table(
        path="mimic-iv-echo/echo-study-list.csv", columns=(*ECHO_STUDIES, "measurement_id", "measurement_datetime")
    ),
    "measurements": Table(
        path="mimic-iv-echo/structured-measurement.csv.gz",
        columns=(
            "subject_id", "measurement_id", "measurement_datetime", "test_type", "measurement", "measurement_description",
            "result", "unit",
        ),
    ),
    "patients": Table(
        path="hosp/patients.csv.gz",
        columns=("subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"),
    ),
    "admissions": Table(
        path="hosp/admissions.csv.gz",
        columns=(
            "subject_id", "hadm_id", "admittime", "dischtime", "deathtime", "admission_type", "admit_provider_id",
            "admission_location", "discharge_location", "insurance", "language", "marital_status", "race", "edregtime",
            "edouttime", "hospital_expire_flag",
        ),
    ),
    "diagnoses": Table(
        path="hosp/diagnoses_icd.csv.gz", columns=("subject_id", "hadm_id", "seq_num", "icd_code", "icd_version")
    ),
    "discharge": Table(
        path="note/discharge.csv.gz",
        columns=("note_id", "subject_id", "hadm_id", "note_type", "note_seq", "charttime", "storetime", "text"),
    ),
    "reports": Table(
        path="echo-reports.csv.gz", columns=("subject_id", "study_id", "measurement_id", "charttime", "text")
    ),
}  # fmt: skip

DICTIONARY = "mimic-iv-ecg/machine_measurements_data_dictionary.csv"
ICD_NAMES = "hosp/d_icd_diagnoses.csv.gz"
DAT_BYTES = 2 * len(LEADS) * DURATION_S * FS_HZ
NOTE_SHARE = 0.93
MODAL_SHARE = 0.25
"""Of studies, for each kind of file that is no cine."""
_YEAR_GROUPS = (2008, 2011, 2014, 2017, 2020)
_RACES = ("WHITE", "BLACK/AFRICAN AMERICAN", "HISPANIC/LATINO - PUERTO RICAN", "ASIAN", "UNKNOWN")


def subject(job: Job, person: Person) -> Rows:
    """All of one person."""
    rows = Rows()
    heart = person.heart
    rows.counts.update(lvef_lt_40=int(heart.lvef < 40), wall_ge_16=int(heart.wall_mm >= 16))
    rows.truth.append(state(person, heart, "subject", 0.0))
    _patient(rows, person)
    _ecgs(rows, job, person)
    readings = {visit.item: _visit(rows, job, person, visit) for visit in person.visits}
    for stay in person.admissions:
        _stay(rows, person, stay, readings)
    return rows


def finish(job: Job) -> int:
    """The two dictionaries."""
    static: dict[str, tuple[tuple[str, ...], Iterable[Row]]] = {
        DICTIONARY: (("Variable", "Description"), [[name, _describe(name)] for name in MACHINE]),
        ICD_NAMES: (
            ("icd_code", "icd_version", "long_title"),
            [[code, version, title] for (code, version), title in sorted(icd.TITLES.items())],
        ),
    }
    missing = [path for path in static if not write.complete(job.out / path)]
    for path in missing:
        write.table(job.out / path, *static[path])
    return len(missing)


def _describe(name: str) -> str:
    if name.startswith("report_"):
        return "Line of the machine's report"
    return f"{name.replace('_', ' ')}{' in ms' if name.endswith(('onset', 'end', 'interval')) else ''}"


def _patient(rows: Rows, person: Person) -> None:
    group = max(year for year in _YEAR_GROUPS if year <= person.year_0)
    age = person.heart.age
    rows.add(
        "patients",
        [person.subject_id, person.heart.sex, 91 if age > 89 else age, person.day_0.year, f"{group} - {group + 2}", ""],
    )


def _ecgs(rows: Rows, job: Job, person: Person) -> None:
    rng = stream(person.seed, person.index, "text")
    body = person.body()
    for ecg in person.ecgs:
        seen = observe(job, person, ecg, body)
        relative = f"files/p{str(person.subject_id)[:4]}/p{person.subject_id}/s{ecg.ecg_id}"
        folder, name = job.out / "mimic-iv-ecg" / relative, str(ecg.ecg_id)
        if not job.tables_only and not (
            write.complete(folder / f"{name}.dat", size=DAT_BYTES) and write.complete(folder / f"{name}.hea")
        ):
            write.ecg(folder, name, seen.signal_mv(), subject_id=person.subject_id, time=ecg.time)
            rows.files_written += 1
        time = f"{ecg.time:%Y-%m-%d %H:%M:%S}"
        path = f"{relative}/{name}"
        rows.add("ecgs", [person.subject_id, ecg.ecg_id, ecg.ecg_id, time, path])
        rows.counts["ecgs"] += 1
        axes = axes_deg(seen.heart, seen.electro)
        lines = text.machine_lines(seen.heart, seen.electro, seen.beats, axes[1], rng)
        if len(lines) > 1 and rng.random() < 0.06:
            lines = [lines[1], lines[0], *lines[2:]]  # the first line is not always the rhythm
        rows.add(
            "machine",
            [
                person.subject_id, ecg.ecg_id, 6_800_000 + int(rng.integers(0, 400)), time, *lines, *[""] * (18 - len(lines)),
                "0.005-150 Hz", "60 Hz notch Baseline filter", *_intervals(seen, axes, rng),
            ],
        )  # fmt: skip
        if rng.random() < 0.6:
            seq = ecg.item + 1
            later = ecg.time + timedelta(minutes=int(rng.integers(5, 2000)))
            note_id = f"{person.subject_id}-EK-{seq}"
            rows.add("links", [person.subject_id, ecg.ecg_id, path, note_id, seq, f"{later:%Y-%m-%d %H:%M:%S}"])
        rows.truth.append(seen.truth(ecg.ecg_id, f"mimic-iv-ecg/{path}"))


def _intervals(seen: Observed, axes: tuple[float, float, float], rng: np.random.Generator) -> Row:
    """rr_interval to t_axis of machine_measurements.csv, sentinels where nothing was measured."""
    electro = seen.electro
    rr_ms = round(60_000 / seen.beats.hr_bpm)
    chance = rng.random(4)
    p_known = electro.pr_ms > 0 and chance[0] > 0.02
    onset = 40 + round(electro.pr_ms)
    return [
        65535 if chance[1] < 0.01 else rr_ms,
        40 if p_known else 29999,
        40 + round(electro.p_ms) if p_known else 29999,
        onset,
        onset + round(electro.qrs_ms),
        onset + round(electro.qtc_ms * (rr_ms / 1000) ** 0.5) if chance[2] > 0.01 else 29999,
        round(axes[0]) if p_known else 32767,
        round(axes[1]),
        round(axes[2]) if seen.heart.rhythm != "af" or chance[3] > 0.05 else -32768,
    ]


def _visit(rows: Rows, job: Job, person: Person, visit: Visit) -> Reading:
    """One echo visit: its measurements, its report and, where it has any, its pictures."""
    rng = stream(person.seed, person.index, "measurement", visit.item)
    heart = person.heart_on(visit.days)
    reading = measurements.read(heart, rng)
    reported = f"{visit.time + timedelta(minutes=int(rng.integers(20, 1200))):%Y-%m-%d %H:%M:%S}"
    rows.add(
        "measurements",
        *(
            [person.subject_id, visit.measurement_id, reported, visit.test_type, *row]
            for row in measurements.rows(heart, reading, visit.test_type, visit.year, rng)
        ),
    )
    rows.add(
        "reports",
        [
            person.subject_id, visit.study_id if visit.cines else "", visit.measurement_id, reported,
            text.full_report(heart, reading, rng),
        ],
    )  # fmt: skip
    if visit.cines:
        time = f"{visit.time:%Y-%m-%d %H:%M:%S}"
        rows.add("studies", [person.subject_id, visit.study_id, time, "", "", "", visit.measurement_id, reported])
        rows.counts["studies"] += 1
        _clips(rows, job, person, visit, heart)
    return reading


def _clips(rows: Rows, job: Job, person: Person, visit: Visit, heart: Heart) -> None:
    """The files of one study: a cine of each view, and what else was recorded, in an order of this study."""
    order = stream(person.seed, person.index, "echo", 256 * visit.item + 255)
    others = [kind for kind in modes.KINDS if order.random() < MODAL_SHARE]
    views: list[View] = [view for view in VIEWS if view in job.plan.views]
    contents: list[View | modes.Kind] = [views[int(i)] for i in order.permutation(len(views))]
    for kind in others:
        contents.insert(int(order.integers(len(contents) + 1)), kind)
    for instance, content in enumerate(contents, start=1):
        time = visit.time + timedelta(seconds=75 * instance)
        relative = f"files/p{str(person.subject_id)[:2]}/p{person.subject_id}/s{visit.study_id}"
        name = f"{visit.study_id}_{instance:04d}"
        path = job.out / "mimic-iv-echo" / relative / f"{name}.dcm"
        tags: write.Tags = {"subject_id": person.subject_id, "study_id": visit.study_id, "instance": instance, "time": time}
        write_it = not job.tables_only and not write.complete(path)
        rows.files_written += write_it
        rows.counts["clips"] += 1
        rows.add("clips", [person.subject_id, visit.study_id, f"{time:%Y-%m-%d %H:%M:%S}", f"{relative}/{name}.dcm"])
        found = state(person, heart, "clip", visit.days) | {
            "clip_id": name,
            "study_id": str(visit.study_id),
            "path": f"mimic-iv-echo/{relative}/{name}.dcm",
        }
        if content in modes.KINDS:
            kind = content
            item = 256 * visit.item + 128 + modes.KINDS.index(kind)
            found |= {"content": kind} | _picture(path if write_it else None, heart, kind, item, person, job, tags)
        else:
            found |= _cine(path if write_it else None, heart, cast("View", content), visit, person, job, tags)
        rows.truth.append(found)


def _cine(
    path: Path | None, heart: Heart, view: View, visit: Visit, person: Person, job: Job, tags: write.Tags
) -> dict[str, object]:
    """Writes a cine where `path` says, and gives what the truth says of it."""
    rng = stream(person.seed, person.index, "echo", 256 * visit.item + VIEWS.index(view))
    quirks = [name for name, share in write.QUIRKS.items() if rng.random() < share]
    shot = shoot(heart, view, rng, frames=job.plan.frames, size=job.plan.size, difficulty=job.plan.difficulty)
    if path is not None:
        write.dicom(path, draw(heart, shot, rng), **tags, quirks=quirks)
    return {
        "view": view,
        "content": "cine",
        "quirks": quirks,
        "hr_bpm": round(shot.hr_bpm, 1),
        "frame_time_ms": shot.frame_time_ms,
        "r_times_s": write.floats(shot.inside_s, 4),
        "volume_ml": write.floats(shot.volume_ml, 2),
        "sector_polygon": write.floats(shot.geometry.polygon(), 2),
    }


def _picture(
    path: Path | None, heart: Heart, kind: modes.Kind, item: int, person: Person, job: Job, tags: write.Tags
) -> dict[str, object]:
    """Writes a file that is no plain cine where `path` says, and gives what the truth says of it."""
    plan = job.plan
    rng = stream(person.seed, person.index, "echo", item)
    shot = modes.shot_of(heart, kind, rng, size=plan.size, difficulty=plan.difficulty)
    if path is not None:
        rng = stream(person.seed, person.index, "echo", item)
        made = modes.picture(heart, kind, rng, size=plan.size, difficulty=plan.difficulty)
        write.picture(path, made.frames, regions=made.regions, frame_time_ms=made.frame_time_ms, hr_bpm=made.hr_bpm, **tags)
    found: dict[str, object] = {"hr_bpm": round(shot.hr_bpm, 1)}
    if kind == "colour":
        found |= {"frame_time_ms": shot.frame_time_ms, "r_times_s": write.floats(shot.inside_s, 4)}
    return found


def _stay(rows: Rows, person: Person, stay: Admission, readings: dict[int, Reading]) -> None:
    """One admission: its codes and its note."""
    rng = stream(person.seed, person.index, "note", stay.item)
    heart = person.heart_on(stay.days)
    admitted, discharged = (f"{time:%Y-%m-%d %H:%M:%S}" for time in (stay.admitted, stay.discharged))
    home = "HOME" if rng.random() < 0.7 else "HOME HEALTH CARE"
    race = _RACES[int(stream(person.seed, person.index, "note", 255).choice(5, p=(0.62, 0.16, 0.08, 0.06, 0.08)))]
    old = heart.age >= 65
    rows.add(
        "admissions",
        [
            person.subject_id, stay.hadm_id, admitted, discharged, "", "EW EMER." if rng.random() < 0.6 else "URGENT",
            f"P{int(rng.integers(0, 100)):02d}SIM", "EMERGENCY ROOM", home, "Medicare" if old else "Private", "ENGLISH",
            ("MARRIED", "SINGLE", "WIDOWED")[int(rng.integers(3))], race, "", "", 0,
        ],
    )  # fmt: skip
    codes = icd.diagnoses(heart, stay.year, rng)
    for number, (code, version) in enumerate(codes, start=1):
        rows.add("diagnoses", [person.subject_id, stay.hadm_id, number, code, version])
    if rng.random() > NOTE_SHARE:
        return
    failing = "heart failure" in icd.TITLES[codes[0]].lower()
    before = [readings[visit.item] for visit in person.visits if visit.time < stay.admitted]
    note = notes.discharge_note(heart, readings[stay.visit.item] if stay.visit else None, before, rng, failing=failing)
    note_id = f"{person.subject_id}-DS-{stay.item + 1}"
    stored = stay.discharged + timedelta(minutes=int(rng.integers(60, 3000)))
    rows.add(
        "discharge",
        [
            note_id, person.subject_id, stay.hadm_id, "DS", stay.item + 1, f"{stay.discharged:%Y-%m-%d} 00:00:00",
            f"{stored:%Y-%m-%d %H:%M:%S}", note.text,
        ],
    )  # fmt: skip
    rows.counts["notes"] += 1
    low, high = note.stated if note.stated is not None else (None, None)
    rows.truth.append(
        state(person, heart, "note", stay.days)
        | {"note_id": note_id, "hadm_id": str(stay.hadm_id), "stated_lvef_low": low, "stated_lvef_high": high}
    )
