"""EchoNext: 100,000 12-lead ECGs of 36,286 patients with what an echo found, z-scored at 250 Hz (PhysioNet 1.0.0 to 1.1.1).

Needs on disk: echonext_metadata_100k.csv (also EchoNext_metadata_100k.csv) and
EchoNext_{train,val,test,no_split}_waveforms.npy, each (N, 1, 2500, 12). Row i of an array is the i-th row of the table with
that `split`; an array with another N is refused. The ECGs of an array that is not there are left out. The tabular features are
not read: the README gives their columns in a wrong order (age is the second), and the table has the same values.

Signals have no unit: a median filter, a clip at the 0.1 and 99.9 percentiles and a z-score over the dataset, whose statistics
were not released, cannot be undone. The order of the leads is stated nowhere; I to V6 is INFERRED from the limb leads
(Einthoven, Goldberger). The index tries that again on a sample of the arrays, and refuses them where the limb leads are in
another order; of V1 to V6 no law tells the order. Four train records have a flat lead; only reading them shows which
(`--waveforms`).

Splits are the publisher's. `val` and `test` hold the last ECG of a patient, `no_split` earlier ECGs of those same patients: to
train on them leaks, and to evaluate on them weighs some patients more than the published numbers do. A subject stands in one
split, so they are left out, or (`no_split=none`) stand under a second id, `<patient_key>.earlier`, in the split `none`: such a
catalog can be cached and read, but `train` refuses it.

Labels. By the README flags are given for all ECGs before an echo that found no disease, values only for ECGs within a year
before it. A flag is 0 below its threshold and where nothing was measured (tr_max: 54,996 of 100,000): a flag is a label here
only where the value beside it is there and agrees. "presumed none" is what the parser of the reports presumed; it counts as not
measured. The composite `echonext.shd` has no value of its own and is taken as it stands; its definition tells the ECGs apart
that have no value. There are no dates, so every label names its ECG. The time from ECG to echo (up to a year) is not in the
table.

Access: PhysioNet Restricted Health Data License 1.5.0: nothing is shared, derived ids included, so no catalog of it either.
Source: the release's README; shared/specs/datasets.md section 6. Nothing here was ever run on the real files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgecho.datasets import _columns
from ecgecho.datasets._indexing import Indexed, Reading, Spec, Tables
from ecgecho.datasets._tables import constant, label_rows, require
from ecgecho.io.files import read_bytes, size_of
from ecgecho.types import STANDARD_LEADS, ItemError, Json

DATASET = "echonext"
FS_HZ = 250.0
SAMPLES, LEADS = 2500, 12
SAMPLED = 32
"""ECGs of an array whose limb leads are looked at."""
FEWEST = 16
"""Fewer in all arrays together are too few to judge."""
DISAGREES = 0.7
"""Of the limb leads' root mean square: what an identity may be off by. ECGBench's card has 0.14 to 0.21 for this order and more
than 1.1 for wrong ones. Chosen."""
MOST_BYTES = 1 << 42
MOST = 1e6
"""Standard deviations; what is larger is no signal."""
SPLITS = ("train", "val", "test", "no_split")
SEXES = {"male": "male", "female": "female"}

VALVE = ("none", "mild", "moderate", "severe")
GRADES: dict[str, tuple[str, ...]] = {
    "aortic_stenosis_value": VALVE,
    "aortic_regurgitation_value": VALVE,
    "mitral_regurgitation_value": VALVE,
    "tricuspid_regurgitation_value": VALVE,
    "pulmonary_regurgitation_value": VALVE,
    "rv_systolic_function_value": ("normal", "mildly_reduced", "moderately_reduced", "severely_reduced"),
    "pericardial_effusion_value": ("none", "trace", "small", "moderate", "large"),
}
"""A word's place is its grade."""
PRESUMED = "presumed none"
GRADED_FLAGS = {
    "aortic_stenosis_moderate_or_greater_flag": ("aortic_stenosis_value", 2),
    "aortic_regurgitation_moderate_or_greater_flag": ("aortic_regurgitation_value", 2),
    "mitral_regurgitation_moderate_or_greater_flag": ("mitral_regurgitation_value", 2),
    "tricuspid_regurgitation_moderate_or_greater_flag": ("tricuspid_regurgitation_value", 2),
    "pulmonary_regurgitation_moderate_or_greater_flag": ("pulmonary_regurgitation_value", 2),
    "rv_systolic_dysfunction_moderate_or_greater_flag": ("rv_systolic_function_value", 2),
    "pericardial_effusion_moderate_large_flag": ("pericardial_effusion_value", 3),
}
WALLS = ("ivs_measurement", "lvpw_measurement")
WALL_FLAG = "lvwt_gte_13_flag"
MEASURED = {
    "lvef_value": (5, 95),
    "ivs_measurement": (0.2, 5),
    "lvpw_measurement": (0.2, 5),
    "pasp_value": (1, 200),
    "tr_max_velocity_value": (0.1, 8),
}
"""Plausible values, in %, cm, cm, mmHg, m/s (units: README): what lies outside was written in another unit, or is none."""
MEASURED_FLAGS = {
    "lvef_lte_45_flag": "lvef_value",
    "pasp_gte_45_flag": "pasp_value",
    "tr_max_gte_32_flag": "tr_max_velocity_value",
}
COMPOSITE = "shd_moderate_or_greater_flag"
OF_THE_ECG = {
    "age_at_ecg": ("age_years", "year", "age at the ECG, 90 for all who are older"),
    "ventricular_rate": ("ventricular_rate", "1/min", "by the cart, from the ECG"),
    "atrial_rate": ("atrial_rate", "1/min", "by the cart, from the ECG"),
    "pr_interval": ("pr_interval", "ms", "by the cart, from the ECG"),
    "qrs_duration": ("qrs_duration", "ms", "by the cart, from the ECG"),
    "qt_corrected": ("qt_corrected", "ms", "by the cart, from the ECG"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of `ecgecho index echonext`."""

    no_split: Literal["left_out", "none"] = "left_out"
    """Earlier ECGs of the patients of val and test: left out, or under an id of their own in the split `none`."""

    def __post_init__(self) -> None:
        if self.no_split not in ("left_out", "none"):
            raise ValueError(f"no_split is {self.no_split!r}; it must be left_out or none.")


def build(config: Config) -> Indexed:
    """The dataset."""
    return Indexed(spec=SPEC, config=config)


def read(reading: Reading) -> Tables:
    """Tables of all ECGs whose array is there."""
    rows = _rows(reading)
    sizes = _arrays(reading)
    split = rows["split"]
    for name, number in sizes.items():
        listed = int(pc.sum(pc.equal(split, name)).as_py() or 0)
        if number != listed:
            raise reading.refuse(
                f"{reading.parts[name].name} holds {number} ECGs, {reading.parts['metadata'].name} lists {listed} with split "
                f"{name}: they are of two versions, and no row would be that of its ECG. Fetch both again."
            )
    for name in SPLITS:
        if name not in sizes:
            reading.defect("ecgs", "no_waveforms", f"split {name}: left out", int(pc.sum(pc.equal(split, name)).as_py() or 0))
    rows = _kept(reading, rows.filter(pc.is_in(split, value_set=pa.array(list(sizes), pa.string()))))
    if not rows.num_rows:
        raise reading.refuse("none of EchoNext_{train,val,test}_waveforms.npy is there whole; fetch one of them.")
    number = rows.num_rows
    places = pc.index_in(rows["split"], value_set=pa.array(SPLITS))
    paths = pa.array([reading.parts[name].relative_to(reading.root).as_posix() if name in sizes else "" for name in SPLITS])
    ecgs = pa.table(
        {
            "ecg_id": rows["ecg_id"],
            "subject_id": rows["patient_key"],
            "path": pa.chunked_array([paths]).take(places),
            "row": rows["row"],
            "leads": constant(",".join(STANDARD_LEADS), number),
            "fs_hz": np.full(number, FS_HZ),
            "unit": constant("zscore", number),
        }
    )
    official = pa.table(
        {
            "subject_id": rows["patient_key"],
            "split": pc.if_else(pc.equal(rows["split"], "no_split"), "none", rows["split"]),
        }
    )
    return Tables(
        ecgs=ecgs,
        labels=_labels(reading, rows),
        people=_columns.people(reading, "metadata", rows["patient_key"], rows["sex"], SEXES),
        official=official,
    )


def look(path: str) -> Json:
    """How many ECGs an array holds, by its header, and how well the limb leads of a sample obey their identities."""
    file = Path(path)
    size = size_of(file, most=MOST_BYTES)
    with file.open("rb") as stream:
        try:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, kind = header(stream)
            start = stream.tell()
        except (ValueError, EOFError, OSError, SyntaxError) as error:
            raise ItemError("damaged_header", f"{file.name} has no readable header of an array") from error
    if fortran or len(shape) != 4 or shape[1:] != (1, SAMPLES, LEADS) or kind.kind != "f" or kind.itemsize not in (4, 8):
        raise ItemError(
            "unsupported_format", f"{file.name} is {kind} of shape {shape}, not floats of shape (N, 1, {SAMPLES}, {LEADS})"
        )
    if shape[0] < 0 or size < start + shape[0] * SAMPLES * LEADS * kind.itemsize:
        raise ItemError("truncated", f"{file.name} is shorter than its header says")
    return {"ecgs": int(shape[0]), **_limb_leads(file, start, int(shape[0]), kind)}


def _limb_leads(file: Path, start: int, number: int, kind: np.dtype[Any]) -> Json:
    """Sums of squares over a sample: of the six limb leads, and of what Einthoven's and Goldberger's identities leave."""
    total, left, read = 0.0, np.zeros(4), 0
    size = SAMPLES * LEADS * kind.itemsize
    for row in sorted({int(row) for row in np.linspace(0, number - 1, min(SAMPLED, number))}):
        # Not mapped: 17 GB of addresses are more than a worker may have.
        data = np.frombuffer(read_bytes(file, offset=start + row * size, size=size, most=MOST_BYTES), kind)
        limb = data.reshape(SAMPLES, LEADS)[:, :6].T.astype(np.float64)
        if not np.isfinite(limb).all() or np.abs(limb).max() > MOST:
            continue
        one, two, three, avr, avl, avf = limb - limb.mean(axis=1, keepdims=True)
        rest = np.stack([one + three - two, avr + (one + two) / 2, avl - (one - three) / 2, avf - (two + three) / 2])
        total, left, read = total + float(np.var(limb, axis=1).mean()), left + np.square(rest).mean(axis=1), read + 1
    return {"read": read, "limb": total, "left": left.tolist()}


def _rows(reading: Reading) -> pa.Table:
    """The metadata with the row of every ECG in the array of its split.

    Keys get the name of the dataset: in a run over several catalogs a bare number would be an ECG of PTB-XL or CODE-15% too.
    """
    columns = ("patient_key", "split", COMPOSITE, WALL_FLAG, *MEASURED_FLAGS, *GRADED_FLAGS, *MEASURED, *GRADES)
    rows = reading.table("metadata", columns, ("ecg_key", "sex", *OF_THE_ECG))
    rows = require(rows, ("patient_key", "split"), reading.parts["metadata"]).combine_chunks()
    split = pc.utf8_lower(rows["split"])
    place = pc.index_in(split, value_set=pa.array(SPLITS))
    if place.null_count:
        row = int(pc.index(pc.is_null(place), True).as_py())
        raise reading.refuse(f"split is {rows['split'][row].as_py()!r} in data row {row + 1}; it must be {', '.join(SPLITS)}.")
    code = place.to_numpy()
    count = np.zeros(len(code), np.int64)
    for number in range(len(SPLITS)):
        mine = code == number
        count[mine] = np.arange(mine.sum())
    rows = rows.set_column(rows.column_names.index("split"), "split", split).append_column("row", pa.array(count))
    if rows["ecg_key"].null_count == rows.num_rows:  # a version without keys: a row is then what names an ECG
        made = pc.binary_join_element_wise(split, pc.cast(rows["row"], pa.string()), ".")
        rows = rows.set_column(rows.column_names.index("ecg_key"), "ecg_key", made)
    rows = reading.once("metadata", rows, "ecg_key")  # a row that stands twice has another place: it is refused, not dropped
    return rows.append_column("ecg_id", pc.binary_join_element_wise(DATASET, rows["ecg_key"], "-"))


def _arrays(reading: Reading) -> dict[str, int]:
    """How many ECGs each array that can be read holds, by split."""
    paths = {name: reading.parts[name].relative_to(reading.root).as_posix() for name in SPLITS if name in reading.parts}
    seen = reading.scan("waveforms", list(paths.values()), look)
    read, limb = sum(one["read"] for one in seen.values()), sum(one["limb"] for one in seen.values())
    left = np.sum([np.zeros(4), *(one["left"] for one in seen.values())], axis=0).max()
    if read >= FEWEST and left > DISAGREES**2 * limb:
        raise reading.refuse(
            f"the limb leads of {read} ECGs do not obey Einthoven and Goldberger: the arrays' leads are not in the order "
            f"{', '.join(STANDARD_LEADS)}, or this is another version than those known here."
        )
    return {name: seen[path]["ecgs"] for name, path in paths.items() if path in seen}


def _kept(reading: Reading, rows: pa.Table) -> pa.Table:
    """Rows in the split of their subject, or under a second id."""
    earlier = pc.equal(rows["split"], "no_split")
    trained = pc.unique(rows["patient_key"].filter(pc.equal(rows["split"], "train"))).cast(pa.string())
    odd = pc.and_(earlier, pc.is_in(rows["patient_key"], value_set=trained))
    reading.defect("ecgs", "no_split_of_train", "of a patient of train, which should not be", int(pc.sum(odd).as_py() or 0))
    number = int(pc.sum(earlier).as_py() or 0)
    if reading.config.no_split == "left_out":
        reading.defect("ecgs", "no_split", "earlier ECGs of patients of val and test: left out", number)
        return rows.filter(pc.invert(earlier))
    reading.defect("ecgs", "no_split", "earlier ECGs of patients of val and test: split none, a second subject id", number)
    second = pc.binary_join_element_wise(rows["patient_key"], "earlier", ".")
    return rows.set_column(
        rows.column_names.index("patient_key"), "patient_key", pc.if_else(earlier, second, rows["patient_key"])
    )


def _labels(reading: Reading, rows: pa.Table) -> list[pa.Table]:
    ids = {"subject_id": rows["patient_key"], "ecg_id": rows["ecg_id"], "source": "metadata"}
    made: list[pa.Table] = []

    def add(name: str, value: object, unit: str | None, definition: str | pa.Array) -> None:
        made.append(label_rows(name, value, unit=unit, definition=definition, **ids))

    def checked(flag: str, positive: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """The flag where something was measured and says the same."""
        value = flags[flag]
        said = np.isfinite(value)
        differs = said & known & (value != positive)
        reading.defect("metadata", "not_measured", f"{flag}: no value beside it; left out", int((said & ~known).sum()))
        reading.defect("metadata", "flag_without_value", f"{flag}: set, no value", int((said & ~known & (value == 1)).sum()))
        reading.defect("metadata", "flag_contradicts_value", f"{flag}: left out", int(differs.sum()))
        return np.where(known & ~differs, value, np.nan)

    flags = {
        name: _numpy(_columns.yes_or_no(reading, "metadata", name, rows[name]))
        for name in (COMPOSITE, WALL_FLAG, *MEASURED_FLAGS, *GRADED_FLAGS)
    }
    values = {}
    for name, (low, high) in MEASURED.items():
        found = reading.numbers("metadata", name, rows[name])
        values[name] = _numpy(reading.within("metadata", name, found, low, high))
    grades = {name: _grades(reading, name, rows[name]) for name in GRADES}

    some = np.zeros(rows.num_rows, bool)
    for name in (*MEASURED, *GRADES):
        some |= rows[name].is_valid().to_numpy()
    words = pa.array(
        ["the dataset's composite", "the dataset's composite; no value is given with it (by the README: more than a year before)"]
    )
    add("echonext.shd", flags[COMPOSITE], None, words.take(pa.array((~some).astype(np.int32))))

    lvef = values["lvef_value"]
    add("lvef", lvef, "%", "lvef_value of the echo")
    add(
        "echonext.lvef_lte_45",
        checked("lvef_lte_45_flag", lvef <= 45, np.isfinite(lvef)),
        None,
        "flag, where lvef_value is given",
    )
    walls = np.stack([values[name] for name in WALLS])
    has = np.isfinite(walls)
    both = has[0] & has[1]
    thicker = np.where(has, walls, -np.inf).max(axis=0)
    kind = np.where(both, 0, np.where(has[0], 1, 2)).astype(np.int32)
    how = pa.array([f"max({WALLS[0]}, {WALLS[1]}), cm to mm", *(f"{name} alone, cm to mm" for name in WALLS)]).take(
        pa.array(kind)
    )
    add("wall_mm", np.where(has.any(0), np.round(10 * thicker, 6), np.nan), "mm", how)
    add("echonext.lvwt_gte_13", checked(WALL_FLAG, thicker >= 1.3, both), None, "flag, where both walls are given")
    pasp, velocity = values["pasp_value"], values["tr_max_velocity_value"]
    add("echonext.pasp_mmhg", pasp, "mmHg", "pasp_value of the echo")
    add(
        "echonext.pasp_gte_45",
        checked("pasp_gte_45_flag", pasp >= 45, np.isfinite(pasp)),
        None,
        "flag, where pasp_value is given",
    )
    add("echonext.tr_max_velocity", velocity, "m/s", "tr_max_velocity_value of the echo")
    known = np.isfinite(velocity)
    add(
        "echonext.tr_max_gte_32", checked("tr_max_gte_32_flag", velocity >= 3.2, known), None, "flag, where the velocity is given"
    )
    for name, words_of in GRADES.items():
        scale = ", ".join(f"{grade} {word}" for grade, word in enumerate(words_of))
        add(f"echonext.{name.removesuffix('_value')}", grades[name], "grade", scale)
    for flag, (name, least) in GRADED_FLAGS.items():
        value = checked(flag, grades[name] >= least, np.isfinite(grades[name]))
        add(f"echonext.{flag.removesuffix('_flag')}", value, None, f"flag, where {name} is given and not presumed")
    for column, (name, unit, how_made) in OF_THE_ECG.items():
        add(f"echonext.{name}", reading.numbers("metadata", column, rows[column]), unit, how_made)
    return made


def _grades(reading: Reading, name: str, text: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """0 and up; NaN where nothing was assessed, or only presumed."""
    word = pc.utf8_lower(text)
    found = pc.index_in(word, value_set=pa.array(GRADES[name])).cast(pa.float64())
    presumed = int(pc.sum(pc.equal(word, PRESUMED)).as_py() or 0)
    reading.defect("metadata", "presumed_none", f"{name}: presumed, not assessed; left out", presumed)
    reading.defect("metadata", "unknown_word", f"{name}: left out", found.null_count - text.null_count - presumed)
    return _numpy(found)


def _numpy(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = column.to_numpy().astype(np.float64)
    return values


SPEC = Spec(
    name=DATASET,
    version=1,
    parts={
        "metadata": ("echonext_metadata_100k.csv",),
        **{split: (f"echonext_{split}_waveforms.npy",) for split in SPLITS},
    },
    needs=("metadata",),
    meaning={split: "no ECGs of this split" for split in SPLITS},
    read=read,
)
