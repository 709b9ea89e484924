"""Which stay in hospital a moment belongs to: an interval join of all moments at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgecho.types import I64


@dataclass(frozen=True, slots=True, kw_only=True)
class Admissions:
    """The stays of all subjects, in order of subject and beginning."""

    subjects: pa.Array
    """Distinct ids; `who` are places in it."""
    admission_id: pa.Array
    who: I64
    begin: I64
    """Microseconds."""
    end: I64
    last_end: I64
    """The latest end of this stay and those of the subject before it."""

    @classmethod
    def of(cls, rows: pa.Table) -> Admissions:
        """From rows of subject_id, admission_id, begin and end (timestamps), none of them null."""
        rows = rows.combine_chunks()
        subjects = pc.unique(_flat(rows["subject_id"]))
        who = pc.index_in(_flat(rows["subject_id"]), value_set=subjects).to_numpy().astype(np.int64)
        begin, end = (_flat(rows[name]).cast(pa.int64()).to_numpy() for name in ("begin", "end"))
        by_id = np.argsort(pc.sort_indices(_flat(rows["admission_id"])).to_numpy())
        order = np.lexsort((by_id, begin, who))
        who, begin, end = who[order], begin[order], end[order]
        moments, rank = np.unique(end, return_inverse=True)
        running = np.maximum.accumulate(who * len(moments) + rank) - who * len(moments) if len(who) else rank
        return cls(
            subjects=subjects,
            admission_id=_flat(rows["admission_id"]).take(pa.array(order)),
            who=who,
            begin=begin,
            end=end,
            last_end=moments[running],
        )

    @property
    def overlapping(self) -> int:
        """How many stays begin before an earlier one of the same subject has ended."""
        if len(self.who) < 2:
            return 0
        return int(((self.who[1:] == self.who[:-1]) & (self.begin[1:] < self.last_end[:-1])).sum())

    def at(self, subject_id: pa.ChunkedArray | pa.Array, time: pa.ChunkedArray | pa.Array) -> pa.Array:
        """The admission_id that holds each moment, ends included; null where none does or no time is known.

        Of several that hold it the one that began last; of those that began together the last by id.
        """
        who = pc.fill_null(pc.index_in(_flat(subject_id), value_set=self.subjects), -1).to_numpy(zero_copy_only=False)
        who = who.astype(np.int64)
        moment, known = _microseconds(_flat(time))
        moments = np.unique(self.begin)
        step = len(moments) + 1
        key = self.who * step + np.searchsorted(moments, self.begin)
        # The last stay that began by then; backwards from there while an earlier one may still last.
        place = np.searchsorted(key, who * step + np.searchsorted(moments, moment, side="right")) - 1
        found = np.full(len(who), -1, np.int64)
        left = np.flatnonzero(known & (who >= 0) & (place >= 0))
        while len(left):
            here = place[left]
            left = left[(here >= 0) & (self.who[here] == who[left]) & (self.last_end[here] >= moment[left])]
            here = place[left]
            holds = self.end[here] >= moment[left]
            found[left[holds]] = here[holds]
            left = left[~holds]
            place[left] -= 1
        return self.admission_id.take(pa.array(found, mask=found < 0))


def _microseconds(time: pa.Array) -> tuple[I64, npt.NDArray[np.bool_]]:
    known = time.is_valid().to_numpy(zero_copy_only=False)
    return pc.fill_null(time.cast(pa.int64()), 0).to_numpy(), known


def _flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
