"""Values of a store read part by part: at most a few parts in memory, and none of them before its checksum was compared.

Shape letters: M rows asked for.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

import embed_cache
from embed_cache import Column

I64 = npt.NDArray[np.int64]
PARTS_HELD = 2  # of a column: what a block of neighbouring rows needs


class PartReader:
    """Reads rows of an opened store in any order; fast where neighbours in `rows` are neighbours in the store."""

    def __init__(self, store: embed_cache.EmbeddingStore) -> None:
        self.store = store
        self._segments = store.manifest.segments
        self._offsets = np.cumsum([0] + [shape.num_rows for shape in self._segments])
        self._held: dict[str, OrderedDict[str, npt.NDArray[Any]]] = {name: OrderedDict() for name in store.columns}

    def take(self, column: Column, rows: I64) -> npt.NDArray[Any]:
        """(M,) -> (M, *shape) of a fixed column."""
        values = np.empty((len(rows), *column.shape), column.numpy_dtype)
        for number, part, here in self._places(rows):
            values[here] = self._part(column, number, part)[self._inner(rows[here], number, part)]
        return values

    def take_ragged(self, column: Column, rows: I64) -> list[npt.NDArray[Any]]:
        """(M,) -> M arrays (n_i, *shape) of a ragged column."""
        values: list[npt.NDArray[Any]] = [column.empty(0)] * len(rows)
        for number, part, here in self._places(rows):
            entries = self._part(column, number, part)
            index = self.store.segment_index(number)
            inner = rows[here] - self._offsets[number]
            starts, counts = (index[f"ragged_{what}/{column.name}"][inner].tolist() for what in ("start", "count"))
            for place, start, count in zip(here.tolist(), starts, counts, strict=True):
                values[place] = entries[start : start + count]
        return values

    def lengths(self, column: Column, rows: I64) -> I64:
        """(M,) -> (M,): how many entries each row of a ragged column has."""
        counts = [self.store.segment_index(number)[f"ragged_count/{column.name}"] for number in range(len(self._segments))]
        result: I64 = np.concatenate(counts)[rows]
        return result

    def checksums(self, column: Column, rows: I64) -> list[tuple[str, int, int]]:
        """(M,) -> (sha256 of the file that holds a row's values, where they begin in it, how many): equal means equal values."""
        found: list[tuple[str, int, int]] = [("", 0, 0)] * len(rows)
        for number, part, here in self._places(rows):
            entry = self.store.manifest.files.get(self._segments[number].chunk(column, part))
            starts, counts = self._inner(rows[here], number, part), np.ones(len(here), np.int64)
            if column.ragged:
                index, inner = self.store.segment_index(number), rows[here] - self._offsets[number]
                starts, counts = (index[f"ragged_{what}/{column.name}"][inner] for what in ("start", "count"))
            for place, start, count in zip(here.tolist(), starts.tolist(), counts.tolist(), strict=True):
                found[place] = (entry.sha256 if entry else "", start, count)
        return found

    def _places(self, rows: I64) -> Iterator[tuple[int, int, I64]]:
        """(segment, part, positions in `rows`) of each part that holds any of them, in the store's order."""
        numbers = np.searchsorted(self._offsets, rows, side="right") - 1
        for number in np.unique(numbers).tolist():
            positions = np.flatnonzero(numbers == number)
            parts = (rows[positions] - self._offsets[number]) // self._segments[number].part_rows
            for part in np.unique(parts).tolist():
                yield number, part, positions[parts == part]

    def _inner(self, rows: I64, number: int, part: int) -> I64:
        return rows - int(self._offsets[number]) - part * self._segments[number].part_rows

    def _part(self, column: Column, number: int, part: int) -> npt.NDArray[Any]:
        """All of a part's file: (rows, *shape), or (entries, *shape) where ragged."""
        name = self._segments[number].chunk(column, part)
        held = self._held[column.name]
        if name not in held:
            while len(held) >= PARTS_HELD:
                held.popitem(last=False)
            entry = self.store.manifest.files.get(name)
            data = self.store.place.read(name, entry.size) if entry else b""
            if entry and hashlib.sha256(data).hexdigest() != entry.sha256:
                raise embed_cache.DamagedStore(
                    f"{self.store.place.label(name)} is damaged. `ecgecho store verify {self.store.path}` names the rows."
                )
            held[name] = np.frombuffer(data, column.numpy_dtype).reshape(-1, *column.shape)
        held.move_to_end(name)
        return held[name]
