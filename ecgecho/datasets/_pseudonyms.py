"""Keyed hashes in the place of a dataset's ids, and dates shifted by subject.

The shift is a whole number of weeks, the same for all dates of a subject, so gaps and weekdays stay; the year of birth moves
with it. Names of files keep whatever ids they have: they stay in the catalog. Texts are not touched.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgecho import keys

MAX_WEEKS = 260
WEEK_US = 7 * 86_400_000_000
IDS = {
    "subject_id": "subject",
    "study_id": "study",
    "ecg_id": "ecg",
    "clip_id": "clip",
    "text_id": "text",
    "admission_id": "admission",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Pseudonyms:
    """What makes private tables of a family's public ones."""

    key: keys.Key
    family: str
    """Part of every hash: equal ids of two datasets are two persons."""
    hash_ids: bool = True
    """False where the ids are keyed hashes already: only dates are shifted."""
    _hashes: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)
    """Of each kind what was hashed before: the same ids stand in many tables."""
    _shifts: dict[str, int] = field(default_factory=dict, repr=False)

    def table(self, name: str, table: pa.Table) -> pa.Table:
        """A table of the catalog with other ids and other dates."""
        subjects = table["subject_id"] if "subject_id" in table.column_names else None
        for place, meant in enumerate(table.schema):
            column = table.column(place)
            if meant.name in IDS and self.hash_ids:
                table = table.set_column(place, meant, self._hashed(IDS[meant.name], column))
            elif subjects is not None and meant.name in ("time", "birth_year"):
                table = table.set_column(place, meant, self._shifted(column, subjects))
        return table

    def ids(self, kind: str, column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
        """Ids of a kind, hashed."""
        return self._hashed(kind, column) if self.hash_ids else column

    def _hashed(self, kind: str, column: pa.ChunkedArray | pa.Array) -> pa.Array:
        encoded = _flat(column).dictionary_encode()
        known = self._hashes.setdefault(kind, {})
        made = []
        for value in encoded.dictionary.to_pylist():
            if value is not None and value not in known:
                known[value] = self.key.of(kind, f"{self.family}\0{value}")
            made.append(None if value is None else known[value])
        return pa.array(made, pa.string()).take(encoded.indices)

    def _shifted(self, column: pa.ChunkedArray, subjects: pa.ChunkedArray) -> pa.Array:
        encoded = _flat(subjects).dictionary_encode()
        weeks = np.array([self._weeks(value) for value in encoded.dictionary.to_pylist()], np.int64)
        shift = weeks[encoded.indices.to_numpy(zero_copy_only=False)] if len(weeks) else weeks
        if pa.types.is_timestamp(column.type):
            return pc.add(_flat(column), pa.array(shift * WEEK_US, pa.duration("us")))
        return pc.add(_flat(column), pa.array(np.rint(shift * 7 / 365.25).astype(np.int32)))

    def _weeks(self, subject: str) -> int:
        """From -MAX_WEEKS to MAX_WEEKS, never 0."""
        if subject not in self._shifts:
            number = int(self.key.of("date shift", f"{self.family}\0{subject}"), 16) % (2 * MAX_WEEKS)
            self._shifts[subject] = number - MAX_WEEKS + (number >= MAX_WEEKS)
        return self._shifts[subject]


def _flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
