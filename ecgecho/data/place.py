"""A column of the stores as a table to gather rows from, in one of four places; the place never changes what is read.

device: the memory of the GPU. pinned: host memory, batches leave it through page-locked buffers. mapped: the files themselves,
mapped into one address range. blocks: a pool of blocks over files larger than memory, see blocks.py.

Shape letters: N rows of all stores, M rows asked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import embed_cache
from ecgecho.data.blocks import BlockReader, move
from ecgecho.data.chunks import Chunks
from ecgecho.data.sampler import AHEAD, BlockOrder
from ecgecho.types import I64, U8, UsageError, UserError

Place = Literal["device", "pinned", "mapped", "blocks"]
AnyPlace = Literal["auto", "device", "pinned", "mapped", "blocks"]

DEVICE_SHARE = 0.5  # of the GPU's free memory; the rest is for the model and its activations
PINNED_SHARE = 0.5  # of the host's free memory
MAPPED_SHARE = 0.9  # of it; beyond that every pass would push out the pages that it needs next
COPIED_BYTES = 64 << 20
KEPT, KEPT_BYTES = 4, 64 << 20  # batches whose memory is kept for the next, and how large they may be
LINE = 64


class Table:
    """One column of several stores, one after the other, behind one row number."""

    def __init__(
        self,
        stores: Sequence[embed_cache.EmbeddingStore],
        column: str,
        device: torch.device,
        place: AnyPlace = "auto",
        blocks: BlockOrder = BlockOrder(),
    ) -> None:
        self.chunks = Chunks(stores, column)
        self.device = device
        self.place: Place = choose(self.chunks.num_bytes, device) if place == "auto" else place
        _check(self.place, self.chunks, device)
        self.shape, self.dtype = self.chunks.shape, torch.from_numpy(np.empty(0, self.chunks.dtype)).dtype
        self._first = np.empty(0, np.int64)
        self._memory = _Memory()
        self._tensor: Tensor | None = None
        self._reader: BlockReader | None = None
        if self.place == "blocks":
            self._reader = BlockReader(self.chunks, self.chunks.block_edges(blocks.block_bytes), slots=blocks.pool + AHEAD)
            return
        self._values, self._first = self.chunks.flat(
            load=self.place == "pinned" or (self.place == "device" and device.type == "cpu")
        )
        if self.place == "device" and device.type != "cpu":
            self._tensor = _copy_to(device, self._values)

    def __len__(self) -> int:
        return self.chunks.num_rows

    def gather(self, rows: I64) -> Tensor:
        """(M,) -> (M, *shape) on the device."""
        if self.device.type == "cpu":
            return self.gather_host(rows)
        if self._tensor is None:
            return self.gather_host(rows).to(self.device, non_blocking=True)
        return self._tensor.index_select(0, torch.from_numpy(self._entries(rows)).to(self.device, non_blocking=True))

    def gather_host(self, rows: I64) -> Tensor:
        """(M,) -> (M, *shape) on the host, page-locked where the device is a GPU."""
        entries = self._entries(rows)
        result, out = self._empty(len(rows))
        if self._reader is not None:
            self._reader.copy(rows, _bytes_of(out))
        else:
            # One thread: many collapse under load. "clip", because "raise" goes through a copy; the rows are checked above.
            np.take(self._values, entries, axis=0, out=out, mode="clip")
        return result

    def gather_ragged(self, rows: I64) -> tuple[Tensor, Tensor]:
        """(M,) -> all entries of these rows (sum of their numbers, *shape), and start (M + 1,) int64, on the device.

        The entries of rows[m] are values[start[m] : start[m + 1]].
        """
        self.chunks.check(rows)
        start = np.zeros(len(rows) + 1, np.int64)
        count = self.chunks.counts[rows]
        np.cumsum(count, out=start[1:])
        begin = torch.from_numpy(start).to(self.device, non_blocking=True)
        if self._tensor is not None:
            place = np.repeat(self._first[rows] - start[:-1], count) + np.arange(start[-1])
            return self._tensor.index_select(0, torch.from_numpy(place).to(self.device, non_blocking=True)), begin
        result, out = self._empty(int(start[-1]))
        if self._reader is not None:
            self._reader.copy(rows, _bytes_of(out))
        else:
            size = self.chunks.entry_bytes
            move(out.ctypes.data + start[:-1] * size, self._values.ctypes.data + self._first[rows] * size, count * size)
        return result.to(self.device, non_blocking=True), begin

    def hold(self, blocks: Iterable[int]) -> None:
        """Place "blocks": which blocks the next gathers need, in the order of their need. Of no effect elsewhere."""
        if self._reader is not None:
            self._reader.hold(blocks)

    def _entries(self, rows: I64) -> I64:
        """Places of fixed rows in the flat array or tensor."""
        self.chunks.check(rows)
        if len(self._first) <= 1:
            return rows
        return rows + self._first[np.searchsorted(self.chunks.segment_ends, rows, side="right")]

    def _empty(self, count: int) -> tuple[Tensor, npt.NDArray[Any]]:
        """(count, *shape) to fill, as both; page-locked where the device is a GPU."""
        shape = (count, *self.shape)
        if self.device.type == "cuda":
            locked = torch.empty(shape, dtype=self.dtype, pin_memory=True)
            return locked, locked.numpy()
        out = np.ndarray(shape, self.chunks.dtype, *self._memory.lend(count * self.chunks.entry_bytes))
        return torch.from_numpy(out), out


class _Memory:
    """Memory for batches, lent again when nobody holds the former batch any more: fresh pages cost a fifth of a gather."""

    def __init__(self) -> None:
        self._owned: list[tuple[U8, int]] = []

    def lend(self, size: int) -> tuple[U8, int]:
        """An array and the place in it from which `size` bytes are free, at a line of the cache."""
        for whole, first in self._owned:
            # References: the list's, `whole` and the argument. A tensor over this memory, or any view of one, is another.
            if sys.getrefcount(whole) == 3 and len(whole) >= first + size:
                return whole, first
        fresh = np.empty(size + size // 8 + LINE, np.uint8)  # ragged batches differ in size
        first = -fresh.ctypes.data % LINE
        if size <= KEPT_BYTES:
            self._owned = [*self._owned, (fresh, first)][-KEPT:]
        return fresh, first


def choose(num_bytes: int, device: torch.device) -> Place:
    """Where a column of this size goes."""
    if device.type == "cuda" and num_bytes < DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return "device"
    free = free_memory()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # that torchrun started on this machine, each with its own copy
    if num_bytes * processes < PINNED_SHARE * free:
        return "pinned"
    return "mapped" if num_bytes < MAPPED_SHARE * free else "blocks"


def free_memory() -> int:
    """Bytes of host memory that this process can have: what the host has to give, within the limit of the process's cgroup."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    host = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    return min([host, *_cgroup_rooms()])


def _cgroup_rooms() -> list[int]:
    """Limit less use, page cache not counted, of the memory cgroup (version 1 or 2) and of those above it."""
    rooms = []
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        number, kinds, name = line.split(":", 2)
        if number != "0" and "memory" not in kinds.split(","):
            continue
        root = Path("/sys/fs/cgroup") / ("memory" if number != "0" else "")
        names = (
            ("memory.max", "memory.current", "file")
            if number == "0"
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "cache")
        )
        for folder in [root / name[1:], *(root / name[1:]).parents]:
            try:
                limit, used = ((folder / n).read_text(encoding="ascii").strip() for n in names[:2])
                stat = dict(entry.split() for entry in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            except OSError:
                continue
            if limit != "max":
                rooms.append(max(int(limit) - int(used) + int(stat.get(names[2], 0)), 0))
    return rooms


def _check(place: str, chunks: Chunks, device: torch.device) -> None:
    if place not in get_args(Place):
        raise UsageError(f"there is no place {place!r} for a table. There is: auto, {', '.join(get_args(Place))}.")
    if chunks.remote and place in ("mapped", "blocks"):
        stores = ", ".join(store.path for store in chunks.stores)
        raise UserError(
            f"column {chunks.name!r} of {stores} has {chunks.num_bytes / 1e9:.3g} GB and cannot be read from a bucket "
            f"as {place}: copy the store to a local disk, or use data.place=pinned where memory allows."
        )
    on_gpu = place == "device" and device.type == "cuda"
    room = torch.cuda.mem_get_info(device)[0] if on_gpu else free_memory()
    if place in ("device", "pinned") and chunks.num_bytes > room:
        where = str(device) if on_gpu else "the host"
        raise UserError(
            f"column {chunks.name!r} has {chunks.num_bytes / 1e9:.3g} GB and {where} has {room / 1e9:.3g} GB free, "
            f"so data.place={place} cannot be; use data.place=auto."
        )


def _copy_to(device: torch.device, entries: npt.NDArray[Any]) -> Tensor:
    """On the device, by way of stretches small enough to need no second copy of the column on the host."""
    empty = torch.from_numpy(np.empty(0, entries.dtype))
    result = torch.empty(entries.shape, dtype=empty.dtype, device=device)
    step = max(COPIED_BYTES // max(entries[:1].nbytes, 1), 1)
    for start in range(0, len(entries), step):
        result[start : start + step].copy_(torch.from_numpy(np.array(entries[start : start + step])))
    return result


def _bytes_of(values: npt.NDArray[Any]) -> U8:
    return values.reshape(-1).view(np.uint8)
