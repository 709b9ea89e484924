"""EchoNet-LVH: PLAX videos with caliper measurements of the left ventricle; echo alone, no ECG.

Needs `MeasurementsList.csv` (an unnamed index column, HashedFileName, Calc, CalcValue in cm, Frame, X1, X2, Y1, Y2, Frames,
FPS, Width, Height, split) and the videos of the folders Batch1 to Batch4, `<HashedFileName>.avi`. There is a row for each
caliper, so several rows a video.

Splits: the column split (train, val, test). Leakage: the set has no patient ids. Every file is a subject here, so whether a
patient stands in two splits cannot be told from these files; a video in two splits is refused.

Labels, one a video, in mm (CalcValue times 10): `ivsd_mm`, `lvpwd_mm`, `lvedd_mm` (LVIDd), each the mean of the video's
calipers of that name (most have one; public code takes the first in the file); `wall_mm` is the larger of `ivsd_mm` and
`lvpwd_mm`, given only where both were measured. Where the median of LVIDd is no diameter in cm, the root is refused.

Licence and access: Stanford AIMI research use agreement, non-commercial, after registration; may not be passed on.

Never run on the real files, only on a tree in their published layout, which is known from public code that reads them
(datasets.md section 7). UNVERIFIED: the number of videos (about 12,000), and that CalcValue is in cm (used so by public code
for the mass of the ventricle).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ecgecho.datasets import _echonet
from ecgecho.datasets._indexing import Indexed, Reading, Spec, Tables
from ecgecho.datasets._tables import label_rows, require

DATASET = "echonet_lvh"
MM_PER_CM = 10.0
WALL_CM = (0.2, 5.0)
LVIDD_CM = (1.0, 12.0)
CALIPERS = {"IVSd": ("ivsd_mm", WALL_CM), "LVPWd": ("lvpwd_mm", WALL_CM), "LVIDd": ("lvedd_mm", LVIDD_CM)}
BATCHES = ("Batch1", "Batch2", "Batch3", "Batch4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of `ecgecho index echonet-lvh`."""

    scan_headers: bool = False
    """Open every video and hold its frame count against the table's; without, the table is believed."""


def build(config: Config) -> Indexed:
    """The dataset."""
    return Indexed(spec=SPEC, config=config)


def read(reading: Reading) -> Tables:
    """See the module's docstring."""
    rows = reading.table(
        "calipers", ("HashedFileName", "Calc", "CalcValue", "split"), ("Frame", "X1", "Y1", "X2", "Y2", "Frames")
    )
    rows = require(rows, ("HashedFileName", "Calc"), reading.parts["calipers"])
    rows = rows.set_column(0, "HashedFileName", _echonet.stems(rows["HashedFileName"]))
    whole = rows.num_rows
    rows = rows.group_by(rows.column_names, use_threads=False).aggregate([])
    reading.defect("calipers", "row_twice", "the same caliper; kept once", whole - rows.num_rows)
    rows = rows.append_column("split word", _echonet.splits_of(reading, "calipers", "split", rows["split"]))
    rows = rows.append_column("value", reading.numbers("calipers", "CalcValue", rows["CalcValue"]))
    frames = reading.within("calipers", "Frames", reading.numbers("calipers", "Frames", rows["Frames"]), 1, 1e5)
    rows = rows.append_column("num_frames", pc.round(frames).cast(pa.int32()))
    videos = rows.group_by("HashedFileName", use_threads=False).aggregate([("num_frames", "max")])
    videos = videos.append_column("path", _echonet.paths_of(reading, "calipers", videos["HashedFileName"]))
    videos = videos.filter(pc.is_valid(videos["path"]))
    name = videos["HashedFileName"]
    rows = rows.filter(pc.is_in(rows["HashedFileName"], value_set=name.combine_chunks()))
    clips = pa.table(
        {
            "clip_id": name,
            "study_id": name,
            "subject_id": name,
            "path": videos["path"],
            "num_frames": videos["num_frames_max"],
            "view": pa.array(["PLAX"] * len(name), pa.string()),
        }
    )
    return Tables(
        clips=_echonet.with_headers(reading, clips, reading.config.scan_headers),
        labels=_labels(reading, rows, name),
        official=pa.table({"subject_id": rows["HashedFileName"], "split": rows["split word"]}),
    )


def _labels(reading: Reading, rows: pa.Table, name: pa.ChunkedArray) -> list[pa.Table]:
    source = reading.parts["calipers"].name
    known = {calc.lower(): calc for calc in CALIPERS}
    others = rows.filter(pc.invert(pc.is_in(pc.utf8_lower(rows["Calc"]), value_set=pa.array(list(known)))))
    for entry in pc.value_counts(others["Calc"]).to_pylist()[:20]:
        reading.defect("calipers", "not_used", f"Calc {entry['values'][:20]}", entry["counts"])
    values: dict[str, pa.Array] = {}
    for lower, calc in known.items():
        label, (low, high) = CALIPERS[calc]
        here = rows.filter(pc.equal(pc.utf8_lower(rows["Calc"]), lower))
        if calc == "LVIDd":
            _check_unit(reading, here["value"])
        here = here.set_column(
            here.column_names.index("value"), "value", reading.within("calipers", f"{calc} (cm)", here["value"], low, high)
        )
        here = here.filter(pc.is_valid(here["value"]))
        means = here.group_by("HashedFileName").aggregate([("value", "mean"), ("value", "count")])
        several = pc.sum(pc.greater(means["value_count"], 1)).as_py() or 0
        reading.defect("calipers", "several_calipers", f"{calc}: their mean is taken", several)
        place = pc.index_in(name.combine_chunks(), value_set=means["HashedFileName"].combine_chunks())
        values[label] = pc.round(pc.multiply(means["value_mean"].combine_chunks().take(place), MM_PER_CM), 6)
    walls = pc.max_element_wise(values["ivsd_mm"], values["lvpwd_mm"], skip_nulls=False)
    one = pc.sum(pc.xor(pc.is_null(values["ivsd_mm"]), pc.is_null(values["lvpwd_mm"]))).as_py() or 0
    reading.defect("calipers", "one_wall", "of IVSd and LVPWd only one is measured; no wall_mm", one)
    told = {label: f"mean of the calipers {calc}, cm to mm" for calc, (label, _) in CALIPERS.items()}
    return [
        label_rows(label, array, subject_id=name, study_id=name, unit="mm", source=source, definition=definition)
        for label, array, definition in (
            *((label, values[label], told[label]) for label in values),
            ("wall_mm", walls, "the larger of IVSd and LVPWd where both are measured, cm to mm"),
        )
    ]


def _check_unit(reading: Reading, values: pa.ChunkedArray) -> None:
    """Refuse a table that is not in cm."""
    median = pc.approximate_median(values).as_py()
    if median is not None and not LVIDD_CM[0] <= median <= LVIDD_CM[1]:
        raise reading.refuse(
            f"{reading.parts['calipers'].name}: the median of LVIDd is {median:g}; that is no diameter in cm. "
            "This version has other units than the one this module knows."
        )


def _listed(reading: Reading) -> Iterable[str]:
    return reading.walk("calipers", (_echonet.SUFFIX,))


SPEC = Spec(
    name=DATASET,
    version=1,
    parts={"calipers": ("MeasurementsList.csv",), **{batch: (f"{batch}/",) for batch in BATCHES}},
    needs=("calipers",),
    read=read,
    meaning={batch: f"no videos of {batch}" for batch in BATCHES},
    listed=_listed,
)
