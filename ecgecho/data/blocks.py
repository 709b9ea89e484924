"""Rows of a column larger than memory: blocks are read whole by threads into a pool of fixed size, rows are copied out of it.

A block is a run of whole groups of about 4 MiB. Which blocks are held, and when, is the sampler's to say (`hold`); a row of a
block that is not held is read by itself, so that any rows can be asked for in any order, only slower. Nothing here decides an
order, so no number of threads can change one.

Shape letters: M rows asked for, P pieces (the part of a block that lies in one file), B blocks.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ecgecho.data.chunks import Chunks
from ecgecho.types import I64, U8, UserError

THREADS = 4
PAGE = 4096  # what direct reads are aligned to
DIRECT = getattr(os, "O_DIRECT", 0)

# ctypes.memmove gives the interpreter up and fights for it again with every row; rows are too short for that.
_memmove = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)(("memmove", ctypes.CDLL(None)))


class BlockReader:
    """A pool of `slots` blocks over the chunk files of a column."""

    def __init__(self, chunks: Chunks, edges: I64, *, slots: int, threads: int = THREADS) -> None:
        self.chunks, self.edges = chunks, edges
        self.piece_row = np.union1d(edges[:-1], chunks.first_row)
        self.piece_block = self.block_of(self.piece_row)
        self.piece_file = np.searchsorted(chunks.first_row, self.piece_row, side="right") - 1
        self._from, self._to = self._extents()
        self._room = np.where(self._to > self._from, -(-self._to // PAGE) * PAGE - self._from // PAGE * PAGE, 0)
        self.slot_bytes = max(int(np.bincount(self.piece_block, self._room).max()), PAGE)
        self.slots = min(slots, len(edges) - 1)
        self._pool = memoryview(mmap.mmap(-1, self.slots * self.slot_bytes))
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._pool))
        whole = not chunks.ragged and PAGE % chunks.entry_bytes == 0  # then every row lies on a multiple of its size in the pool
        self._grid = np.frombuffer(self._pool, np.uint8).reshape(-1, chunks.entry_bytes) if whole else None
        self._base = np.zeros(len(self.piece_row), np.int64)  # address of the file's first byte, were it there
        self._free = list(range(self.slots))
        self._slot: dict[int, int] = {}
        self._loads: dict[int, Future[None]] = {}
        self._held = np.zeros(len(edges) - 1, bool)
        self._ready = np.zeros(len(edges) - 1, bool)
        self._threads = ThreadPoolExecutor(threads, "blocks")
        self._singles = ThreadPoolExecutor(threads, "rows")
        self.alone = 0
        """Rows that were read by themselves, because their block was not held."""

    def block_of(self, rows: I64) -> I64:
        """(M,) -> (M,)."""
        return np.searchsorted(self.edges, rows, side="right") - 1

    def hold(self, blocks: Iterable[int]) -> None:
        """Begin to read `blocks`, in this order, as far as there are slots; forget all others."""
        blocks = list(blocks)
        keep = set(blocks)
        for block in [b for b, load in self._loads.items() if b not in keep and load.done()]:
            del self._loads[block]
            self._held[block] = self._ready[block] = False
            self._free.append(self._slot.pop(block))
        for block in blocks:
            if block not in self._loads and self._free:
                self._slot[block] = self._free.pop()
                self._held[block] = True
                self._loads[block] = self._threads.submit(self._load, block)

    def copy(self, rows: I64, out: U8) -> None:
        """The bytes of (M,) rows, one after another, into `out`."""
        piece = np.searchsorted(self.piece_row, rows, side="right") - 1
        file, block = self.piece_file[piece], self.piece_block[piece]
        offset, size = self.chunks.locate(rows, file)
        to = np.cumsum(size) - size
        held = self._held[block]
        alone = np.flatnonzero(~held & (size > 0)).tolist()
        self.alone += len(alone)
        reads = [
            self._singles.submit(
                _read, self.chunks.paths[file[i]], int(offset[i]), out.data[to[i] : to[i] + size[i]], int(size[i])
            )
            for i in alone
        ]
        for waited in np.unique(block[held & ~self._ready[block]]).tolist():
            self._loads[waited].result()
            self._ready[waited] = True
        source = self._base[piece] + offset
        if self._grid is not None and not alone:
            rows_of_pool = (source - self._address) // self.chunks.entry_bytes
            np.take(self._grid, rows_of_pool, axis=0, out=out.reshape(-1, self.chunks.entry_bytes), mode="clip")
        else:
            move(out.ctypes.data + to[held], source[held], size[held])
        for read in reads:
            read.result()

    def close(self) -> None:
        """Stop the threads."""
        for threads in (self._threads, self._singles):
            threads.shutdown(cancel_futures=True)

    def _extents(self) -> tuple[I64, I64]:
        """First byte and one past the last that the rows of each piece own in their file."""
        chunks, stops = self.chunks, np.append(self.piece_row[1:], self.chunks.num_rows)
        begin, _ = chunks.locate(self.piece_row, self.piece_file)
        if not chunks.ragged:
            return begin, begin + (stops - self.piece_row) * chunks.entry_bytes
        owns = chunks.counts > 0  # an erased row starts at 0 and owns nothing
        lowest = np.minimum.reduceat(np.where(owns, chunks.starts, np.iinfo(np.int64).max), self.piece_row)
        highest = np.maximum.reduceat(np.where(owns, chunks.starts + chunks.counts, 0), self.piece_row)
        return np.minimum(lowest, highest) * chunks.entry_bytes, highest * chunks.entry_bytes

    def _load(self, block: int) -> None:
        at = self._slot[block] * self.slot_bytes
        for piece in range(*np.searchsorted(self.piece_block, [block, block + 1]).tolist()):
            room, begin = int(self._room[piece]), int(self._from[piece]) // PAGE * PAGE
            if room:
                _read(self.chunks.paths[self.piece_file[piece]], begin, self._pool[at : at + room], int(self._to[piece]) - begin)
            self._base[piece] = self._address + at - begin
            at += room


def move(to: I64, source: I64, size: I64) -> None:
    """Copy (M,) stretches of memory from addresses to addresses."""
    deque(map(_memmove, to.tolist(), source.tolist(), size.tolist()), maxlen=0)


def _read(path: str, offset: int, view: memoryview, size: int) -> None:
    """At least `size` bytes from `offset` into `view`; past the page cache where view and offset are whole pages."""
    done = 0
    if DIRECT and len(view) % PAGE == 0 and offset % PAGE == 0:
        with contextlib.suppress(OSError):  # a file system without direct reads; what is wrong else shows below
            done = _fill(path, DIRECT, offset, view, size)
    if done < size:
        done = _fill(path, 0, offset, view[:size], size, done)
    if done < size:
        raise UserError(f"{path} ends too early. Run `ecgecho store verify` on its store.")


def _fill(path: str, flags: int, offset: int, view: memoryview, size: int, done: int = 0) -> int:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | flags)
    try:
        if not flags and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)  # a row alone: what lies after it is not wanted
        while done < size:
            got = os.preadv(handle, [view[done:]], offset + done)
            if got == 0:
                break
            done += got
    finally:
        os.close(handle)
    return done
