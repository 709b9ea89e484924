"""MUSIC as public readers describe it: a table between semicolons with decimal commas, WFDB records of X, Y, Z of format 16."""

from pathlib import Path

import numpy as np

# The columns whose names are published as they are here, blanks and "Hig-resolution" included; "Average RR (ms)" stands twice.
COLUMNS = (
    "Patient ID", "Follow-up period from enrollment (days)", "days_4years", "Exit of the study", "Cause of death", "Age",
    "Gender (male=1)", "Weight (kg)", "NYHA class", "Diastolic blood  pressure (mmHg)", "HF etiology - Diagnosis",
    "Diabetes (yes=1)", "History of hypertension (yes=1)", "Prior Myocardial Infarction (yes=1)", "Creatinine (?mol/L)",
    "Left atrial size (mm)", "Right ventricle contractility (altered=1)", "Right ventricle end-diastolic diameter (mm)",
    "LVEF (%)", "Mitral valve insufficiency ", "Mitral flow pattern", "Left ventricular posterior wall thickness (mm)",
    "Septal thickness (mm)", "Left ventricle end-diastolic diameter (mm)", "Left ventricle end-systolic diameter (mm)",
    "Hig-resolution ECG available", "ECG rhythm ", "QRS duration (ms)", "QRS > 120 ms ", "QT corrected ", "Average RR (ms)",
    "Left ventricular hypertrophy (yes=1)", "Intraventricular conduction disorder", "Holter available",
    "Holter onset (hh:mm:ss)", "Holter  rhythm ", "Average RR (ms)",
)  # fmt: skip
PLAIN = {
    "Follow-up period from enrollment (days)": "1805",
    "Exit of the study": "0",
    "Cause of death": "0",
    "Age": "63",
    "Gender (male=1)": "1",
    "Weight (kg)": "71,5",
    "NYHA class": "2",
    "LVEF (%)": "37,5",
    "Left ventricular posterior wall thickness (mm)": "10,2",
    "Septal thickness (mm)": "11",
    "Left ventricle end-diastolic diameter (mm)": "61,0",
    "Left ventricle end-systolic diameter (mm)": "48",
    "Hig-resolution ECG available": "1",
    "Left ventricular hypertrophy (yes=1)": "0",
    "Holter available": "1",
    "Holter onset (hh:mm:ss)": "'10:05:00'",
    "Average RR (ms)": "810",
}
PATIENTS = {
    "P0001": {},
    "P0002": {"Exit of the study": "3", "Cause of death": "3", "LVEF (%)": "999", "Septal thickness (mm)": "16,5", "Age": ">89"},
    "P0070": {"Exit of the study": "3", "Cause of death": "7", "Left ventricular hypertrophy (yes=1)": "1"},
    "P0071": {"Exit of the study": "1", "Septal thickness (mm)": "", "Gender (male=1)": "0", "Cause of death": "0"},
    "P1073": {"Exit of the study": "3", "Cause of death": "6", "Hig-resolution ECG available": "0"},
}


def write_people(path: Path, patients, encoding: str = "cp1252", columns=COLUMNS) -> None:
    lines = [";".join(columns)]
    for name, changes in patients.items():
        values = {**PLAIN, "Patient ID": name, **changes}
        lines.append(";".join(values.get(column, "") for column in columns))
    # In cp1252 a micro sign is no UTF-8; the second file of the real set has one, and the first may.
    tail = "\u00b5" if encoding == "cp1252" else ""
    lines[1] = lines[1] if "Mitral flow pattern" not in columns else _put(lines[1], columns.index("Mitral flow pattern"), tail)
    path.write_bytes(("\r\n".join(lines) + "\r\n").encode(encoding))


def _put(line: str, place: int, word: str) -> str:
    cells = line.split(";")
    cells[place] = word
    return ";".join(cells)


def write_record(
    folder: Path, name: str, *, fs: int, seconds: float, leads="XYZ", said: int | None = None, trailing: int = 0
) -> None:
    """30 s of zeros and ones as a calibration, then the seconds since the start, in mV."""
    folder.mkdir(parents=True, exist_ok=True)
    n = round(seconds * fs)
    at = np.arange(n) / fs
    wave = np.where(at < 30, np.floor(2 * at) % 2, np.floor(at) / 100)
    raw = np.repeat(np.round(wave * 1000).astype("<i2")[:, None], len(leads), axis=1)
    (folder / f"{name}.dat").write_bytes(raw.tobytes() + b"\1" * trailing)
    lines = [f"{name} {len(leads)} {fs} {n if said is None else said}"]
    lines += [f"{name}.dat 16 1000.0(0)/mV 16 0 0 0 0 {lead}" for lead in leads]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")


def write_music(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    write_people(root / "subject-info.csv", PATIENTS)
    high, holter = root / "High-resolution_ECG", root / "Holter_ECG"
    for name in ("P0001_H", "P0002_H", "P0071_H"):
        write_record(high, name, fs=1000, seconds=110)
    write_record(high, "P0070_H", fs=1000, seconds=120, said=80_000)  # 1.5 times as long as it says
    for name in ("P0001", "P0002", "P0071"):
        write_record(holter, name, fs=200, seconds=300, trailing=36 if name == "P0002" else 0)
    for name in ("P0070", "P1073"):
        write_record(holter, name, fs=200, seconds=60, leads="XY")
    (root / "RECORDS").write_text("".join(f"High-resolution_ECG/{path.stem}\n" for path in sorted(high.glob("*.hea"))))
    return root
