"""echonext: EchoNext 1.1. Z-scored 250 Hz waveforms in one array a split, labels from an echo, a metadata table.

Row i of a split's arrays is the i-th row of the metadata with that `split`. Validation and test hold the last ECG of a patient;
the earlier ones are `no_split`. A flag is 0 below its threshold and where nothing was measured.

Waveforms: a median filter takes the baseline away, values are clipped to the 0.1 and 99.9 percentiles of a lead, then z-scored,
all over the whole cohort. Until all are there they lie in the hidden folder `.waveforms`, a file of float32 a person.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import median_filter
from scipy.signal import resample_poly

from ecgecho.simulate import measurements, write
from ecgecho.simulate.ecg import FS_HZ
from ecgecho.simulate.ecg import LEADS as RECORDED
from ecgecho.simulate.heart import GRADES, Heart, stream
from ecgecho.simulate.layouts import Job, Observed, Row, Rows, Table, observe, state
from ecgecho.simulate.measurements import Reading
from ecgecho.simulate.person import Person
from ecgecho.types import F32, STANDARD_LEADS

NAME = "echonext"
READ_BY = "ecgecho index echonext {root} --out {beside}"
TABLES_ALONE = False

RATE_HZ, SAMPLES = 250, 2500
BASELINE_S = 0.6
CLIP_PERCENT = (0.1, 99.9)
SPLITS = ("train", "val", "test", "no_split")
SHARES = {"val": 4626 / 36_286, "test": 5442 / 36_286}
"""Of patients: one ECG each in the real arrays."""
UNMEASURED = {"lvef": 0.089, "walls": 0.10, "valves": 0.15, "pasp": 0.434, "tr": 0.55}
"""Share of ECGs without the value."""

ORDINALS = (
    "aortic_stenosis", "aortic_regurgitation", "mitral_regurgitation", "tricuspid_regurgitation", "pulmonary_regurgitation",
    "rv_systolic_dysfunction",
)  # fmt: skip
GRADED = (*(f"{name}_value" for name in ORDINALS[:-1]), "rv_systolic_function_value", "pericardial_effusion_value")
"""Columns of words."""
RIGHT_VENTRICLE = ("normal", "mildly_reduced", "moderately_reduced", "severely_reduced")
FLAGS = (
    "lvef_lte_45_flag", "lvwt_gte_13_flag", *(f"{name}_moderate_or_greater_flag" for name in ORDINALS),
    "pericardial_effusion_moderate_large_flag", "pasp_gte_45_flag", "tr_max_gte_32_flag", "shd_moderate_or_greater_flag",
)  # fmt: skip
TABULAR = ("sex", "age_at_ecg", "ventricular_rate", "atrial_rate", "pr_interval", "qrs_duration", "qt_corrected")
"""The true order of the arrays; the published README says that age is last."""

TABLES = {
    "metadata": Table(
        path="echonext_metadata_100k.csv",
        columns=(
            "ecg_key", "patient_key", "age_at_ecg", "sex", "acquisition_year", "location_setting", "race_ethnicity",
            "most_recent_ecg", "ventricular_rate", "atrial_rate", "pr_interval", "qrs_duration", "qt_corrected", "split", *FLAGS,
            "lvef_value", "ivs_measurement", "lvpw_measurement", "pasp_value", "tr_max_velocity_value",
            *GRADED,
        ),
    )
}  # fmt: skip


def subject(job: Job, person: Person) -> Rows:
    """All ECGs of one person, in order of time."""
    rows = Rows()
    rows.counts.update(lvef_lt_40=int(person.heart.lvef < 40), wall_ge_16=int(person.heart.wall_mm >= 16))
    rows.truth.append(state(person, person.heart, "subject", 0.0))
    rng = stream(person.seed, person.index, "text")
    draw = rng.random()
    own = "val" if draw < SHARES["val"] else "test" if draw < SHARES["val"] + SHARES["test"] else "train"
    race = ("white", "hispanic", "black", "asian", "other", "unknown")[int(rng.choice(6, p=(0.35, 0.28, 0.16, 0.04, 0.1, 0.07)))]
    body = person.body()
    readings = [
        measurements.read(person.heart_on(visit.days), stream(person.seed, person.index, "measurement", visit.item))
        for visit in person.visits
    ]
    signals = []
    part = job.out / ".waveforms" / f"{person.index:07d}.npy"
    wanted = not job.tables_only and _missing(job) and not write.complete(part)
    for number, ecg in enumerate(person.ecgs):
        seen = observe(job, person, ecg, body, gaps=False)
        last = number == len(person.ecgs) - 1
        split = own if own == "train" or last else "no_split"
        nearest = min(range(len(readings)), key=lambda item: abs(person.visits[item].days - ecg.days))
        setting = ("inpatient", "outpatient", "emergency", "procedural")[int(rng.choice(4, p=(0.4, 0.3, 0.25, 0.05)))]
        rows.add(
            "metadata",
            [
                ecg.ecg_id, person.subject_id, min(seen.heart.age, 90), "male" if seen.heart.sex == "M" else "female",
                person.year_0 + ecg.time.year - person.day_0.year, setting, race, last, *_rates(seen, rng), split,
                *_labels(person.heart_on(person.visits[nearest].days), readings[nearest], rng),
            ],
        )  # fmt: skip
        rows.counts["ecgs"] += 1
        rows.truth.append(seen.truth(ecg.ecg_id, f"EchoNext_{split}_waveforms.npy"))
        if wanted:
            signals.append(_prepared(seen.signal_mv()))
    if wanted:
        _save(part, np.stack(signals))
        rows.files_written += 1
    return rows


def finish(job: Job) -> int:
    """The arrays of all splits."""
    missing = [path for path in _arrays(job, "tabular_features") if not path.exists()]
    with (job.out / TABLES["metadata"].path).open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    split = np.array([row["split"] for row in table])
    if missing:
        features = _tabular(table)
        for name, path in zip(SPLITS, _arrays(job, "tabular_features"), strict=True):
            if path in missing:
                _save(path, features[split == name])
    parts = job.out / ".waveforms"
    if job.tables_only:
        return len(missing)
    if _missing(job):
        mean, std, low, high = _statistics(parts)
        for name, path in zip(SPLITS, _arrays(job, "waveforms"), strict=True):
            if path.exists():
                continue
            missing.append(path)
            beside = path.with_name(f".{path.name}.tmp")
            target = np.lib.format.open_memmap(
                beside, mode="w+", dtype=np.float64, shape=(int((split == name).sum()), 1, SAMPLES, 12)
            )
            first, place = 0, 0
            for part in _parts(parts):
                chosen = part[split[first : first + len(part)] == name]
                target[place : place + len(chosen), 0] = (np.clip(chosen, low, high) - mean) / std
                first, place = first + len(part), place + len(chosen)
            target.flush()
            beside.replace(path)
    shutil.rmtree(parts, ignore_errors=True)
    return len(missing)


def _arrays(job: Job, what: str) -> list[Path]:
    return [job.out / f"EchoNext_{split}_{what}.npy" for split in SPLITS]


def _missing(job: Job) -> bool:
    return not all(path.exists() for path in _arrays(job, "waveforms"))


def _parts(folder: Path) -> Iterator[F32]:
    for path in sorted(folder.glob("*.npy")):
        yield np.load(path)


def _save(path: Path, array: npt.NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("wb") as file:
        np.save(file, array)
    beside.replace(path)


def _prepared(signal_mv: F32) -> F32:
    """(12, L) mV as recorded -> (2500, 12) without its baseline, in the standard order of leads."""
    found = signal_mv[[RECORDED.index(lead) for lead in STANDARD_LEADS]]
    found = resample_poly(found, RATE_HZ, FS_HZ, axis=1)
    # The median over every fourth sample is the same baseline in a fraction of the time.
    coarse = median_filter(found[:, ::4], size=(1, round(BASELINE_S * RATE_HZ / 4) | 1), mode="nearest")
    at = np.arange(found.shape[1])
    baseline = np.stack([np.interp(at, at[::4], row) for row in coarse])
    return np.ascontiguousarray((found - baseline).T, dtype=np.float32)


def _statistics(folder: Path) -> tuple[npt.NDArray[np.float64], ...]:
    """Mean and standard deviation of each lead after clipping, and the limits of clipping, each (12,).

    Limits come from every tenth sample of at most 2,000 persons spread over the cohort.
    """
    paths = sorted(folder.glob("*.npy"))
    step = max(len(paths) // 2000, 1)
    sample = np.concatenate([np.load(path)[:, ::10].reshape(-1, 12) for path in paths[::step]])
    low, high = np.percentile(sample, CLIP_PERCENT, axis=0)
    count, total, square = 0, np.zeros(12), np.zeros(12)
    for part in _parts(folder):
        values = np.clip(part.reshape(-1, 12).astype(np.float64), low, high)
        count, total, square = count + len(values), total + values.sum(0), square + np.square(values).sum(0)
    mean = total / count
    return mean, np.sqrt(np.maximum(square / count - mean**2, 1e-12)), low, high


def _rates(seen: Observed, rng: np.random.Generator) -> Row:
    """ventricular_rate, atrial_rate, pr_interval, qrs_duration, qt_corrected."""
    electro, rate = seen.electro, round(seen.beats.hr_bpm)
    atrial = rate if seen.heart.atrium_beats else int(rng.integers(290, 420))
    pr = round(electro.pr_ms) if electro.pr_ms else ""
    return [rate, atrial, pr, round(electro.qrs_ms), round(electro.qtc_ms)]


def _labels(heart: Heart, reading: Reading, rng: np.random.Generator) -> Row:
    """Flags, then the values they come from; a flag is that of the value as it is written."""
    has = dict(zip(UNMEASURED, rng.random(len(UNMEASURED)) > np.array(list(UNMEASURED.values())), strict=True))
    weak = 0 if reading.tapse_mm >= 16 else 1 if reading.tapse_mm >= 13.5 else 2 if reading.tapse_mm >= 11 else 3
    grades = (
        heart.aortic_stenosis, heart.aortic_regurgitation, heart.mitral_regurgitation, heart.tricuspid_regurgitation,
        int(rng.random() < 0.006) * 2,
    )  # fmt: skip
    effusion = 2 if rng.random() < 0.012 else 0
    velocity = f"{np.sqrt(reading.tr_mmhg / 4):.2f}"
    walls = [f"{wall_mm / 10:.2f}" for wall_mm in (reading.septal_mm, reading.posterior_mm)]
    pressure = round(reading.rvsp_mmhg)
    flags = [
        has["lvef"] and reading.lvef <= 45,
        has["walls"] and max(map(float, walls)) >= 1.3,
        *(has["valves"] and grade >= 2 for grade in (*grades, weak)),
        effusion >= 2,
        has["pasp"] and pressure >= 45,
        has["tr"] and float(velocity) >= 3.2,
    ]
    # Of a valve that is not spoken of, nothing is known: that is another word than "none".
    words = [GRADES[grade] if has["valves"] else "presumed none" for grade in grades]
    return [
        *(int(flag) for flag in flags), int(any(flags)), reading.lvef if has["lvef"] else "",
        *(walls if has["walls"] else ("", "")), pressure if has["pasp"] else "", velocity if has["tr"] else "", *words,
        RIGHT_VENTRICLE[weak] if has["valves"] else "",
        "moderate" if effusion else "none" if has["valves"] else "",
    ]  # fmt: skip


def _tabular(table: list[dict[str, str]]) -> npt.NDArray[np.float64]:
    """(N, 7) in the order `TABULAR`: sex 1 for male, the rest standardised with medians where nothing was measured."""
    columns = []
    for name in TABULAR:
        if name == "sex":
            columns.append(np.array([float(row["sex"] == "male") for row in table]))
            continue
        values = np.array([float(row[name] or "nan") for row in table])
        values[np.isnan(values)] = np.nanmedian(values) if not np.isnan(values).all() else 0.0
        columns.append((values - values.mean()) / max(float(values.std()), 1e-9))
    return np.stack(columns, axis=1)
