"""Tables of a private hospital, with marked raw ids, beside the files that they list. Written by the tests."""

from pathlib import Path

from echo_trees import write_lines
from folder_tree import MARK, write_dicom, write_ecg, write_video

A, B, C = (f"{MARK}-{number}" for number in ("P1", "0017", "0018"))
TABLES = {
    "subjects": ["subject_id,split,sex,birth_year", f"{A},train,F,1951", f"{B},validation,male,1947", f"{C},test,?,1902"],
    "clips": [
        "subject_id,study_id,path,time,kind,num_frames,view",
        f"{A},{MARK}-S1,echo/a.dcm,2020-01-02 10:15:00,b_mode,3,A4C",
        f"{A},{MARK}-S1,echo/b.avi,2020-01-02 10:20,,,",
        f"{B},{MARK}-S2,echo/c.avi,2020-03-02T09:00:00,,,",
    ],
    "ecgs": [
        "subject_id,ecg_id,path,time",
        f"{A},{MARK}-E1,ecg/one.hea,2020-01-01 10:00:00",
        f"{B},{MARK}-E2,ecg/two,2020-03-01 08:00:00",
        f"{C},{MARK}-E3,ecg/three.hea,yesterday",
    ],
    "texts": ["subject_id,ecg_id,text", f'{A},{MARK}-E1,"sinus rhythm,\nnormal"'],
    "labels": [
        "subject_id,study_id,name,value,unit,time",
        f"{A},{MARK}-S1,lvef,35.5,%,2020-01-02",
        f"{B},{MARK}-S2,lvef,620,,",
        f"{B},{MARK}-S2,wall_mm,17,mm,",
    ],
}


def write_tables(root: Path, tables: dict[str, list[str]] = TABLES) -> Path:
    for name, lines in tables.items():
        write_lines(root / f"{name}.csv", lines)
    write_dicom(root / "echo" / "a.dcm", patient=A)
    for name in ("b", "c"):
        write_video(root / "echo" / f"{name}.avi")
    for name in ("one", "two", "three"):
        write_ecg(root / "ecg" / f"{name}.hea")
    return root
