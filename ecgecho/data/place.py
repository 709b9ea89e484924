"""A column of the stores as a table to gather rows from, in one of four places; the place never changes what is read.

device: the memory of the GPU. pinned: host memory, batches leave it through page-locked buffers. mapped: the files themselves,
mapped into one address range. blocks: a pool of blocks over files larger than memory, see blocks.py.

Shape letters: N rows of all stores, M rows asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import embed_cache
from ecgecho.data.blocks import BlockReader, move
from ecgecho.data.chunks import Chunks, Flat
from ecgecho.data.sampler import AHEAD, BlockOrder
from ecgecho.types import I64, UsageError, UserError

Place = Literal["device", "pinned", "mapped", "blocks"]
AnyPlace = Literal["auto", "device", "pinned", "mapped", "blocks"]

DEVICE_SHARE = 0.5  # of the GPU's free memory; the rest is for the model and its activations
PINNED_SHARE = 0.5  # of the host's free memory
MAPPED_SHARE = 0.9  # of it; beyond that every pass would push out the pages that it needs next
COPIED_BYTES = 64 << 20


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
        _check(self.place, self.chunks.num_bytes, device, column)
        self.shape, self.dtype = self.chunks.shape, torch.from_numpy(np.empty(0, self.chunks.dtype)).dtype
        self._flat: Flat | None = None
        self._tensor: Tensor | None = None
        self._reader: BlockReader | None = None
        if self.place == "blocks":
            self._reader = BlockReader(self.chunks, self.chunks.block_edges(blocks.block_bytes), slots=blocks.pool + AHEAD)
            return
        self._flat = self.chunks.flat(load=self.place == "pinned" or (self.place == "device" and device.type == "cpu"))
        if self.place == "device" and device.type != "cpu":
            self._tensor = _copy_to(device, self._flat.entries)

    def __len__(self) -> int:
        return self.chunks.num_rows

    def gather(self, rows: I64) -> Tensor:
        """(M,) -> (M, *shape) on the device."""
        if self._tensor is None:
            return self.gather_host(rows).to(self.device, non_blocking=True)
        return self._tensor.index_select(0, torch.from_numpy(self._entries(rows)).to(self.device, non_blocking=True))

    def gather_host(self, rows: I64) -> Tensor:
        """(M,) -> (M, *shape) on the host, page-locked where the device is a GPU."""
        entries = self._entries(rows)
        out = self._empty(len(rows))
        if self._reader is not None:
            self._reader.copy(rows, _bytes_of(out))
        else:
            assert self._flat is not None
            # One thread: many collapse under load. "clip", because "raise" goes through a copy; the rows are checked above.
            np.take(self._flat.entries, entries, axis=0, out=out.numpy(), mode="clip")
        return out

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
            assert self._flat is not None
            place = np.repeat(self._flat.first[rows] - start[:-1], count) + np.arange(start[-1])
            return self._tensor.index_select(0, torch.from_numpy(place).to(self.device, non_blocking=True)), begin
        out = self._empty(int(start[-1]))
        if self._reader is not None:
            self._reader.copy(rows, _bytes_of(out))
        else:
            assert self._flat is not None
            entries, size = self._flat.entries, self.chunks.entry_bytes
            move(out.data_ptr() + start[:-1] * size, entries.ctypes.data + self._flat.first[rows] * size, count * size)
        return out.to(self.device, non_blocking=True), begin

    def hold(self, blocks: Iterable[int]) -> None:
        """Place "blocks": which blocks the next gathers need, in the order of their need. Of no effect elsewhere."""
        if self._reader is not None:
            self._reader.hold(blocks)

    def _entries(self, rows: I64) -> I64:
        """Places of fixed rows in the flat array or tensor."""
        self.chunks.check(rows)
        if self._flat is None or (len(self._flat.first) == 1 and not self._flat.first[0]):
            return rows
        return rows + self._flat.first[np.searchsorted(self.chunks.segment_ends, rows, side="right")]

    def _empty(self, count: int) -> Tensor:
        return torch.empty((count, *self.shape), dtype=self.dtype, pin_memory=self.device.type == "cuda")


def choose(num_bytes: int, device: torch.device) -> Place:
    """Where a column of this size goes."""
    if device.type == "cuda" and num_bytes < DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return "device"
    free = free_memory()
    if num_bytes < PINNED_SHARE * free:
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


def _check(place: str, num_bytes: int, device: torch.device, column: str) -> None:
    if place not in get_args(Place):
        raise UsageError(f"there is no place {place!r} for a table. There is: auto, {', '.join(get_args(Place))}.")
    on_gpu = place == "device" and device.type == "cuda"
    room = torch.cuda.mem_get_info(device)[0] if on_gpu else free_memory()
    if place in ("device", "pinned") and num_bytes > room:
        where = str(device) if on_gpu else "the host"
        raise UserError(
            f"column {column!r} has {num_bytes / 1e9:.3g} GB and {where} has {room / 1e9:.3g} GB free, "
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


def _bytes_of(values: Tensor) -> npt.NDArray[np.uint8]:
    return values.numpy().reshape(-1).view(np.uint8)
