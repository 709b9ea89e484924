"""music: MUSIC 1.0.1 (sudden cardiac death in chronic heart failure). One row a person and 20 minutes of X, Y, Z at 1000 Hz.

subject-info.csv is separated by semicolons with decimal commas and blanks in its column names; the files beside it are in cp1252.
No Holter is written: its column says that none is available. The first person's header promises two thirds of the samples that
its file holds, as 20 real ones do. The order of the columns, and what those beyond the heart's hold, is ours.
"""

from __future__ import annotations

import hashlib
from typing import cast

import numpy as np

from ecgecho.simulate import measurements, write
from ecgecho.simulate.ecg import frank
from ecgecho.simulate.heart import stream
from ecgecho.simulate.layouts import Job, Observed, Row, Rows, Table, observe, state
from ecgecho.simulate.noise import FRANK
from ecgecho.simulate.person import Ecg, Person
from ecgecho.types import F32

NAME = "music"
READ_BY = "ecgecho index music {root} --out {beside}"
TABLES_ALONE = False

RATE_HZ = 1000
SAMPLES = 1_196_000
SAID_SAMPLES = 797_333
"""In the header of a record whose file holds `SAMPLES`."""
GAIN = 1000
CALIBRATION_S = 10
AVAILABLE = 687 / 992
"""Share of persons with a high-resolution ECG."""
FOLDER = "High-resolution_ECG"

COLUMNS = (
    "Patient ID", "Follow-up period from enrollment (days)", "days_4years", "Exit of the study", "Cause of death",
    "SCD_4years SinusRhythm", "HF_4years SinusRhythm", "Age", "Gender (male=1)", "Weight (kg)", "Height (cm)",
    "Body Mass Index (Kg/m2)", "NYHA class", "Diastolic blood  pressure (mmHg)", "Systolic blood pressure (mmHg)",
    "HF etiology - Diagnosis", "Diabetes (yes=1)", "History of dyslipemia (yes=1)", "Peripheral vascular disease (yes=1)",
    "History of hypertension (yes=1)", "Prior Myocardial Infarction (yes=1)", "Prior implantable device",
    "Prior Revascularization", "Syncope", "daily smoking (cigarretes/day)", "smoke-free time (years)", "cigarettes /year",
    "alcohol consumption (standard units)", "Albumin (g/L)", "ALT or GPT (IU/L)", "AST or GOT (IU/L)", "Normalized Troponin",
    "Total Cholesterol (mmol/L)", "Creatinine (?mol/L)", "Gamma-glutamil transpeptidase (IU/L)", "Glucose (mmol/L)",
    "Hemoglobin (g/L)", "HDL (mmol/L)", "Potassium (mEq/L)", "LDL (mmol/L)", "Sodium (mEq/L)", "Pro-BNP (ng/L)",
    "Protein (g/L)", "T3 (pg/dL)", "T4 (ng/L)", "Troponin (ng/mL)", "TSH (mIU/L)", "Urea (mg/dL)",
    "Signs of pulmonary venous hypertension (yes=1)", "Cardiothoracic ratio", "Left atrial size (mm)",
    "Right ventricle contractility (altered=1)", "Right ventricle end-diastolic diameter (mm)", "LVEF (%)",
    "Mitral valve insufficiency ", "Mitral flow pattern", "Left ventricular posterior wall thickness (mm)",
    "Septal thickness (mm)", "Left ventricle end-diastolic diameter (mm)", "Left ventricle end-systolic diameter (mm)",
    "Hig-resolution ECG available", "ECG rhythm ", "Q-waves (necrosis, yes=1)", "PR interval (ms)", "QRS duration (ms)",
    "QRS > 120 ms ", "QT interval (ms)", "QT corrected ", "Average RR (ms)", "Left ventricular hypertrophy (yes=1)",
    "Intraventricular conduction disorder", "Holter available", "Holter onset (hh:mm:ss)", "Holter  rhythm ",
    "minimum RR (ms)", "Average RR (ms)", "maximum RR (ms)", "RR range (ms)", "Number of ventricular premature beats in 24h",
    "Extrasystole couplets", "Ventricular Extrasystole", "Ventricular Tachycardia",
    "Number of ventricular premature contractions per hour", "Non-sustained ventricular tachycardia (CH>10)",
    "Number of supraventricular premature beats in 24h", "Paroxysmal supraventricular tachyarrhythmia",
    "Longest RR pause (ms)", "Bradycardia", "SDNN (ms)", "SDANN (ms)", "RMSSD (ms)", "pNN50 (%)",
    "Calcium channel blocker (yes=1)", "Diabetes medication (yes=1)", "Amiodarone (yes=1)",
    "Angiotensin-II receptor blocker (yes=1)", "Anticoagulants/antitrombotics  (yes=1)", "Betablockers (yes=1)",
    "Digoxin (yes=1)", "Loop diuretics (yes=1)", "Spironolactone (yes=1)", "Statins (yes=1)", "Hidralazina (yes=1)",
    "ACE inhibitor (yes=1)", "Nitrovasodilator (yes=1)",
)  # fmt: skip
"""105, two of them with one name."""

TABLES = {
    "subjects": Table(path="subject-info.csv", columns=COLUMNS, delimiter=";", encoding="cp1252", line_end="\r\n"),
    "records": Table(path="RECORDS", columns=()),
}
CODES = (
    ("Exit of the study", 0, "Survivor"), ("Exit of the study", 1, "Lost to follow-up"),
    ("Exit of the study", 2, "Cardiac transplantation"), ("Exit of the study", 3, "Death"), ("Cause of death", 0, "Survivor"),
    ("Cause of death", 1, "Non-cardiac death"), ("Cause of death", 3, "Sudden cardiac death"),
    ("Cause of death", 6, "Pump failure death"), ("Cause of death", 7, "Pump failure death"), ("ECG rhythm ", 0, "Sinus"),
    ("ECG rhythm ", 1, "Atrial fibrillation"), ("ECG rhythm ", 2, "Atrial flutter"), ("ECG rhythm ", 3, "Pacemaker"),
)  # fmt: skip
NOT_KNOWN = 999
"""Stands for a value that was not taken, in some columns."""


def subject(job: Job, person: Person) -> Rows:
    """One person: a row, and for most a recording."""
    rows = Rows()
    heart = person.heart
    rows.counts.update(lvef_lt_40=int(heart.lvef < 40), wall_ge_16=int(heart.wall_mm >= 16))
    rows.truth.append(state(person, heart, "subject", 0.0))
    rng = stream(person.seed, person.index, "text")
    name = f"P{person.index + 1:04d}"
    available = rng.random() < AVAILABLE or person.index == 0
    ecg = Ecg(item=0, days=0.0, time=person.day_0, ecg_id=person.index + 1)
    seen = observe(job, person, ecg, person.body(), duration_s=SAMPLES / RATE_HZ, frank=True, gaps=False)
    rows.add("subjects", _row(seen, name, available, rng))
    if not available:
        return rows
    path = f"{FOLDER}/{name}_H"
    rows.add("records", [path])
    rows.counts["ecgs"] += 1
    rows.truth.append(_uncovered(seen.truth(f"{name}_H", path)))
    files = job.out / f"{path}.dat", job.out / f"{path}.hea"
    if not job.tables_only and not (write.complete(files[0], size=2 * 3 * SAMPLES) and write.complete(files[1])):
        write.wfdb(
            job.out / FOLDER, f"{name}_H", _signal(seen), leads=FRANK, fs_hz=RATE_HZ, gain=GAIN,
            said_samples=SAID_SAMPLES if person.index == 0 else None,
        )  # fmt: skip
        rows.files_written += 1
    return rows


def finish(job: Job) -> int:
    """Codes, definitions, licence, and the list of checksums."""
    codes = "".join(f"{column};{code};{meaning}\r\n" for column, code, meaning in CODES)
    static = {
        "subject-info_codes.csv": f"Variable;Code;Meaning\r\n{codes}",
        "subject-info_definitions.csv": "Variable;Definition\r\n"
        + "".join(f"{column};{_define(column)}\r\n" for column in dict.fromkeys(COLUMNS)),
        "LICENSE.txt": "Simulated: no real person is in it.\n",
    }
    missing = 0
    for name, content in static.items():
        if not write.complete(job.out / name):
            write.atomic(job.out / name, content.encode("cp1252"))
            missing += 1
    if job.tables_only:
        return missing
    sums = []
    for path in sorted([job.out / "subject-info.csv", job.out / "RECORDS", *(job.out / FOLDER).glob("P*")]):
        with path.open("rb") as file:
            sums.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()} {path.relative_to(job.out).as_posix()}\n")
    listed = "".join(sums).encode()
    path = job.out / "SHA256SUMS.txt"
    if not path.exists() or path.read_bytes() != listed:
        write.atomic(path, listed)
        missing += 1
    return missing


def _uncovered(row: dict[str, object]) -> dict[str, object]:
    """The row of the truth without beats and artefacts that the calibration lies over."""
    beats = cast("list[float]", row["r_times_s"])
    artefacts = cast("list[dict[str, object]]", row["artefacts_s"])
    return row | {
        "r_times_s": [time for time in beats if time >= CALIBRATION_S],
        "artefacts_s": [
            artefact | {"start_s": max(cast("float", artefact["start_s"]), float(CALIBRATION_S))}
            for artefact in artefacts
            if cast("float", artefact["stop_s"]) > CALIBRATION_S
        ],
    }


def _define(column: str) -> str:
    """In words; the micro sign is why this file cannot be read as UTF-8."""
    unit = " in \u00b5mol/L" if column.startswith("Creatinine") else ""
    return f"{column.strip()}{unit}; simulated"


def _signal(seen: Observed) -> F32:
    """(3, L) mV with the calibration at its start."""
    noise = seen.person.noise(seen.ecg)
    signal = frank(seen.heart, seen.electro, seen.beats, noise, fs_hz=RATE_HZ, duration_s=SAMPLES / RATE_HZ).signal_mv
    signal[:, : CALIBRATION_S * RATE_HZ] = np.arange(CALIBRATION_S * RATE_HZ) // (RATE_HZ // 2) % 2
    return signal


def _row(seen: Observed, name: str, available: bool, rng: np.random.Generator) -> Row:
    """The columns of one person, with decimal commas."""
    person, heart, electro = seen.person, seen.heart, seen.electro
    reading = measurements.read(heart, stream(person.seed, person.index, "measurement"))
    chance = rng.random(40)
    z = rng.normal(size=24)
    ill = heart.severity
    # Those who die do so of the weak heart more often than not.
    dead = chance[0] < 0.10 + 0.20 * ill
    cause = 0 if not dead else 1 if chance[1] < 0.23 else 3 if chance[1] < 0.58 else 6 if chance[1] < 0.96 else 7
    leaves = 3 if dead else 1 if chance[2] < 0.03 else 2 if chance[2] < 0.03 + 0.04 * ill else 0
    days = int(rng.integers(20, 1400)) if leaves else int(rng.integers(1000, 1600))
    sinus = heart.rhythm == "sinus"
    rhythm = {"sinus": 0, "af": 1, "paced": 3}[heart.rhythm]
    rr = round(60_000 / seen.beats.hr_bpm)
    known: dict[str, object] = {
        "Patient ID": name,
        "Follow-up period from enrollment (days)": days,
        "days_4years": min(days, 1460),
        "Exit of the study": leaves,
        "Cause of death": cause,
        "SCD_4years SinusRhythm": int(sinus and cause == 3),
        "HF_4years SinusRhythm": int(sinus and cause in (6, 7)),
        "Age": ">89" if heart.age > 89 else heart.age,
        "Gender (male=1)": int(heart.sex == "M"),
        "Weight (kg)": heart.weight_kg,
        "Height (cm)": heart.height_cm,
        "Body Mass Index (Kg/m2)": round(heart.weight_kg / (heart.height_cm / 100) ** 2, 2),
        "NYHA class": 3 if chance[3] < 0.12 + 0.3 * ill else 2,
        "Diastolic blood  pressure (mmHg)": round(75 + 9 * z[0]),
        "Systolic blood pressure (mmHg)": round(128 + 16 * z[1] - 8 * ill),
        "HF etiology - Diagnosis": 2 if heart.infarct != "none" else 1 if ill > 0.5 else 3,
        "Diabetes (yes=1)": int(chance[4] < 0.35),
        "History of dyslipemia (yes=1)": int(chance[5] < 0.5),
        "Peripheral vascular disease (yes=1)": int(chance[6] < 0.1),
        "History of hypertension (yes=1)": int(chance[7] < 0.5 + 0.03 * max(heart.wall_mm - 10, 0)),
        "Prior Myocardial Infarction (yes=1)": int(heart.infarct != "none"),
        "Prior implantable device": int(heart.rhythm == "paced"),
        "Prior Revascularization": int(heart.infarct != "none" and chance[8] < 0.5),
        "Syncope": int(chance[9] < 0.08),
        "Creatinine (?mol/L)": round(100 + 22 * z[2] + 14 * ill),
        "Sodium (mEq/L)": round(140 + 2.5 * z[3] - 1.5 * ill),
        "Potassium (mEq/L)": round(4.4 + 0.4 * z[4], 1),
        "Hemoglobin (g/L)": round(136 + 14 * z[5]),
        "Pro-BNP (ng/L)": round(float(np.exp(5.6 + 1.5 * ill + 0.8 * z[6])), 1) if chance[10] < 0.9 else NOT_KNOWN,
        "Cardiothoracic ratio": round(0.5 + 0.06 * ill + 0.03 * z[7], 2),
        "Left atrial size (mm)": round(reading.la_mm) if chance[11] < 0.93 else "",
        "Right ventricle contractility (altered=1)": int(reading.tapse_mm < 16),
        "Right ventricle end-diastolic diameter (mm)": round(reading.rv_mm - 8) if chance[12] < 0.7 else "",
        "LVEF (%)": reading.biplane,
        "Mitral valve insufficiency ": heart.mitral_regurgitation,
        "Mitral flow pattern": int(chance[13] * 3) if sinus else "",
        "Left ventricular posterior wall thickness (mm)": round(reading.posterior_mm, 1) if chance[14] < 0.97 else "",
        "Septal thickness (mm)": round(reading.septal_mm, 1) if chance[15] < 0.97 else "",
        "Left ventricle end-diastolic diameter (mm)": round(reading.lvedd_mm, 1),
        "Left ventricle end-systolic diameter (mm)": round(reading.lvesd_mm, 1) if chance[16] < 0.9 else "",
        "Hig-resolution ECG available": int(available),
        "ECG rhythm ": rhythm,
        "Q-waves (necrosis, yes=1)": int(electro.infarct > 0.4),
        "PR interval (ms)": round(electro.pr_ms) if electro.pr_ms else "",
        "QRS duration (ms)": round(electro.qrs_ms),
        "QRS > 120 ms ": int(electro.qrs_ms > 120),
        "QT interval (ms)": round(electro.qtc_ms * (rr / 1000) ** 0.5),
        "QT corrected ": round(electro.qtc_ms),
        "Average RR (ms)": rr,
        # By the ECG's own criteria, so it is no truth about the wall.
        "Left ventricular hypertrophy (yes=1)": int(electro.voltage > 1.5),
        "Intraventricular conduction disorder": {"lbbb": 1, "rbbb": 2}.get(heart.conduction, 0),
        "Holter available": 0,
    }
    treated = (
        ("Amiodarone (yes=1)", 0.1), ("Anticoagulants/antitrombotics  (yes=1)", 0.8 if heart.rhythm == "af" else 0.3),
        ("Betablockers (yes=1)", 0.7), ("Digoxin (yes=1)", 0.25), ("Loop diuretics (yes=1)", 0.5 + 0.3 * ill),
        ("Spironolactone (yes=1)", 0.25 + 0.3 * ill), ("Statins (yes=1)", 0.5), ("ACE inhibitor (yes=1)", 0.75),
        ("Angiotensin-II receptor blocker (yes=1)", 0.2), ("Calcium channel blocker (yes=1)", 0.1),
        ("Diabetes medication (yes=1)", 0.3), ("Hidralazina (yes=1)", 0.02), ("Nitrovasodilator (yes=1)", 0.25),
    )  # fmt: skip
    known |= {column: int(draw < share) for (column, share), draw in zip(treated, chance[20:], strict=False)}
    cells, heard = [], False
    for column in COLUMNS:
        value = known.get(column, "")
        if column == "Average RR (ms)":
            value, heard = ("" if heard else value), True  # the second one is the Holter's
        cells.append(f"{value}".replace(".", ",") if isinstance(value, float) else value)
    return cells
