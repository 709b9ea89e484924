"""EchoNet-Dynamic: A4C videos of adults with ejection fraction and volumes; echo alone, no ECG.

Needs `FileList.csv` (FileName without ending, EF, ESV, EDV, FrameHeight, FrameWidth, FPS, NumberOfFrames, Split) and the
videos, as unpacked: `Videos/*.avi`, 112 x 112. `VolumeTracings.csv` is looked at for what it lacks; its polygons are not read.

Splits: the table's TRAIN, VAL and TEST, as all of its literature uses them (datasets.md section 7: 7,465 / 1,288 / 1,277,
UNVERIFIED). Leakage: the set has no patient ids. Here every file is a subject, so a patient with two videos may stand in two
splits and nobody can tell; the authors say that they split by patient (UNVERIFIED).

Labels, one a video: `lvef` (%, column EF), `esv_ml`, `edv_ml` (mL, columns ESV and EDV). A row whose EF is not
100 (EDV - ESV) / EDV within EF_TOLERANCE is counted and kept: the table does not say which of the three is wrong.

Licence and access: Stanford AIMI research use agreement, non-commercial, after registration; may not be passed on.

Never run on the real files, only on a tree in their published layout. Sources: the header of VolumeTracings.csv is asserted by
the authors' code (echonet/dynamic), which also reads FileList.csv by these names; a public row (EF 78.498, ESV 14.881,
EDV 69.211) fits the formula.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgecho.datasets import _echonet
from ecgecho.datasets._indexing import Indexed, Reading, Spec, Tables
from ecgecho.datasets._tables import label_rows

DATASET = "echonet_dynamic"
EF_TOLERANCE = 1.0  # points of EF: far more than rounding, far less than a swap of columns makes
VOLUME_ML = (1.0, 1000.0)  # no ventricle holds less or more
TRACED_FRAMES = 2  # end of diastole and of systole


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of `ecgecho index echonet-dynamic`."""

    scan_headers: bool = False
    """Open every video and hold its frame count against the table's; without, the table is believed."""


def build(config: Config) -> Indexed:
    """The dataset."""
    return Indexed(spec=SPEC, config=config)


def read(reading: Reading) -> Tables:
    """See the module's docstring."""
    rows = reading.table("list", ("FileName", "EF", "ESV", "EDV", "Split"), ("NumberOfFrames",))
    rows = rows.set_column(0, "FileName", _echonet.stems(rows["FileName"]))
    rows = reading.once("list", rows, "FileName")
    splits = _echonet.splits_of(reading, "list", "Split", rows["Split"])
    rows = rows.append_column("split", splits).append_column("path", _echonet.paths_of(reading, "videos", rows["FileName"]))
    _tracings(reading, rows["FileName"])
    rows = rows.filter(pc.is_valid(rows["path"]))
    name = rows["FileName"]
    frames = reading.within("list", "NumberOfFrames", reading.numbers("list", "NumberOfFrames", rows["NumberOfFrames"]), 1, 1e5)
    clips = pa.table(
        {
            "clip_id": name,
            "study_id": name,
            "subject_id": name,
            "path": rows["path"],
            "num_frames": pc.round(frames).cast(pa.int32()),
            "view": pa.array(["A4C"] * len(name), pa.string()),
        }
    )
    ef = reading.within("list", "EF", reading.numbers("list", "EF", rows["EF"]), 0, 100)
    esv, edv = (
        reading.within("list", column, reading.numbers("list", column, rows[column]), *VOLUME_ML) for column in ("ESV", "EDV")
    )
    esv, edv = _plausible(reading, ef, esv, edv)
    source = reading.parts["list"].name
    return Tables(
        clips=_echonet.with_headers(reading, clips, reading.config.scan_headers),
        labels=[
            label_rows(label, values, subject_id=name, study_id=name, unit=unit, source=source, definition=definition)
            for label, values, unit, definition in (
                ("lvef", ef, "%", "column EF"),
                ("esv_ml", esv, "mL", "column ESV"),
                ("edv_ml", edv, "mL", "column EDV"),
            )
        ],
        official=pa.table({"subject_id": name, "split": rows["split"]}),
    )


def _plausible(
    reading: Reading, ef: pa.ChunkedArray, esv: pa.ChunkedArray, edv: pa.ChunkedArray
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """The volumes but those of a ventricle that grows when it contracts; what EF says else is counted."""
    reversed_ = pc.fill_null(pc.greater(esv, edv), False)
    reading.defect("list", "esv_above_edv", "volumes left out", pc.sum(reversed_).as_py() or 0)
    nothing = pa.scalar(None, pa.float64())
    esv, edv = pc.if_else(reversed_, nothing, esv), pc.if_else(reversed_, nothing, edv)
    expected = pc.multiply(pc.divide(pc.subtract(edv, esv), edv), 100.0)
    off = pc.fill_null(pc.greater(pc.abs(pc.subtract(ef, expected)), EF_TOLERANCE), False)
    detail = f"EF is more than {EF_TOLERANCE:g} points from 100 (EDV - ESV) / EDV; kept"
    reading.defect("list", "ef_volumes_disagree", detail, pc.sum(off).as_py() or 0)
    return esv, edv


def _tracings(reading: Reading, names: pa.ChunkedArray) -> None:
    """Count the videos without tracings, with another number of traced frames, and the tracings of no listed video."""
    if "tracings" not in reading.parts:
        return
    traced = reading.table("tracings", ("FileName", "X1", "Y1", "X2", "Y2", "Frame")).select(["FileName", "Frame"])
    frames = traced.group_by(["FileName", "Frame"]).aggregate([])
    files, number = np.unique(np.array(_echonet.stems(frames["FileName"]).to_pylist(), str), return_counts=True)
    listed = np.array(names.to_pylist(), str)
    reading.defect("tracings", "not_traced", "a listed video without tracings", len(np.setdiff1d(listed, files)))
    reading.defect("tracings", "not_listed", "tracings of a video that is not listed", len(np.setdiff1d(files, listed)))
    reading.defect("tracings", "traced_frames", f"not {TRACED_FRAMES} traced frames", int((number != TRACED_FRAMES).sum()))


def _listed(reading: Reading) -> Iterable[str]:
    return reading.walk("videos", (_echonet.SUFFIX,))


SPEC = Spec(
    name=DATASET,
    version=1,
    parts={"list": ("FileList.csv",), "videos": ("Videos/",), "tracings": ("VolumeTracings.csv",)},
    needs=("list", "videos"),
    read=read,
    meaning={"tracings": "it is not known which videos are traced (VolumeTracings.csv)"},
    listed=_listed,
)
