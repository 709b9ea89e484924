"""What belongs together: splits by subject, the study and the text of every ECG, the label nearest to an ECG.

The split of a subject is a hash of (overlap family, subject id) with a constant of this file, never with a key: the same
subject falls into the same split in every catalog of the family. A dataset's official split wins; two splits for one
subject are an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgecho.catalog import SCHEMAS, SPLITS, Catalog, IndexOptions, cine_rows, nearest, subject_tag
from ecgecho.types import I64, Task, UsageError, UserError

F64 = npt.NDArray[np.float64]

SPLIT_VERSION = 1
"""Recorded in every catalog; another constant or other shares need another version."""
SPLIT_CONSTANT = b"ecgecho subject split, version 1"
SPLIT_SHARES = (("train", 0.7), ("val", 0.1), ("test", 0.2))

WINDOW_DAYS = 30.0
"""An ECG and an echo at most this far apart show the same heart (MIMIC's clocks disagree by hours, so never below a day)."""
MIN_WINDOW_DAYS = 1.0

# Which datasets hold the same people under the same ids (datasets.md section 0). A module whose ids differ from those of
# its family must translate them before it asks for a split. What is not here is a family of its own.
FAMILIES: dict[str, str] = {
    "mimic_iv": "mimic-iv",  # ECG, ECHO, Note, hosp share subject_id
    "mimic_iv_ecg_ext_icd": "mimic-iv",  # the same records
    "symile_mimic": "mimic-iv",  # a subset
    "cinc2020": "cinc",  # contained in CinC-2021
    "cinc2021": "cinc",
    "ptb_xl": "cinc",  # HR00001.. = ecg_id
    "cpsc2018": "cinc",  # byte-identical
    "chapman": "cinc",  # Chapman-Shaoxing-Ningbo, all of it
    "georgia": "cinc",  # exists only there
    "ptb": "cinc",
    "incart": "cinc",
}

TASKS: dict[str, Task] = {
    "lvef_lt_40": Task(name="lvef_lt_40", label="lvef", op="<", threshold=40.0, unit="%", title="LVEF < 40 %"),
    "severe_lvh": Task(
        name="severe_lvh", label="wall_mm", op=">=", threshold=16.0, unit="mm", title="severe LVH (wall >= 16 mm)"
    ),
    "dilated_lv": Task(
        name="dilated_lv", label="lvedd_mm", op=">=", threshold=56.0, unit="mm", title="dilated LV (LVEDD >= 56 mm)"
    ),
}
"""Dilation: an inner diameter at end-diastole of at least 56 mm, one cut for all (the ASE/EACVI recommendations of 2015 end
the normal range at 52 mm for women and 58 mm for men). Severe hypertrophy: the thicker of septum and inferolateral wall is at
least 16 mm (where "severely abnormal" starts for women in the same recommendations; 17 mm for men)."""


def family_of(dataset: str) -> str:
    """The overlap family of a dataset."""
    return FAMILIES.get(dataset, dataset.replace("_", "-"))


def private_family(key_id: str) -> str:
    """The family of keyed-hash ids: one a key, because ids of two keys cannot be compared."""
    return f"private:{key_id}"


def split_of(family: str, subject_id: str) -> str:
    """The split of one subject."""
    return splits_of(family, [subject_id])[0]


def splits_of(family: str, subject_ids: Sequence[str]) -> list[str]:
    """The splits of many subjects."""
    prefix = hashlib.sha256(SPLIT_CONSTANT + b"\0" + family.encode() + b"\0")
    place = np.empty(len(subject_ids), np.uint64)
    for i, subject in enumerate(subject_ids):  # a million subjects take about a second
        state = prefix.copy()
        state.update(subject.encode())
        place[i] = int.from_bytes(state.digest()[:8], "big")
    ends = np.cumsum([share for _, share in SPLIT_SHARES])[:-1] * 2.0**64
    names = [name for name, _ in SPLIT_SHARES]
    return [names[k] for k in np.searchsorted(ends.astype(np.uint64), place, side="right")]


def assign_splits(
    family: str, subject_ids: Sequence[str], official: Mapping[str, str] | Sequence[tuple[str, str]] = ()
) -> list[str]:
    """The split of each subject: the dataset's own where it has one, else the hash.

    `official` may be rows (subject, split); a subject with two different ones is an error.
    """
    own: dict[str, str] = {}
    for subject, split in official.items() if isinstance(official, Mapping) else official:
        if split not in SPLITS:
            raise UserError(f"the official split of subject {subject_tag(subject)} is {split!r}; it must be {', '.join(SPLITS)}.")
        if own.setdefault(subject, split) != split:
            raise UserError(
                f"subject {subject_tag(subject)} is in {own[subject]!r} and in {split!r}; that leaks. Mend the split file."
            )
    return [own.get(subject, split) for subject, split in zip(subject_ids, splits_of(family, subject_ids), strict=True)]


def check_together(catalogs: Sequence[Catalog]) -> list[str]:
    """What must be said when these catalogs are used together; the same subject in two splits is a UserError."""
    seen: dict[str, list[Catalog]] = {}
    for catalog in catalogs:
        seen.setdefault(catalog.family, []).append(catalog)
    for family, members in seen.items():
        for later in range(1, len(members)):
            for earlier in range(later):
                _check_same_split(members[earlier], members[later], family)
    private = [catalog for catalog in catalogs if catalog.family.startswith("private:")]
    keys = {catalog.family for catalog in private}
    if len(keys) < 2:
        return []
    names = ", ".join(str(catalog.path) for catalog in private)
    return [
        f"{names} have ids made with {len(keys)} different keys: the same person cannot be recognised in two of them, and may be "
        f"in two splits. Index them again with the same --key FILE."
    ]


def make_pairs(
    ecgs: pa.Table, clips: pa.Table, texts: pa.Table, subjects: pa.Table, options: IndexOptions = IndexOptions()
) -> pa.Table:
    """The table `pairs`: for every ECG its text and the nearest study with cines of the same subject within the window.

    One row per ECG, in the order of `ecgs`. `gap_days` is the time of the study (its first clip) minus that of the ECG, in
    days; exactly `window_days` is within; of two studies equally near, the earlier one, then the first by id. An ECG or a
    study without a time has no neighbour. Of several texts of an ECG the first in the table is taken.
    """
    window_days = max(abs(end) for end in options.window_days)
    check_window(window_days)
    studies = _studies(clips)
    found = nearest_in_time(ecgs, studies, window_days)
    texts = texts.filter(pc.is_valid(texts["ecg_id"]))
    text_row = pc.index_in(_flat(ecgs["ecg_id"]), value_set=_flat(texts["ecg_id"]))
    subject_row = pc.index_in(_flat(ecgs["subject_id"]), value_set=_flat(subjects["subject_id"]))
    return pa.table(
        {
            "ecg_id": ecgs["ecg_id"],
            "subject_id": ecgs["subject_id"],
            "study_id": _flat(studies["study_id"]).take(_or_null(found.row)),
            "text_id": _flat(texts["text_id"]).take(text_row),
            "gap_days": pa.array(found.gap_days, mask=found.row < 0),
            "split": _flat(subjects["split"]).take(subject_row),
            "weight": pa.array(np.ones(ecgs.num_rows)),
        },
        schema=SCHEMAS["pairs"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """For every query its nearest row of a table: `row` -1 and `gap_days` NaN where there is none."""

    row: I64
    gap_days: F64


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMatch:
    """For every ECG the nearest label of its subject: NaN and None where there is none."""

    values: F64
    gap_days: F64
    definitions: list[str | None]
    """How the value came about, e.g. which of LVEF's names it was read from."""


def label_values(catalog: Catalog, ecg_ids: Sequence[str], label: str, window_days: float = WINDOW_DAYS) -> F64:
    """The value of `label` nearest in time to each ECG, of the same subject and within the window; NaN where there is none."""
    return match_labels(catalog, ecg_ids, label, window_days).values


def match_labels(catalog: Catalog, ecg_ids: Sequence[str], label: str, window_days: float = WINDOW_DAYS) -> LabelMatch:
    """`label_values` with the gap and the definition of each value."""
    check_window(window_days)
    labels = catalog.labels_named(label)
    if not labels.num_rows:
        names = pc.unique(catalog.table("labels", columns=("name",))["name"].cast(pa.string())).to_pylist()
        raise UserError(f"{catalog.path} has no label {label!r}.{nearest(label, names) if names else ' It has none.'}")
    place = pc.index_in(pa.array(ecg_ids, pa.string()), value_set=_flat(catalog.ecgs["ecg_id"]))
    if place.null_count:
        unknown = ecg_ids[int(np.flatnonzero(place.is_null().to_numpy(zero_copy_only=False))[0])]
        raise UserError(f"{catalog.path} has no ECG {unknown!r}; take the catalog that the ECG store was made from.")
    return labels_of(catalog.ecgs.take(place), labels, window_days)


def labels_of(ecgs: pa.Table, labels: pa.Table, window_days: float) -> LabelMatch:
    """The label nearest in time to each ECG, of the same subject and within the window.

    A label that belongs to an ECG itself (`ecg_id`) belongs to that ECG alone, whatever its time, and goes before all others.
    """
    own = pc.is_valid(labels["ecg_id"])
    of_ecg, of_subject = labels.filter(own), labels.filter(pc.invert(own))
    near = nearest_in_time(ecgs, of_subject, window_days)
    direct = pc.index_in(_flat(ecgs["ecg_id"]), value_set=_flat(of_ecg["ecg_id"]))

    def chosen(column: str, kind: pa.DataType) -> pa.Array:
        one, two = (_flat(table[column]).cast(kind) for table in (of_ecg, of_subject))
        return pc.coalesce(one.take(direct), two.take(_or_null(near.row)))

    return LabelMatch(
        values=chosen("value", pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64),
        gap_days=np.where(direct.is_valid().to_numpy(zero_copy_only=False), 0.0, near.gap_days),
        definitions=chosen("definition", pa.string()).to_pylist(),
    )


def nearest_in_time(queries: pa.Table, candidates: pa.Table, window_days: float) -> Nearest:
    """For every query row the candidate row of the same subject nearest in time, at most `window_days` away.

    Both tables have `subject_id` and `time`. Of two equally near the earlier; of two at the same time the first row.
    Subject and time become one sortable integer, so that two binary searches answer all queries at once.
    """
    people = pc.unique(pa.chunked_array([*queries["subject_id"].chunks, *candidates["subject_id"].chunks], pa.string()))
    q_who, c_who = (
        pc.index_in(_flat(t["subject_id"]), value_set=people).to_numpy(zero_copy_only=False) for t in (queries, candidates)
    )
    (q_time, q_known), (c_time, c_known) = _microseconds(queries["time"]), _microseconds(candidates["time"])
    rows = np.flatnonzero(c_known)
    none = np.full(queries.num_rows, -1, np.int64)
    if not len(rows) or not queries.num_rows:
        return Nearest(row=none, gap_days=np.full(queries.num_rows, np.nan))
    moments = np.unique(np.concatenate([c_time[rows], q_time]))
    step = len(moments)
    c_key = c_who[rows].astype(np.int64) * step + np.searchsorted(moments, c_time[rows])
    order = np.argsort(c_key, kind="stable")
    c_key, rows = c_key[order], rows[order]
    q_key = q_who.astype(np.int64) * step + np.searchsorted(moments, q_time)

    after = np.searchsorted(c_key, q_key, side="left")
    before = np.searchsorted(c_key, c_key[np.maximum(after - 1, 0)], side="left")  # the first row at that moment
    distance, choice = np.full(queries.num_rows, np.iinfo(np.int64).max), none
    for place, inside in ((before, after > 0), (after, after < len(c_key))):  # the earlier one first: it wins a tie
        row = rows[np.minimum(place, len(rows) - 1)]
        valid = inside & q_known & (c_who[row] == q_who)
        apart = np.where(valid, np.abs(c_time[row] - q_time), np.iinfo(np.int64).max)
        nearer = valid & (apart < distance)
        distance, choice = np.where(nearer, apart, distance), np.where(nearer, row, choice)
    choice = np.where(distance <= int(window_days * DAY_US), choice, -1)
    gap = np.where(choice >= 0, (c_time[choice] - q_time) / DAY_US, np.nan)
    return Nearest(row=choice, gap_days=gap)


DAY_US = 86_400_000_000


def check_window(window_days: float) -> None:
    """Refuse a window that clock skew alone exceeds."""
    if not MIN_WINDOW_DAYS <= window_days <= 36_500:
        raise UsageError(
            f"the window is {window_days} days; it must be {MIN_WINDOW_DAYS:g} or more: clocks of carts are off by hours."
        )


def _studies(clips: pa.Table) -> pa.Table:
    """study_id, subject_id and first time of the studies that have a cine, sorted by id."""
    cines = clips.filter(cine_rows(clips))
    made = cines.group_by("study_id").aggregate([("subject_id", "min"), ("time", "min")]).sort_by("study_id")
    return made.rename_columns(
        [{"subject_id_min": "subject_id", "time_min": "time"}.get(name, name) for name in made.column_names]
    )


def _microseconds(times: pa.ChunkedArray) -> tuple[I64, npt.NDArray[np.bool_]]:
    known = times.is_valid().to_numpy()
    return pc.fill_null(times.cast(pa.int64()), 0).to_numpy(), known


def _or_null(rows: I64) -> pa.Array:
    return pa.array(rows, mask=rows < 0)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _check_same_split(one: Catalog, two: Catalog, family: str) -> None:
    a, b = one.subjects, two.subjects
    place = pc.index_in(_flat(b["subject_id"]), value_set=_flat(a["subject_id"]))
    differs = pc.fill_null(pc.not_equal(_flat(a["split"]).take(place), _flat(b["split"])), False)
    if not pc.any(differs).as_py():
        return
    row = int(pc.index(differs, True).as_py())
    subject, here, there = (column[row].as_py() for column in (b["subject_id"], _flat(a["split"]).take(place), b["split"]))
    raise UserError(
        f"{one.path} and {two.path} (family {family}) put {int(pc.sum(differs).as_py())} subjects into different splits, first "
        f"{subject_tag(subject)}: {here} and {there}. Index both again with the same version, or use one of them."
    )
