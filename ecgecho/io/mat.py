"""MATLAB files that hold one ECG, by our own reader: level 4 `val` (C, L), level 5 `val` or a struct `ECG` with `data` (C, L).

Only the matrix of voltages is read; other fields of a struct (sex, age) are stepped over. A .mat beside a .hea of the same
name is a WFDB record, and the header says rate, gain and leads. Without one they come from the dataset or from a JSON file
beside it (sidecar.py); the numbers are then taken to be in that unit as they stand, whatever the recorder's gain was.
MATLAB 7.3 files are HDF5 with another layout and are refused. Shapes: C leads, L samples.

Codes of "failed": those of arrays.py, and no_such_array, checksum_differs and the rest of wfdb.py where a header is beside.
Source of the formats: "MAT-File Format" (MathWorks), levels 4 and 5; of the contents: CPSC2018 (ECG.data in mV, (12, L)).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgecho.io.arrays import Stored, recording_of
from ecgecho.io.files import read_bytes, size_of
from ecgecho.io.sidecar import record_of, said_of
from ecgecho.types import EcgRecord, EcgSource, ItemError

MAX_UNPACKED = 1 << 28
"""Of a compressed element; 144 s of 12 leads at 500 Hz as doubles, the longest of CPSC2018, are 7 MB."""
MAX_LEVEL_5_BYTES = 1 << 28
"""Of a level 5 file, which is read whole."""
MAX_ELEMENTS = 256
MAX_NAME = 64
V4_HEADER_BYTES = 20
V5_HEADER_BYTES = 128
_V4_TYPES = {0: "f8", 1: "f4", 2: "i4", 3: "i2", 4: "u2", 5: "u1"}
_V5_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _NUMERIC = 2, range(6, 16)
_COMPLEX = 0x08


@dataclass(frozen=True, slots=True, kw_only=True)
class Level4Matrix:
    """Where a matrix of a level 4 file lies."""

    name: str
    rows: int
    columns: int
    dtype: str
    offset: int
    """Of its first value; columns follow one another."""


def read(path: Path, source: EcgSource | None = None) -> EcgRecord:
    """The ECG of a .mat file."""
    if path.with_suffix(".hea").exists():
        from ecgecho.io import wfdb

        return wfdb.read(path, source)
    size_of(path)
    said = said_of(path, source)
    head = read_bytes(path, size=V5_HEADER_BYTES)
    try:
        values: Any = _level_4(path) if _is_level_4(head) else _level_5(path, head)
    except (struct.error, ValueError, OverflowError) as err:
        if isinstance(err, ItemError):
            raise
        raise ItemError("undecodable", f"{path.name} is a damaged MATLAB file: {type(err).__name__}") from err
    recording, defects = recording_of(values, said, source, path.name)
    return record_of(recording, said, path.name, defects)


def level_4_matrix(path: Path) -> Level4Matrix | None:
    """The first matrix of a level 4 file; None where the file is another one."""
    return next(_level_4_matrices(path), None) if _is_level_4(read_bytes(path, size=V5_HEADER_BYTES)) else None


def _is_level_4(head: bytes) -> bool:
    """A level 5 file begins with text, a level 4 file with a number below 5000."""
    if len(head) < V4_HEADER_BYTES or 0 not in head[:4]:
        return False
    return any(struct.unpack_from(f"{order}I", head)[0] < 5000 for order in "<>")


def _level_4_matrices(path: Path) -> Iterator[Level4Matrix]:
    size, at = size_of(path), 0
    for _ in range(MAX_ELEMENTS):
        head = read_bytes(path, offset=at, size=V4_HEADER_BYTES + MAX_NAME)
        if len(head) < V4_HEADER_BYTES:
            return
        order = "<" if struct.unpack_from("<I", head)[0] < 5000 else ">"
        kind, rows, columns, imaginary, length = struct.unpack_from(f"{order}5i", head)
        machine, number, form = kind // 1000, kind // 10 % 10, kind % 10
        if machine != "<>".index(order) or kind // 100 % 10 or number not in _V4_TYPES or not 1 <= length <= MAX_NAME:
            raise ItemError("undecodable", f"{path.name} is a damaged MATLAB level 4 file")
        dtype = np.dtype(order + _V4_TYPES[number])
        offset = at + V4_HEADER_BYTES + length
        if rows < 0 or columns < 0:
            raise ItemError("undecodable", f"{path.name}: a matrix of {rows} x {columns}")
        at = offset + rows * columns * dtype.itemsize * (2 if imaginary else 1)
        if at > size:
            raise ItemError("truncated", f"{path.name} ends inside a matrix of {rows} x {columns}")
        if form == 0 and not imaginary:
            name = head[V4_HEADER_BYTES : V4_HEADER_BYTES + length].rstrip(b"\0").decode("latin-1")
            yield Level4Matrix(name=name, rows=rows, columns=columns, dtype=dtype.str, offset=offset)


def _level_4(path: Path) -> Stored:
    for found in _level_4_matrices(path):
        if found.name == "val" and found.rows and found.columns:
            shape = (found.rows, found.columns)
            return Stored(path=path, dtype=np.dtype(found.dtype), offset=found.offset, shape=shape, fortran=True)
    raise ItemError("no_such_array", f"{path.name} holds no matrix `val`")


def _level_5(path: Path, head: bytes) -> npt.NDArray[Any]:
    if head.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise ItemError("unsupported_format", f"{path.name} is a MATLAB 7.3 file; save it with -v7")
    if len(head) < V5_HEADER_BYTES or head[126:128] not in (b"IM", b"MI"):
        raise ItemError("not_ecg", f"{path.name} is no MATLAB file")
    order = "<" if head[126:128] == b"IM" else ">"
    whole = memoryview(read_bytes(path, most=MAX_LEVEL_5_BYTES))
    for kind, packed in _elements(whole[V5_HEADER_BYTES:], order, path.name):
        unpacked = _unpacked(packed, order, path.name) if kind == _COMPRESSED else (packed if kind == _MATRIX else None)
        if unpacked is None:
            continue
        name, found = _matrix(unpacked, order, path.name, "data")
        if found is not None and name in ("val", "ECG"):
            return found
    raise ItemError("no_such_array", f"{path.name} holds neither a matrix `val` nor a struct `ECG` with `data`")


def _unpacked(packed: memoryview, order: str, name: str) -> memoryview | None:
    """The matrix in a compressed element, bounded before it is built."""
    unpack = zlib.decompressobj()
    try:
        data = unpack.decompress(packed, MAX_UNPACKED + 1)
    except zlib.error as err:
        raise ItemError("undecodable", f"{name} holds an element that cannot be unpacked") from err
    if len(data) > MAX_UNPACKED:
        raise ItemError("too_large", f"{name} unpacks to more than {MAX_UNPACKED} bytes")
    if not unpack.eof:
        raise ItemError("truncated", f"{name} ends inside a compressed element")
    kind, inner = next(_elements(memoryview(data), order, name))
    return inner if kind == _MATRIX else None


def _elements(data: memoryview, order: str, name: str) -> Iterator[tuple[int, memoryview]]:
    """(type, contents) of the elements that follow one another."""
    at = 0
    for _ in range(MAX_ELEMENTS):
        if len(data) - at < 8:
            return
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # a small element: its size, its type and up to 4 bytes in one tag
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            end = at + 8
            if size > 4:
                raise ItemError("undecodable", f"{name} holds an element that cannot be")
        else:
            start = at + 8
            end = start + size + (-size % 8 if kind != _COMPRESSED else 0)
        if start + size > len(data):
            raise ItemError("truncated", f"{name} ends inside an element of {size} bytes")
        yield kind, data[start : start + size]
        at = end


def _matrix(data: memoryview, order: str, file: str, field: str) -> tuple[str, npt.NDArray[Any] | None]:
    """Name of a matrix and its numbers; of a struct those of its `field`; None where it is anything else."""
    parts = _elements(data, order, file)
    damaged = ItemError("undecodable", f"{file} holds a damaged matrix")
    head = [contents for _, contents in (next(parts, (0, None)) for _ in range(3))]
    if any(contents is None for contents in head):
        return "", None  # an empty matrix
    flags, shape, letters = (bytes(contents or b"") for contents in head)
    if len(flags) < 8 or len(shape) < 8 or len(letters) > MAX_NAME:
        raise damaged
    word = struct.unpack_from(f"{order}I", flags)[0]
    kind, name = word & 0xFF, letters.decode("latin-1")
    dims = struct.unpack(f"{order}{len(shape) // 4}i", shape[: len(shape) // 4 * 4])
    if len(dims) != 2 or min(dims) < 1:
        return name, None
    if kind == _STRUCT and field and math.prod(dims) == 1:
        return name, _field(parts, order, file, field)
    if kind not in _NUMERIC or (word >> 8) & _COMPLEX:
        return name, None
    stored, values = next(parts, (0, memoryview(b"")))
    if stored not in _V5_TYPES:
        raise damaged
    dtype = np.dtype(order + _V5_TYPES[stored])
    if len(values) != math.prod(dims) * dtype.itemsize:
        raise damaged
    return name, np.frombuffer(values, dtype).reshape(dims, order="F")


def _field(parts: Iterator[tuple[int, memoryview]], order: str, file: str, field: str) -> npt.NDArray[Any] | None:
    """The numbers of one field of a struct."""
    _, width = next(parts, (0, memoryview(b"")))
    _, letters = next(parts, (0, memoryview(b"")))
    length = struct.unpack(f"{order}i", width)[0]
    if not 1 <= length <= MAX_NAME:
        raise ItemError("undecodable", f"{file} holds a damaged struct")
    names = [bytes(letters[k : k + length]).partition(b"\0")[0].decode("latin-1") for k in range(0, len(letters), length)]
    for name, (kind, contents) in zip(names, parts, strict=False):
        if name == field and kind == _MATRIX:
            return _matrix(contents, order, file, "")[1]
    return None
