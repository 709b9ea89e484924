"""Chunk files of a column as one flat array: mapped back to back into one reserved address range, or read into it.

A gather over one range is one `take`; a loop over hundreds of separate mappings is three times slower.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embed_cache.errors import DamagedStore

_MAP_SHARED, _MAP_FIXED = 0x01, 0x10  # equal on Linux and macOS
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0
PAGE = mmap.ALLOCATIONGRANULARITY
MAX_MAPPINGS = 30_000  # Linux allows a process 65,530 by default


class Piece(NamedTuple):
    """`used` leading bytes of the file at `path` (which has `size` bytes) belong at `start` of the flat array.

    Bytes between two pieces read as zeros.
    """

    path: Path
    start: int
    used: int
    size: int


def flat(pieces: Sequence[Piece], num_bytes: int, *, load: bool = False) -> npt.NDArray[np.uint8]:
    """(num_bytes,) uint8, read-only. Pieces, in order, that have their pages to themselves are mapped, the others are read.

    `load` reads them all: memory that stays, where a mapped page may be given back under pressure.
    """
    mapped = [False] * len(pieces) if load else _whole_pages(pieces)
    if sum(mapped) > MAX_MAPPINGS:
        mapped = [False] * len(pieces)
    length = max(num_bytes, *(piece.start + piece.size for piece, whole in zip(pieces, mapped, strict=True) if whole), 1)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    reserved = mmap.mmap(-1, length, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    if load and hasattr(mmap, "MADV_HUGEPAGE"):
        reserved.madvise(mmap.MADV_HUGEPAGE)
    values = np.frombuffer(reserved, dtype=np.uint8)  # keeps the whole range alive, and gives all of it back at its end
    address = int(values.ctypes.data)
    for piece, whole in zip(pieces, mapped, strict=True):
        handle = os.open(piece.path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(handle, "rb", buffering=0) as file:
            if os.fstat(handle).st_size != piece.size:
                raise DamagedStore(f"{piece.path} has changed its size. Run a verification of the store.")
            if whole:
                _map(handle, address + piece.start, piece.size)
            else:
                _read(file.fileno(), memoryview(reserved)[piece.start : piece.start + piece.used], piece.path)
    values = values[:num_bytes]
    values.flags.writeable = False
    return values


def page_up(size: int) -> int:
    """The next whole number of pages."""
    return -(-size // PAGE) * PAGE


def _whole_pages(pieces: Sequence[Piece]) -> list[bool]:
    """Whether each piece begins on a page and leaves the pages it ends in to itself."""
    ends = [piece.start for piece in pieces[1:]] + [sys.maxsize] * bool(pieces)
    return [piece.start % PAGE == 0 and piece.start + page_up(piece.size) <= end for piece, end in zip(pieces, ends, strict=True)]


def _map(handle: int, address: int, size: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong]
    got = library.mmap(address, size, mmap.PROT_READ, _MAP_SHARED | _MAP_FIXED, handle, 0)
    if got != address:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot map {size} bytes: {os.strerror(code)}")


def _read(handle: int, target: memoryview, path: Path) -> None:
    while target:
        got = os.readv(handle, [target])
        if got == 0:
            raise DamagedStore(f"{path} ends too early. Run a verification of the store.")
        target = target[got:]
