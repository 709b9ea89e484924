"""Where the rows of a column lie: every part of every segment of every store is one chunk file of plain bytes.

Shape letters: N rows of all stores, M rows asked for, F chunk files, E entries (a row of a fixed column, or one of the entries
of a ragged row).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import embed_cache
from ecgecho.types import I64, U8, UserError
from embed_cache import mapping
from embed_cache.store import Piece


class Flat(NamedTuple):
    """All entries of a column in one array."""

    entries: npt.NDArray[Any]
    """(E', *shape), read-only; where two segments or ragged parts meet, pages without meaning lie between them."""
    first: I64
    """The place in `entries` of a row's first entry: (N,) when ragged, else per segment what to add to a row number."""


class Chunks:
    """One column of several stores, one after the other, behind one row number."""

    def __init__(self, stores: Sequence[embed_cache.EmbeddingStore], column: str) -> None:
        kinds = {(c.shape, c.dtype, c.ragged) for c in (store.columns[column] for store in stores)}
        if len(kinds) > 1:
            raise UserError(
                f"column {column!r} has another shape or dtype in another store: {sorted(kinds)}; use one kind of store."
            )
        found = stores[0].columns[column]
        self.name, self.shape, self.dtype, self.ragged = column, found.shape, found.numpy_dtype, found.ragged
        self.entry_bytes = found.row_bytes
        self.stores = tuple(stores)
        self.remote = any(embed_cache.is_remote(store.path) for store in stores)
        """Some of it lies in a bucket: read whole, or not at all."""
        self.paths: list[str] = []
        self.names: list[str] = []
        self._owner: list[int] = []
        first_row, sizes, segment_rows, starts, counts = [], [], [], list[I64](), list[I64]()
        row = 0
        for owner, store in enumerate(stores):
            for number, shape in enumerate(store.manifest.segments):
                for part in range(shape.num_parts):
                    path = shape.chunk(store.columns[column], part)
                    entry = store.manifest.files.get(path)  # a part without entries has no file
                    self.paths.append(f"{store.path}/{path}")
                    self.names.append(path)
                    self._owner.append(owner)
                    first_row.append(row + shape.part(part).start)
                    sizes.append(entry.size if entry else 0)
                if self.ragged:
                    index = store.segment_index(number)
                    starts.append(index[f"ragged_start/{column}"])
                    counts.append(index[f"ragged_count/{column}"])
                segment_rows.append(shape.num_rows)
                row += shape.num_rows
        self.num_rows = row
        self.first_row = np.array(first_row, np.int64)
        """(F,)."""
        self.sizes = np.array(sizes, np.int64)
        """(F,) bytes."""
        self.segment_ends = np.cumsum(np.array(segment_rows, np.int64))
        self.starts = np.concatenate(starts) if starts else np.empty(0, np.int64)
        """(N,) of a ragged column, in entries of the row's file."""
        self.counts = np.concatenate(counts) if counts else np.empty(0, np.int64)
        """(N,) entries of each row of a ragged column."""

    @property
    def num_bytes(self) -> int:
        """Of all rows."""
        return int(self.counts.sum() if self.ragged else self.num_rows) * self.entry_bytes

    def check(self, rows: I64) -> None:
        """Refuse a row that there is not; nothing is clipped or wrapped."""
        if len(rows) and np.maximum.reduce(rows.view(np.uint64)) >= self.num_rows:  # a negative one becomes a huge one
            raise IndexError(
                f"rows {rows.min()} to {rows.max()} were asked of {self.name!r}, which has rows 0 to {self.num_rows - 1}."
            )

    def locate(self, rows: I64, file: I64) -> tuple[I64, I64]:
        """(M,) rows and the file each lies in -> the first byte in the file, and the number of bytes."""
        if self.ragged:
            return self.starts[rows] * self.entry_bytes, self.counts[rows] * self.entry_bytes
        return (rows - self.first_row[file]) * self.entry_bytes, np.full(len(rows), self.entry_bytes)

    def flat(self, *, load: bool) -> Flat:
        """Mapped, each chunk file where it lies, or loaded: read whole into memory."""
        grain = math.lcm(mapping.PAGE, self.entry_bytes)  # where a file is mapped, and a whole number of entries
        ends, at, first = set(self.segment_ends.tolist()), 0, list[I64]()
        pieces: list[list[Piece]] = [[] for _ in self.stores]
        stops = [*self.first_row[1:].tolist(), self.num_rows]
        files = zip(self._owner, self.names, self.sizes.tolist(), self.first_row.tolist(), stops, strict=True)
        for owner, name, size, start, stop in files:
            if self.ragged:
                first.append(self.starts[start:stop] + at // self.entry_bytes)
            elif start == 0 or start in ends:
                first.append(np.array([at // self.entry_bytes - start]))
            if size:
                used = size if self.ragged else (stop - start) * self.entry_bytes
                pieces[owner].append(Piece(name, at, used, size))
            at += size
            if self.ragged or stop in ends:
                at = -(-at // grain) * grain
        raw = self._remote(pieces, at) if self.remote else self._local(pieces, at, load=load)
        return Flat(raw.view(self.dtype).reshape(-1, *self.shape), np.concatenate(first))

    def _local(self, pieces: list[list[Piece]], size: int, *, load: bool) -> U8:
        files = [(Path(store.path), own) for store, own in zip(self.stores, pieces, strict=True)]
        return mapping.flat([mapping.Piece(root / p.path, *p[1:]) for root, own in files for p in own], size, load=load)

    def _remote(self, pieces: list[list[Piece]], size: int) -> U8:
        result = np.zeros(size, np.uint8)
        for store, own in zip(self.stores, pieces, strict=True):
            if own:
                begin, end = own[0].start, own[-1].start + own[-1].used
                result[begin:end] = store.place.flat([p._replace(start=p.start - begin) for p in own], end - begin)
        return result

    @cached_property
    def group_ends(self) -> I64:
        """Row numbers one past the last of every run of rows of one group."""
        ends, offset = [], 0
        for store in self.stores:
            for number, shape in enumerate(store.manifest.segments):
                groups = store.segment_index(number)["group"]
                ends += [np.flatnonzero(groups[1:] != groups[:-1]) + 1 + offset, np.array([offset + shape.num_rows])]
                offset += shape.num_rows
        return np.concatenate(ends)

    def block_edges(self, block_bytes: int) -> I64:
        """(blocks + 1,) row numbers that cut the column into blocks of about `block_bytes`, never inside a group."""
        ends = self.group_ends
        filled = np.cumsum(self.counts)[ends - 1] * self.entry_bytes if self.ragged else ends * self.entry_bytes
        last = np.r_[(filled // block_bytes)[1:] != (filled // block_bytes)[:-1], True]
        return np.concatenate([[0], ends[last]])
