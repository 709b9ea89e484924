"""Small copies of Chapman-Shaoxing-Ningbo, CPSC2018 and Georgia in their published layouts, written by the tests.

Header grammar and names as published: JSNNNNN.hea of ecg-arrhythmia 1.0.0, A0001.hea and E00001.hea of Challenge 2020 and 2021.
"""

import struct
from pathlib import Path

import numpy as np
from scipy.io import savemat

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def samples_of(seed: int, num: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 900, (12, num)).astype("<i2")


def write_mat(path: Path, samples: np.ndarray) -> None:
    """MATLAB level 4: type 30 is a little-endian matrix of int16; its name takes 4 bytes, so that the samples begin at 24."""
    head = struct.pack("<5i", 30, *samples.shape, 0, 4) + b"val\0"
    path.write_bytes(head + samples.T.tobytes())


def write_record(
    folder: Path,
    name: str,
    *,
    dx: str | None = "426783006",
    age: str = "60",
    sex: str = "Male",
    seed: int | None = None,
    num: int = 5000,
    first: str = "",
    date: str = "",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    samples = samples_of(int("".join(c for c in name if c.isdigit())) if seed is None else seed, num)
    write_mat(folder / f"{name}.mat", samples)
    sums = [(int(total) + 32768) % 65536 - 32768 for total in samples.sum(axis=1, dtype=np.int64)]
    lines = [f"{first or name} 12 500 {num}{date}"]
    lines += [f"{name}.mat 16+24 1000/mV 16 0 {samples[i, 0]} {sums[i]} 0 {lead}" for i, lead in enumerate(LEADS)]
    lines += [
        f"#Age: {age}",
        f"#Sex: {sex}",
        *([] if dx is None else [f"#Dx: {dx}"]),
        "#Rx: Unknown",
        "#Hx: Unknown",
        "#Sx: Unknown",
    ]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    return folder / f"{name}.hea"


NAMES = """Acronym Name,Full Name,Snomed_CT
1AVB,1 degree atrioventricular block,270492004
LBBB,left bundle branch block,164909002
LBBBB,left back bundle branch block,164909002
RBBB,right bundle branch block,59118001
SB,Sinus Bradycardia,426177001
SR,Sinus Rhythm,426783006
AFIB,Atrial Fibrillation,164889003
AF,Atrial Flutter,164890007
LVH,left ventricle hypertrophy,164873001
"""


def write_chapman(root: Path) -> Path:
    one, two = root / "WFDBRecords" / "01" / "010", root / "WFDBRecords" / "23" / "236"
    write_record(one, "JS00001", dx="164889003,59118001,164934002", age="85")
    write_record(one, "JS00002", dx="426177001,164873001", age="59", sex="Female")
    write_record(one, "JS00004", dx="164890007,99999999999", age="NaN", sex="Unknown")
    write_record(one, "JS00005", dx="", age="66")
    write_record(one, "JS00006", dx="164909002", age="200")
    fused = write_record(two, "JS23074", dx="426783006", first="S23074", age="40")
    fused.write_text(fused.read_text().replace("S23074 12 500 5000\n", "S23074 12 500 5000 "))
    write_record(two, "JS23075", dx="10370003,426177001", age="41")
    write_record(two, "JS23076", dx="426177001", age="42", seed=2, sex="Female")  # the signals of JS00002
    lost = write_record(root / "WFDBRecords" / "01" / "019", "JS01052", dx="426783006")
    lines = lost.read_text().splitlines(keepends=True)
    lost.write_text("JS01052 12 500 500000/mV 16 0 15 31255 0 I\n" + "".join(lines[2:]))
    (root / "ConditionNames_SNOMED-CT.csv").write_text(NAMES)
    (root / "RECORDS").write_text("WFDBRecords/01/010/\nWFDBRecords/23/236/\n")
    (one / "RECORDS").write_text("JS00001\nJS00002\n")
    return root


def write_cpsc(root: Path, folder: str = "Training_WFDB") -> Path:
    date = " 05-Feb-2020 11:39:16"
    write_record(root / folder, "A0001", dx="59118001", age="74", num=7500, date=date)
    write_record(root / folder, "A0002", dx="426783006", age="49", sex="Female", date=date)
    write_record(root / folder, "A0003", dx="164889003,59118001", age="-1", date=date)
    write_record(root / folder, "A0004", dx="164884008,429622005,164931005", age="", date=date)
    return root


REFERENCE = """Recording,First_label,Second_label,Third_label
A0001,5,,
A0002,1,,
A0003,5,2,
A0004,8,7,9
"""


def write_cpsc_original(root: Path, reference: str = REFERENCE) -> Path:
    for number in range(1, 5):
        folder = root / ("TrainingSet1" if number < 3 else "TrainingSet3")
        folder.mkdir(parents=True, exist_ok=True)
        data = samples_of(number, 3000) / 1000
        savemat(folder / f"A{number:04d}.mat", {"ECG": {"sex": "Male", "age": 50 + number, "data": data}})
    (root / "TrainingSet3" / "REFERENCE.csv").write_text(reference)
    return root


def write_georgia(root: Path) -> Path:
    training = root / "training"
    write_record(training / "georgia" / "g1", "E00001", dx="426783006", age="53", sex="Female", date=" 05-May-2020 14:50:55")
    write_record(training / "georgia" / "g1", "E00015", dx="251146004,284470004,284470004", age="NaN", num=2500)
    write_record(training / "georgia" / "g2", "E01000", dx="63593006,164934002", age="71", first="E01000.mat")
    write_record(training / "georgia" / "g11", "E10344", dx="59118001,164873001", age="66")
    write_record(training / "cpsc_2018" / "g1", "A0001", dx="59118001")
    write_record(training / "ptb-xl" / "g1", "HR00001", dx="426783006")
    return root
