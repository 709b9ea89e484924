"""How long `ecgecho index mimic-iv` takes, and how much memory, on tables of the published size. Simulated rows, no waveforms.

800,035 ECGs of 161,352 subjects, 525,422 clips of 7,243 studies of 4,579 subjects, 206,488 reports with ROWS_A_REPORT rows
each, and the tables of hosp; every id, time and value is drawn at random, in the published layout.

    python benchmarks/index_mimic.py make FOLDER [--share 1.0] [--notes 0]
    python benchmarks/index_mimic.py run FOLDER [--set diagnoses='["ccsr.CIR*"]' ...] [--profile] [--match all]

`run` indexes in a process of its own and prints seconds, peak memory (VmHWM) and the sizes of the catalog as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

NUM_ECGS, NUM_ECG_SUBJECTS = 800_035, 161_352
NUM_CLIPS, NUM_STUDIES, NUM_ECHO_SUBJECTS = 525_422, 7_243, 4_579
NUM_REPORTS, NUM_REPORT_SUBJECTS = 206_488, 91_372
ROWS_A_REPORT = 35
NUM_PATIENTS, NUM_ADMISSIONS, NUM_DIAGNOSES = 364_627, 546_028, 6_364_488  # MIMIC-IV 3.1, from memory
IN_HOSPITAL = 0.55  # of ECGs; ours
NEAR_DAYS = 20.0  # spread of a study's time about that of an ECG; ours

NUMBERS = {  # mean, spread, digits, unit
    "lvef": (55, 12, 0, "%"), "biplane_lvef": (55, 12, 0, "%"), "septal_thickness": (1.1, 0.2, 1, "cm"),
    "inf_lat_thickness": (1.1, 0.2, 1, "cm"), "lvedd": (4.8, 0.6, 1, "cm"), "lvesd": (3.2, 0.6, 1, "cm"),
    "la_dimen": (3.9, 0.6, 1, "cm"), "la_vol": (60, 20, 0, "ml"), "rv_diam": (3.6, 0.5, 1, "cm"), "tapse": (2.0, 0.4, 1, "cm"),
    "tr_mmhg": (28, 9, 0, "mmHg"), "tr_velocity": (2.6, 0.4, 1, "m/s"), "av_pk_vel": (1.4, 0.4, 1, "m/s"),
    "av_pk_grad": (9, 4, 0, "mmHg"), "av_mean_grad": (6, 3, 0, "mmHg"),
    "lvot_vti": (20, 4, 0, "cm"), "lvot_diam": (2.1, 0.2, 1, "cm"),
    "sept_e_prime": (0.08, 0.02, 2, "m/s"), "lat_e_prime": (0.1, 0.03, 2, "m/s"), "mv_peak_e": (0.8, 0.2, 1, "m/s"),
    "mv_peak_a": (0.8, 0.2, 1, "m/s"), "mv_peak_e_a": (1.0, 0.3, 2, ""), "mv_e_decel": (200, 40, 0, "ms"),
    "resting_hr": (75, 12, 0, "bpm"), "resting_sbp": (125, 18, 0, "mmHg"), "resting_dbp": (70, 12, 0, "mmHg"),
    "height_cm": (168, 10, 0, "cm"),
}  # fmt: skip
WORDS = {
    "rv_function": ("Nl RV function", "Mild global hypo", "Mod global hypo", "Severe global hypo"),
    "phtn_severity": ("Normal (TR<26mmHg)", "Mild (TR 26-36mmHg)", "Mod (TR 37-60mmHg)", "Severe (TR >60mmHg)"),
    **dict.fromkeys(
        ("aortic_stenosis", "aortic_regurg", "mitral_regurg", "tricuspid_regurg"), ("Trivial", "Mild", "Moderate", "Severe")
    ),
    "pericardial_effusion": ("Trivial", "Small (<1.0cm)", "Moderate (1.0-2.0cm)", "Large (>2.0cm)"),
    "lv_wall_thickness": ("Normal", "Mild LVH", "Moderate LVH", "Severe LVH"),
}  # fmt: skip
LINES = (
    "Sinus rhythm", "Sinus bradycardia", "Atrial fibrillation", "Left axis deviation", "Right bundle branch block",
    "Left ventricular hypertrophy", "Inferior infarct - age undetermined", "Lateral T wave changes are nonspecific",
    "Possible anterior infarct - age undetermined", "Borderline ECG", "Abnormal ECG", "Normal ECG",
)  # fmt: skip


def make(folder: Path, share: float, notes: int) -> None:
    """Write the tables, `share` of the published number of rows."""
    rng = np.random.default_rng(0)

    def size(number: int) -> int:
        return max(int(number * share), 10)

    patients = 10_000_000 + np.sort(rng.permutation(size(NUM_PATIENTS) * 3)[: size(NUM_PATIENTS)])
    ecg_people = np.sort(rng.choice(patients, size(NUM_ECG_SUBJECTS), replace=False))
    _write(
        folder / "mimiciv/3.1/hosp/patients.csv.gz",
        {
            "subject_id": patients,
            "gender": np.array(["F", "M"])[rng.integers(0, 2, len(patients))],
            "anchor_age": rng.integers(18, 92, len(patients)),
            "anchor_year": 2110 + patients % 90,
            "anchor_year_group": ["2014 - 2016"] * len(patients),
            "dod": [""] * len(patients),
        },
    )
    n = size(NUM_ADMISSIONS)
    owner = stay_owner = rng.choice(patients, n)
    begin = _day(owner, rng.integers(0, 3000, n)) + rng.integers(0, 86_400, n)
    end = begin + rng.integers(3600, 12 * 86_400, n)
    hadm = 20_000_000 + rng.permutation(n)
    _write(
        folder / "mimiciv/3.1/hosp/admissions.csv.gz",
        {
            "subject_id": owner,
            "hadm_id": hadm,
            "admittime": _words(begin),
            "dischtime": _words(end),
            **{name: ["X"] * n for name in ("admission_type", "insurance", "language", "race", "discharge_location")},
        },
    )
    m = size(NUM_DIAGNOSES)
    of = np.sort(rng.integers(0, n, m))
    ten = (of % 2).astype(bool)
    _write(
        folder / "mimiciv/3.1/hosp/diagnoses_icd.csv.gz",
        {
            "subject_id": owner[of],
            "hadm_id": hadm[of],
            "seq_num": np.arange(m) % 20 + 1,
            "icd_code": np.where(ten, _icd(rng, m), np.char.mod("%05d", rng.integers(1000, 99_999, m))),
            "icd_version": np.where(ten, 10, 9),
        },
    )
    codes = np.unique(_icd(np.random.default_rng(1), 200_000))
    path = folder / "DXCCSR_v2025-1.csv"
    head = ["'ICD-10-CM CODE'", "'ICD-10-CM CODE DESCRIPTION'", *(f"'CCSR CATEGORY {k}'" for k in range(1, 7))]
    lines = [f"'{c}',\"x, y\",'CIR{1 + k % 39:03d}',' ',' ',' ',' ',' '" for k, c in enumerate(codes)]
    path.write_text("\n".join([",".join(head), *lines]) + "\n")

    n = size(NUM_ECGS)
    owner = ecg_people[np.minimum((len(ecg_people) * rng.random(n) ** 1.5).astype(int), len(ecg_people) - 1)]
    owner[: len(ecg_people)] = ecg_people[: len(owner)]
    taken = _day(owner, rng.integers(0, 3000, n)) + rng.integers(0, 86_400, n)
    stays = np.flatnonzero(np.isin(stay_owner, ecg_people))
    inside = np.flatnonzero(np.arange(n) >= len(ecg_people))[: int(IN_HOSPITAL * n)]
    stay = rng.choice(stays, len(inside))
    owner[inside], taken[inside] = stay_owner[stay], begin[stay] + ((end - begin)[stay] * rng.random(len(inside))).astype(int)
    study = 40_000_000 + rng.permutation(9_999_999)[:n]
    when = _words(taken)
    who, name = owner.astype("U8"), study.astype("U8")
    paths = _paths("files/p", (owner // 10_000).astype("U4"), "/p", who, "/s", name, "/", name)
    _write(
        folder / "mimic-iv-ecg/1.0/record_list.csv",
        {"subject_id": owner, "study_id": study, "file_name": study, "ecg_time": when, "path": paths},
    )
    lines_of = rng.integers(1, 6, n)
    words = np.array(LINES)
    _write(
        folder / "mimic-iv-ecg/1.0/machine_measurements.csv",
        {
            "subject_id": owner,
            "study_id": study,
            "cart_id": 6_800_000 + rng.integers(0, 400, n),
            "ecg_time": when,
            **{f"report_{k}": np.where(k < lines_of, words[rng.integers(0, len(words), n)], "") for k in range(18)},
            "bandwidth": ["0.005-150 Hz"] * n,
            "filtering": ["60 Hz notch Baseline filter"] * n,
            "rr_interval": rng.integers(500, 1200, n),
            "p_onset": np.where(rng.random(n) < 0.15, 29_999, 40),
            "p_end": np.where(rng.random(n) < 0.29, 29_999, 140),
            "qrs_onset": rng.integers(170, 200, n),
            "qrs_end": rng.integers(250, 320, n),
            "t_end": rng.integers(480, 620, n),
            "p_axis": np.where(rng.random(n) < 0.15, 32_767, rng.integers(-90, 90, n)),
            "qrs_axis": rng.integers(-90, 180, n),
            "t_axis": rng.integers(-90, 180, n),
        },
    )

    echo_people = rng.choice(ecg_people, size(NUM_ECHO_SUBJECTS), replace=False)
    s = size(NUM_STUDIES)
    of_echo = np.flatnonzero(np.isin(owner, echo_people))
    near = rng.choice(of_echo, s)
    near = near[np.argsort(owner[near], kind="stable")]
    study_owner = owner[near]
    study_id = 90_000_000 + rng.permutation(9_999_999)[:s]
    study_time = taken[near] + (86_400 * rng.normal(0, NEAR_DAYS, s)).astype(int)
    c = size(NUM_CLIPS)
    of = np.sort(rng.integers(0, s, c))
    first = np.searchsorted(of, of, side="left")
    instance = np.char.mod("%04d", np.arange(c) - first + 1)
    who, name = study_owner[of].astype("U8"), study_id[of].astype("U8")
    short = (study_owner[of] // 1_000_000).astype("U2")
    _write(
        folder / "mimic-iv-echo/1.0/echo-record-list.csv",
        {
            "subject_id": study_owner[of],
            "study_id": study_id[of],
            "acquisition_datetime": _words(study_time[of] + 20 * (np.arange(c) - first)),
            "dicom_filepath": _paths("files/p", short, "/p", who, "/s", name, "/", name, "_", instance, ".dcm"),
        },
    )
    r = size(NUM_REPORTS)
    people = np.unique(np.r_[echo_people, rng.choice(patients, size(NUM_REPORT_SUBJECTS), replace=False)])
    report_owner = np.r_[study_owner, people[rng.integers(0, len(people), r - s)]]
    report_id = 70_000_000 + rng.permutation(9_999_999)[:r]
    report_time = np.r_[study_time + 3600, _day(report_owner[s:], rng.integers(0, 4000, r - s)) + 40_000]
    _write(
        folder / "mimic-iv-echo/1.0/echo-study-list.csv",
        {
            "subject_id": study_owner,
            "study_id": study_id,
            "study_datetime": _words(study_time),
            **{name: [""] * s for name in ("note_id", "note_seq", "note_charttime")},
            "measurement_id": report_id[:s],
            "measurement_datetime": _words(report_time[:s]),
        },
    )
    _measurements(folder / "mimic-iv-echo/1.0/structured-measurement.csv.gz", rng, report_owner, report_id, _words(report_time))
    if notes:
        owner = rng.choice(ecg_people, notes)
        body = " ".join(["No murmurs, rubs or gallops. LVEF 55 %."] * 200)
        _write(
            folder / "mimic-iv-note/2.2/note/discharge.csv.gz",
            {
                "note_id": _paths(owner.astype("U8"), "-DS-", np.arange(notes).astype("U7")),
                "subject_id": owner,
                "hadm_id": 20_000_000 + np.arange(notes),
                "charttime": _words(_day(owner, rng.integers(0, 3000, notes))),
                "text": [body] * notes,
            },
        )


def _measurements(path: Path, rng: np.random.Generator, owner: Any, report: Any, when: Any) -> None:
    names = [*NUMBERS, *WORDS]
    r, k = len(owner), len(names)
    kind = np.array(["tte", "stress", "tee"])[np.searchsorted((0.871, 0.951), rng.random(r))]
    pick = np.argsort(rng.random((r, k)), axis=1)[:, :ROWS_A_REPORT]
    row, column = np.repeat(np.arange(r), pick.shape[1]), pick.ravel()
    result = np.empty(len(row), "U24")
    unit = np.empty(len(row), "U5")
    for number, name in enumerate(names):
        here = np.flatnonzero(column == number)
        if name in NUMBERS:
            mean, spread, digits, unit[here] = NUMBERS[name]
            result[here] = np.char.mod(f"%.{digits}f", np.abs(rng.normal(mean, spread, len(here))))
        else:
            result[here] = np.array([*WORDS[name], ""])[rng.choice(5, len(here), p=(0.5, 0.2, 0.1, 0.05, 0.15))]
    said = pa.array(names)
    _write(
        path,
        {
            "subject_id": owner[row],
            "measurement_id": report[row],
            "measurement_datetime": when[row],
            "test_type": kind[row],
            "measurement": pc.take(said, pa.array(column)),
            "measurement_description": pc.take(said, pa.array(column)),
            "result": result,
            "unit": unit,
        },
    )


def _icd(rng: np.random.Generator, number: int) -> Any:
    """Codes that look like ICD-10-CM's, about a fifth of the circulation."""
    letter = np.array(list("IIABCEJKMNRZ"))[rng.integers(0, 12, number)]
    return np.char.add(letter, np.char.mod("%04d", rng.integers(1000, 9999, number)))


def _day(owner: Any, offset: Any) -> Any:
    """Seconds since 1970 of a day in the shifted years of a subject."""
    return (np.asarray(owner, np.int64) % 90) * 31_556_952 + 4_418_064_000 + np.asarray(offset, np.int64) * 86_400


def _words(seconds: Any) -> Any:
    return np.char.replace(np.datetime_as_string(np.asarray(seconds, "datetime64[s]")), "T", " ")


def _paths(*parts: Any) -> Any:
    return pc.binary_join_element_wise(*(p if isinstance(p, str) else pa.array(p, pa.string()) for p in parts), "")


def _write(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: value if isinstance(value, pa.Array) else pa.array(value) for name, value in columns.items()})
    codec = pa.CompressedOutputStream(str(path), "gzip") if path.suffix == ".gz" else pa.OSFile(str(path), "wb")
    with codec as stream:
        stream.write((",".join(columns) + "\n").encode())
        csv.write_csv(table, stream, csv.WriteOptions(include_header=False, quoting_style="needed", batch_size=1 << 16))
    print(f"{path.name}: {table.num_rows:,} rows, {path.stat().st_size / 1e6:.0f} MB", file=sys.stderr)


def run(folder: Path, out: Path, settings: Sequence[str], match: str, profile: bool) -> dict[str, Any]:
    """Index once, in this process."""
    from ecgecho import config, plugins
    from ecgecho.catalog import IndexOptions

    module = plugins.load("datasets", "mimic-iv")
    chosen = config.override(module.Config(), settings)
    stages: list[tuple[str, float]] = []
    began = time.perf_counter()

    def tell(what: str, done: int, total: int) -> None:
        stages.append((what, round(time.perf_counter() - began, 1)))

    def index() -> Any:
        return module.build(chosen).index(folder, out, tell, IndexOptions(workers=0, match=match))

    if profile:
        import cProfile
        import pstats

        with cProfile.Profile() as watched:
            made = index()
        pstats.Stats(watched).sort_stats("tottime").print_stats(30)
    else:
        made = index()
    seconds = time.perf_counter() - began
    counts = made.meta["counts"]
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(time.process_time(), 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        "stages": stages,
        "ecgs": counts["ecgs"]["all"],
        "clips": counts["clips"]["all"],
        "labels": counts["labels"]["all"],
        "pairs_with_echo": counts["pairs_with_echo"]["all"],
        "texts": counts["texts"]["all"],
        "catalog_mb": round(sum(f.stat().st_size for f in out.iterdir()) / 1e6),
        "load": os.getloadavg(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "run", "run-here"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--notes", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--match", default="nearest")
    parser.add_argument("--profile", action="store_true")
    words = parser.parse_args()
    if words.what == "make":
        make(words.folder, words.share, words.notes)
    elif words.what == "run":
        subprocess.run([sys.executable, __file__, "run-here", *sys.argv[2:]], check=True)
    else:
        out = words.folder.parent / f"{words.folder.name}-catalog"
        if out.exists():
            import shutil

            shutil.rmtree(out)
        print(json.dumps(run(words.folder, out, words.set, words.match, words.profile), indent=1))


if __name__ == "__main__":
    main()
