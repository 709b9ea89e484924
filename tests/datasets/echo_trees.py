"""Small trees of the echo sets in their published layout, written by the tests."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
from folder_tree import write_video

DYNAMIC = [
    "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split",
    "0X100009310A3BD7FC,78.49840625,14.88136764,69.21053382,112,112,50,4,VAL",
    "0X1002E8FBACD08477,59.10198799,40.38387597,98.74288406,112,112,50,4,TRAIN",
    "0X1005D03EED19C65B,62.36379848,14.26700401,37.90973427,112,112,50,4,TRAIN",
    "0X10075961BC11C88E,54.54509743,33.14308384,72.91420958,112,112,55,4,TEST",
]
DYNAMIC_TRACINGS = [
    "FileName,X1,Y1,X2,Y2,Frame",
    *(f"0X100009310A3BD7FC.avi,{51.3 + i},13.0,56.0,{66.0 + i},{frame}" for frame in (1, 3) for i in range(3)),
    *(f"0X1002E8FBACD08477.avi,{50.3 + i},14.0,57.0,{65.0 + i},{frame}" for frame in (0, 2) for i in range(3)),
    "0X1005D03EED19C65B.avi,50.0,14.0,57.0,65.0,1",
]
LVH = [
    ",HashedFileName,Calc,CalcValue,Frame,X1,X2,Y1,Y2,Frames,FPS,Width,Height,split",
    "0,0X1017398D3C3F5FE7,IVSd,0.91,2,230.0,232.0,200.0,230.0,4,50.0,1024,768,train",
    "1,0X1017398D3C3F5FE7,LVIDd,4.86,2,232.0,240.0,230.0,370.0,4,50.0,1024,768,train",
    "2,0X1017398D3C3F5FE7,LVPWd,1.13,2,240.0,242.0,370.0,402.0,4,50.0,1024,768,train",
    "3,0X1017398D3C3F5FE7,LVIDs,3.20,4,233.0,239.0,240.0,350.0,4,50.0,1024,768,train",
    "4,0X10DA9F7AB8A2E0F2,IVSd,1.60,1,230.0,232.0,200.0,230.0,4,30.0,800,600,val",
    "5,0X10DA9F7AB8A2E0F2,IVSd,1.70,3,230.0,232.0,200.0,231.0,4,30.0,800,600,val",
    "6,0X10DA9F7AB8A2E0F2,LVPWd,1.20,3,230.0,232.0,300.0,331.0,4,30.0,800,600,val",
    "7,0X10FE1B0A7C9E44D1,LVIDd,5.60,2,232.0,240.0,230.0,370.0,4,30.0,800,600,test",
    "8,0X10FE1B0A7C9E44D1,IVSd,1.00,2,232.0,240.0,230.0,250.0,4,30.0,800,600,test",
]
PATIENTS = ("CR32a7555", "CR32a7558", "CR32a8e51", "CR32a944d")


def fold_of(patient: str) -> int:
    return int(hashlib.sha1(patient.encode()).hexdigest(), 16) % 10


def pediatric_row(patient: str, instance: int, *, study: str = "CR32a7582", ef: str = "61.2", sex: str = "F") -> str:
    return f"{patient}-{study}-{instance:06d}.avi,{ef},{sex},12,44.1,152.0,{fold_of(patient)}"


PEDIATRIC = {
    "A4C": ["FileName,EF,Sex,Age,Weight,Height,Split", *(pediatric_row(patient, 39) for patient in PATIENTS)],
    "PSAX": [
        "FileName,EF,Sex,Age,Weight,Height,Split",
        pediatric_row(PATIENTS[0], 41),
        pediatric_row(PATIENTS[0], 41, study="CR32a7600", ef="48"),
        pediatric_row(PATIENTS[1], 7, sex="M"),
    ],
}
NEW_CFG = {"ED": 1, "ES": 4, "NbFrame": 4, "Sex": "F", "Age": 56, "ImageQuality": "Good", "EF": 54, "FrameRate": 48.4}
OLD_CFG = {
    "ED": 1,
    "ES": 4,
    "NbFrame": 4,
    "Sex": "M",
    "Age": 62,
    "ImageQuality": "Medium",
    "LVedv": 94.3,
    "LVesv": 46.1,
    "LVef": 51.1,
}


def write_lines(path: Path, lines: list[str], end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(end.join(lines) + end)
    return path


def write_dynamic(root: Path) -> Path:
    write_lines(root / "EchoNet-Dynamic" / "FileList.csv", DYNAMIC)
    write_lines(root / "EchoNet-Dynamic" / "VolumeTracings.csv", DYNAMIC_TRACINGS)
    for line in DYNAMIC[1:]:
        write_video(root / "EchoNet-Dynamic" / "Videos" / f"{line.split(',')[0]}.avi")
    return root


def write_lvh(root: Path) -> Path:
    write_lines(root / "MeasurementsList.csv", LVH)
    names = sorted({line.split(",")[1] for line in LVH[1:]})
    for number in range(4):
        (root / f"Batch{number + 1}").mkdir(parents=True)
    for number, name in enumerate(names):
        write_video(root / f"Batch{number + 1}" / f"{name}.avi")
    return root


def write_pediatric(root: Path) -> Path:
    top = root / "pediatric_echo_avi" / "pediatric_echo_avi"
    for view, lines in PEDIATRIC.items():
        write_lines(top / view / "FileList.csv", lines)
        names = [line.split(",")[0] for line in lines[1:]]
        traced = [f"{name},{50 + i},{60 + i},{frame}" for name in names for frame in (12, "No Systolic") for i in range(2)]
        write_lines(top / view / "VolumeTracings.csv", ["FileName,X,Y,Frame", *traced])
        for name in names:
            write_video(top / view / "Videos" / name)
    return root


def write_nifti(path: Path, frames: int = 4, rows: int = 24, columns: int = 20) -> Path:
    """A NIfTI-1 file of bytes (simulated), (columns, rows, frames), 0.154 mm a pixel, compressed."""
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, columns, rows, frames, 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, 2, 8)
    struct.pack_into("<8f", head, 76, 1.0, 0.154, 0.154, 1.0, 0, 0, 0, 0)
    struct.pack_into("<3f", head, 108, 352.0, 1.0, 0.0)
    head[123] = 2  # mm
    head[344:348] = b"n+1\0"
    pixels = np.random.default_rng(0).integers(0, 255, frames * rows * columns, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(bytes(head) + pixels.tobytes()))
    return path


def write_patient(folder: Path, number: int, cfg: dict = NEW_CFG, **other: object) -> Path:
    name = f"patient{number:04d}"
    for view in ("2CH", "4CH"):
        told = {**cfg, **other}
        write_lines(folder / name / f"Info_{view}.cfg", [f"{key}: {value}" for key, value in told.items()])
        for what in ("ED", "ES", "ED_gt", "ES_gt"):
            write_nifti(folder / name / f"{name}_{view}_{what}.nii.gz", frames=1)
        for what in ("half_sequence", "half_sequence_gt"):
            write_nifti(folder / name / f"{name}_{view}_{what}.nii.gz")
    return folder / name


def write_camus(root: Path) -> Path:
    for number, more in (
        (1, {}),
        (2, {"EF": 38, "ImageQuality": "Poor"}),
        (401, {"Sex": "M"}),
        (451, {"ImageQuality": "Medium"}),
        (452, {}),
    ):
        write_patient(root / "CAMUS_public" / "database_nifti", number, NEW_CFG, **more)
    split = root / "CAMUS_public" / "database_split"
    write_lines(split / "subgroup_training.txt", ["patient0001", "patient0451"])
    write_lines(split / "subgroup_validation.txt", ["patient0401"], end="\r\n")
    write_lines(split / "subgroup_testing.txt", ["patient0002"])
    return root
