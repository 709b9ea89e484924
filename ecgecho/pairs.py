"""What belongs together: splits by subject, the study and the text of every ECG, the label nearest to an ECG.

The split of a subject is a hash of (overlap family, subject id) with a constant of this file, never with a key: the same
subject falls into the same split in every catalog of the family. A dataset's official split wins; two splits for one
subject are an error.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgecho.catalog import SCHEMAS, SPLITS, Catalog, IndexOptions, cine_rows, nearest, subject_tag
from ecgecho.types import I64, Bool, UsageError, UserError

F64 = npt.NDArray[np.float64]

SPLIT_VERSION = 1
"""Recorded in every catalog; another constant or other shares need another version."""
SPLIT_CONSTANT = b"ecgecho subject split, version 1"
SPLIT_SHARES = (("train", 0.7), ("val", 0.1), ("test", 0.2))

WINDOW_DAYS = 30.0
"""An ECG and an echo at most this far apart show the same heart (MIMIC's clocks disagree by hours, so never below a day)."""
MIN_WINDOW_DAYS = 1.0
MAX_WINDOW_DAYS = 36_500.0

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
    """What must be said when these catalogs are used together; a subject, or a recording by its name, in two splits of one
    family is a UserError.
    """
    seen: dict[str, list[Catalog]] = {}
    for catalog in catalogs:
        seen.setdefault(catalog.family, []).append(catalog)
    for family, members in seen.items():
        for later in range(1, len(members)):
            for earlier in range(later):
                _check_same_split(members[earlier], members[later], family)
                _check_same_recordings(members[earlier], members[later], family)
    for later in range(1, len(catalogs)):
        for earlier in range(later):
            _check_same_people(catalogs[earlier], catalogs[later])
    private = [catalog for catalog in catalogs if catalog.family.startswith("private:")]
    keys = {catalog.family for catalog in private}
    if len(keys) < 2:
        return []
    names = ", ".join(str(catalog.path) for catalog in private)
    return [
        f"{names} have ids made with {len(keys)} different keys: the same person cannot be recognised in two of them, and may be "
        f"in two splits. Index them again with one key (--key FILE of folder and tables, --pseudonymise FILE of others)."
    ]


def make_pairs(
    ecgs: pa.Table, clips: pa.Table, texts: pa.Table, subjects: pa.Table, options: IndexOptions = IndexOptions()
) -> pa.Table:
    """The table `pairs`: every ECG in the order of `ecgs`, with its text and its studies with cines.

    A study is in the window of an ECG of the same subject when its time (that of its first cine) minus the time of the ECG
    lies from `low` to `high` days, ends included; that difference is `gap_days`. An ECG or a study without a time is in no
    window. With `same_admission` both must name the same admission as well; none is the same as none.

    match="nearest": one row an ECG, with the study nearest in time; of two equally near the earlier one, then the first by id.
    match="all": one row for every study in the window, the nearest first, by the same order; an ECG without any has one row.
    The `weight` of a row is one over the number of rows of its ECG. Of several texts of an ECG the first in the table is taken.
    """
    check_window(options.window_days)
    studies = _studies(clips)
    keys = ("subject_id", "admission_id") if options.same_admission else ("subject_id",)
    line = _Timeline.of(ecgs, studies, options.window_days, keys)
    if options.match == "nearest":
        found = line.nearest()
        ecg_row, study_row, gap_days = np.arange(ecgs.num_rows), found.row, found.gap_days
    else:
        ecg_row, study_row, gap_days = line.all()
    rows_each = np.bincount(ecg_row, minlength=ecgs.num_rows)
    texts = texts.filter(pc.is_valid(texts["ecg_id"]))
    text_row = pc.index_in(_flat(ecgs["ecg_id"]), value_set=_flat(texts["ecg_id"]))
    subject_row = pc.index_in(_flat(ecgs["subject_id"]), value_set=_flat(subjects["subject_id"]))
    place = pa.array(ecg_row)
    return pa.table(
        {
            "ecg_id": _flat(ecgs["ecg_id"]).take(place),
            "subject_id": _flat(ecgs["subject_id"]).take(place),
            "study_id": _flat(studies["study_id"]).take(_or_null(study_row)),
            "text_id": _flat(texts["text_id"]).take(text_row.take(place)),
            "gap_days": pa.array(gap_days, mask=study_row < 0),
            "split": _flat(subjects["split"]).take(subject_row.take(place)),
            "weight": pa.array(1.0 / rows_each[ecg_row]),
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
    """
    return _Timeline.of(queries, candidates, (-window_days, window_days), ("subject_id",)).nearest()


DAY_US = 86_400_000_000
_FAR = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timeline:
    """Candidates in order of owner and time, and where each query falls among them.

    Owner and time become one sortable integer, so that binary searches answer all queries at once.
    """

    rows: I64
    """The candidates in order, as rows of their table; those without a time or an owner are left out."""
    time: I64
    """Theirs, in microseconds."""
    query_time: I64
    first: I64
    """Per query: the candidates in its window are [first, end) in that order; none where the query has no time or owner."""
    end: I64
    at: I64
    """Per query: the first candidate of its owner that is not earlier, kept within [first, end]."""

    @classmethod
    def of(cls, queries: pa.Table, candidates: pa.Table, window_days: tuple[float, float], owner: Sequence[str]) -> _Timeline:
        """`owner` are the columns that must agree; one that is null agrees with nothing."""
        q_who, c_who = _owners(queries, candidates, owner)
        (q_time, q_known), (c_time, c_known) = _microseconds(queries["time"]), _microseconds(candidates["time"])
        q_known &= q_who >= 0
        rows = np.flatnonzero(c_known & (c_who >= 0))
        moments = np.unique(c_time[rows])
        step = len(moments) + 1
        key = c_who[rows] * step + np.searchsorted(moments, c_time[rows])
        order = np.argsort(key, kind="stable")
        key, rows = key[order], rows[order]
        low, high = math.ceil(window_days[0] * DAY_US), math.floor(window_days[1] * DAY_US)

        def place(time: I64, side: Literal["left", "right"]) -> I64:
            return np.searchsorted(key, q_who * step + np.searchsorted(moments, time, side=side), side="left")

        first, end = place(q_time + low, "left"), place(q_time + high, "right")
        end = np.where(q_known, np.maximum(end, first), first)
        return cls(
            rows=rows,
            time=c_time[rows],
            query_time=q_time,
            first=first,
            end=end,
            at=np.clip(place(q_time, "left"), first, end),
        )

    def nearest(self) -> Nearest:
        """One candidate a query: of two equally near the earlier, of two at the same time the first row."""
        if not len(self.rows):
            nothing = np.full(len(self.query_time), -1, np.int64)
            return Nearest(row=nothing, gap_days=np.full(len(nothing), np.nan))
        last = len(self.rows) - 1
        # The last one before, or the first row at that moment: the run of equal keys begins where owner or time changes.
        starts = np.r_[True, (np.diff(self.time) != 0)]
        begin = np.maximum.accumulate(np.where(starts, np.arange(len(self.rows)), 0))
        before = np.maximum(begin[np.clip(self.at - 1, 0, last)], self.first)
        after = np.minimum(self.at, last)
        apart_before = np.where(self.at > self.first, np.abs(self.time[np.minimum(before, last)] - self.query_time), _FAR)
        apart_after = np.where(self.at < self.end, np.abs(self.time[after] - self.query_time), _FAR)
        place = np.where(apart_before <= apart_after, np.minimum(before, last), after)
        found = self.end > self.first
        gap = np.where(found, (self.time[place] - self.query_time) / DAY_US, np.nan)
        return Nearest(row=np.where(found, self.rows[place], -1), gap_days=gap)

    def all(self) -> tuple[I64, I64, F64]:
        """(M,) query, (M,) candidate row or -1, (M,) gap in days or NaN: the nearest first, a query with none once."""
        number = self.end - self.first
        query = np.repeat(np.arange(len(number)), np.maximum(number, 1))
        start = np.cumsum(np.maximum(number, 1)) - np.maximum(number, 1)
        place = self.first[query] + np.arange(len(query)) - start[query]
        found = number[query] > 0
        if not len(self.rows):
            return query, np.full(len(query), -1, np.int64), np.full(len(query), np.nan)
        place = np.minimum(place, len(self.rows) - 1)
        gap = self.time[place] - self.query_time[query]
        order = np.lexsort((place, np.abs(gap), query))  # places are in order of time, then of the rows
        query, place, gap, found = query[order], place[order], gap[order], found[order]
        return query, np.where(found, self.rows[place], -1), np.where(found, gap / DAY_US, np.nan)


def _owners(queries: pa.Table, candidates: pa.Table, columns: Sequence[str]) -> tuple[I64, I64]:
    """Equal numbers where all `columns` agree, -1 where one of them is null."""
    joined = [pc.binary_join_element_wise(*(_flat(t[c]) for c in columns), "\x1f") for t in (queries, candidates)]
    known = pc.unique(pa.chunked_array(joined, pa.string())).drop_null()
    one, two = (pc.fill_null(pc.index_in(column, value_set=known), -1).to_numpy(zero_copy_only=False) for column in joined)
    return one.astype(np.int64), two.astype(np.int64)


def check_window(window_days: float | tuple[float, float]) -> None:
    """Refuse a window (low, high), or one of as many days on both sides, that clock skew alone exceeds."""
    low, high = (-window_days, window_days) if isinstance(window_days, (int, float)) else window_days
    shown = f"{high:g}" if low == -high else f"{low:g} to {high:g}"
    if not low <= high:  # also where one is not a number
        raise UsageError(f"the window is {shown} days; it must begin before it ends, as in -30 to 30.")
    if max(abs(low), abs(high)) > MAX_WINDOW_DAYS:
        raise UsageError(f"the window is {shown} days; it may reach {MAX_WINDOW_DAYS:g}: nobody is older.")
    if max(abs(low), abs(high)) < MIN_WINDOW_DAYS:
        raise UsageError(
            f"the window is {shown} days; it must reach {MIN_WINDOW_DAYS:g} or more: clocks of carts are off by hours."
        )


def _studies(clips: pa.Table) -> pa.Table:
    """study_id, subject_id, first time and admission (the first by id) of the studies that have a cine, sorted by id."""
    cines = clips.filter(cine_rows(clips))
    columns = ("subject_id", "time", "admission_id")
    made = cines.group_by("study_id").aggregate([(name, "min") for name in columns]).sort_by("study_id")
    return made.rename_columns([name.removesuffix("_min") for name in made.column_names])


def _microseconds(times: pa.ChunkedArray) -> tuple[I64, Bool]:
    known = times.is_valid().to_numpy().copy()
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


def _check_same_people(one: Catalog, two: Catalog) -> None:
    """Pseudonyms hide that two catalogs hold the same people."""
    if one.family != two.family and one.origin == two.origin:
        raise UserError(
            f"{one.path} and {two.path} both come from the people of {one.origin}, under ids that cannot be compared: a subject "
            "may be in two splits and nobody could tell. Index both with the same --pseudonymise KEYFILE, or both without."
        )


def _check_same_recordings(one: Catalog, two: Catalog, family: str) -> None:
    """Datasets of a family may name people differently and recordings alike: HR00001 of a Challenge is PTB-XL's."""
    ours, theirs = (pa.table({"ecg_id": _flat(c.ecgs["ecg_id"]), "split": _split_of_rows(c, c.ecgs)}) for c in (one, two))
    here = _flat(ours["split"]).take(pc.index_in(_flat(theirs["ecg_id"]), value_set=_flat(ours["ecg_id"])))
    differs = pc.fill_null(pc.not_equal(here, _flat(theirs["split"])), False)
    if pc.any(differs).as_py():
        row = int(pc.index(differs, True).as_py())
        raise UserError(
            f"{one.path} and {two.path} (family {family}) put {int(pc.sum(differs).as_py())} recordings of the same name into "
            f"different splits: {here[row].as_py()} and {theirs['split'][row].as_py()}. They hold the same data: use one of "
            "them, or give the subjects of one the ids and splits of the other."
        )


def _split_of_rows(catalog: Catalog, rows: pa.Table) -> pa.Array:
    place = pc.index_in(_flat(rows["subject_id"]), value_set=_flat(catalog.subjects["subject_id"]))
    return _flat(catalog.subjects["split"]).take(place)
