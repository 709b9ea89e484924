"""Recordings as plain arrays: .npy, alone or many in one file, and .csv. Shapes: N recordings, C leads, L samples.

An array does not say its rate, unit and leads; the dataset does, or a JSON file beside it (sidecar.py). Which axis holds the
leads follows from their number; where both could, the array is refused. Nothing is unpickled, and of a large file only the
recording that is asked for is read.

Codes of "failed": rate_unknown, unit_unknown, leads_unknown, row_unknown, row_outside, shape_unknown, shape_ambiguous,
excerpt_outside, rate_disagrees, sidecar_disagrees, damaged_sidecar, holds_code, unsupported_format, truncated, too_large,
undecodable, lead_named_twice. Defects of a record that was read: excerpt_short, columns_ignored, header_of_numbers.
"""

from __future__ import annotations

import codecs
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgecho.io.excerpt import samples_of
from ecgecho.io.files import read_bytes, size_of
from ecgecho.io.leads import canonical_lead, is_ecg_lead
from ecgecho.io.sidecar import Said, record_of, said_of
from ecgecho.types import EcgRecord, EcgSource, ItemError

MAX_FILE_BYTES = 1 << 40
"""Of an array of which one recording is read; EchoNext's largest has 17 GB."""
MAX_VALUES = 1 << 28
"""Of one recording: as many as a WFDB record may have."""
MAX_CSV_BYTES = 1 << 28
"""Of a table, and of what a .gz unpacks to: 10 minutes of 12 leads at 1000 Hz take 80 MB."""
MAX_COLUMNS = 256
MAX_COLUMN_NAME = 200
RATE_TOLERANCE = 0.01
"""A time column is written with few digits."""
_TIME = re.compile(
    r"^(time|t|seconds?|sec|s|ms|milliseconds?|samples?|index|#|)[\s_]*[\[(]?[\s_]*(s|sec|seconds?|ms|milliseconds?)?[\])]?$"
)
_INK = re.compile(rb"\S")
_PER_SECOND = {"ms": 1e3, "millisecond": 1e3, "milliseconds": 1e3, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0}


def read(path: Path, source: EcgSource | None = None) -> EcgRecord:
    """A .npy, .csv or .csv.gz file, or one recording of it."""
    said = said_of(path, source)
    if path.name.lower().endswith(".npy"):
        return _npy(path, source, said)
    if path.name.lower().endswith((".csv", ".csv.gz")):
        return _csv(path, source, said)
    raise ItemError("unsupported_format", f"{path.name} is neither .npy nor .csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An array as it lies in a file. Indexing it by the place of a recording and two slices reads those bytes and no others.

    It is never mapped: a worker's bound is on what it maps too, and a file may be larger than that.
    """

    path: Path
    dtype: np.dtype[Any]
    offset: int
    """Of its first value."""
    shape: tuple[int, ...]
    fortran: bool = False
    """Only of two axes."""

    def __getitem__(self, place: tuple[Any, ...]) -> npt.NDArray[Any]:
        *outer, rows, columns = place
        num_rows, num_columns = self.shape[-2:]
        if self.fortran:
            rows, columns, num_rows, num_columns = columns, rows, num_columns, num_rows
        number = 0
        for at, length in zip(outer, self.shape[:-2], strict=True):
            number = number * length + at
        start = number * num_rows * num_columns
        top, bottom, _ = rows.indices(num_rows)
        first, last, _ = columns.indices(num_columns)
        if (first, last) == (0, num_columns):
            values = self._read(start + top * num_columns, (bottom - top) * num_columns).reshape(bottom - top, num_columns)
        else:
            values = np.stack([self._read(start + row * num_columns + first, last - first) for row in range(top, bottom)])
        return values.T if self.fortran else values

    def _read(self, first: int, count: int) -> npt.NDArray[Any]:
        size = count * self.dtype.itemsize
        data = read_bytes(self.path, offset=self.offset + first * self.dtype.itemsize, size=size, most=MAX_FILE_BYTES)
        if len(data) < size:
            raise ItemError("truncated", f"{self.path.name} became shorter while it was read")
        return np.frombuffer(data, self.dtype)


def recording_of(array: Any, said: Said, source: EcgSource | None, name: str) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """One recording (C, L) out of (L, C), (C, L), (N, L, C), (N, C, L) or (N, 1, L, C), and the defects of the excerpt.

    `array` has a shape and gives its values when it is indexed, so that only what is asked for is read.
    """
    shape, row = tuple(array.shape), None if source is None else source.row
    said.need("leads", "fs_hz", name=name)
    assert said.fs_hz is not None
    many = len(shape) > 2
    if len(shape) not in (2, 3, 4) or 0 in shape or (len(shape) == 4 and shape[1] != 1):
        raise ItemError(
            "shape_unknown", f"{name} has shape {shape}; recordings are (samples, leads), alone or along a first axis"
        )
    if many and row is None and shape[0] > 1:
        raise ItemError("row_unknown", f"{name} holds {shape[0]} recordings; the dataset must say which row is meant")
    if not many and row is not None:
        raise ItemError("row_outside", f"{name} holds one recording of shape {shape}, and row {row} of it is asked for")
    if many and (row or 0) >= shape[0]:
        raise ItemError("row_outside", f"{name} holds {shape[0]} recordings; there is no row {row}")
    place = ((row or 0,) if many else ()) + ((0,) if len(shape) == 4 else ())
    a, b = shape[-2:]
    leads = len(said.leads)
    if a == b == leads:
        raise ItemError("shape_ambiguous", f"{name}: either axis of ({a}, {b}) could be that of the {leads} leads")
    if leads not in (a, b):
        raise ItemError("shape_unknown", f"{name}: no axis of ({a}, {b}) has the {leads} leads {', '.join(said.leads[:12])}")
    if a * b > MAX_VALUES:
        raise ItemError("too_large", f"{name}: a recording of {a} x {b} values is more than a reader takes")
    first, last, defects = samples_of(source, said.fs_hz, a if b == leads else b, name)
    if b == leads:
        return np.asarray(array[(*place, slice(first, last), slice(None))]).T, defects
    return np.asarray(array[(*place, slice(None), slice(first, last))]), defects


def _npy(path: Path, source: EcgSource | None, said: Said) -> EcgRecord:
    size = size_of(path, most=MAX_FILE_BYTES)
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = header(file)
            offset = file.tell()
    except OSError as err:
        raise ItemError("unreadable", f"{path.name}: {err.strerror}", permanent=False) from err
    except MemoryError:
        raise
    except Exception as err:  # whatever numpy makes of a hostile header
        raise ItemError("undecodable", f"{path.name} is no .npy file: {type(err).__name__}") from err
    if dtype.hasobject:
        raise ItemError("holds_code", f"{path.name} holds Python objects, which are never loaded; save a plain array of numbers")
    check_numbers(dtype, path.name)
    if not all(0 <= n < 1 << 40 for n in shape):
        raise ItemError("shape_unknown", f"{path.name} has an impossible shape")
    if fortran and len(shape) > 2:
        raise ItemError("unsupported_format", f"{path.name} is in Fortran order, where a recording lies all over the file")
    if math.prod(shape) * dtype.itemsize != size - offset:
        raise ItemError("truncated", f"{path.name} holds {size - offset} bytes of values for an array of shape {shape} {dtype}")
    if 0 in shape:
        raise ItemError("shape_unknown", f"{path.name} holds no sample: shape {shape}")
    array = Stored(path=path, dtype=dtype, offset=offset, shape=shape, fortran=fortran)
    values, defects = recording_of(array, said, source, path.name)
    return record_of(values, said, path.name, defects)


def check_numbers(dtype: np.dtype[Any], name: str) -> None:
    """Refuses what is not an integer or a float of at most 64 bits."""
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ItemError("unsupported_format", f"{name} holds {dtype.kind!r} values of {dtype.itemsize} bytes, not plain numbers")


def _csv(path: Path, source: EcgSource | None, said: Said) -> EcgRecord:
    """Columns named as leads, in any order; a decimal comma where the columns are separated by ";" or tabs."""
    data = _unpacked(path)
    head, separator, top, below = _head(data, path.name)
    numeric, headed = all(_is_number(word) for word in head), False
    names = tuple(canonical_lead(word) for word in head)
    if numeric:
        said.need("leads", name=path.name)
        if len(said.leads) != len(head):
            raise ItemError("leads_unknown", f"{path.name} has {len(head)} columns without names for {len(said.leads)} leads")
        names, headed = said.leads, _counts_up(head)
    chosen = [name for name in names if is_ecg_lead(name) or (numeric or name in said.leads)]
    if len(set(chosen)) != len(chosen):
        raise ItemError("lead_named_twice", f"{path.name} has two columns of one lead")
    if not chosen or (said.leads and set(said.leads) - set(chosen)):
        raise ItemError(
            "leads_unknown", f"{path.name} has no column {', '.join(set(said.leads) - set(chosen)) or 'named as a lead'}"
        )
    times = [place for place, word in enumerate(head) if not numeric and _TIME.match(word.strip().lower())]
    table = _numbers(data, top if numeric and not headed else below, separator, len(head), path.name)
    values = table if list(names) == chosen else table[[names.index(name) for name in chosen]]
    said = Said(fs_hz=said.fs_hz, unit=said.unit, leads=tuple(chosen))
    said.need("fs_hz", "unit", name=path.name)
    assert said.fs_hz is not None
    for place in times:
        _check_rate(head[place], table[place], said.fs_hz, path.name)
    others = len(head) - len(chosen) - len(times)
    first, last, defects = samples_of(source, said.fs_hz, values.shape[1], path.name)
    if source is not None and source.row is not None:
        raise ItemError("row_outside", f"{path.name} holds one recording, and row {source.row} is asked for")
    defects += ("columns_ignored",) if others else ()
    defects += ("header_of_numbers",) if headed else ()
    return record_of(values[:, first:last], said, path.name, defects)


def _unpacked(path: Path) -> bytes:
    size_of(path, most=MAX_CSV_BYTES)
    data = read_bytes(path)
    if path.name.lower().endswith(".gz"):
        unpack = zlib.decompressobj(wbits=31)
        try:
            data = unpack.decompress(data, MAX_CSV_BYTES + 1)
        except zlib.error as err:
            raise ItemError("undecodable", f"{path.name} cannot be unpacked") from err
        if len(data) > MAX_CSV_BYTES:
            raise ItemError("too_large", f"{path.name} unpacks to more than {MAX_CSV_BYTES} bytes")
        if not unpack.eof:
            raise ItemError("truncated", f"{path.name} ends before its end")
    return data


def _head(data: bytes, name: str) -> tuple[list[str], str, int, int]:
    """The words of the first line, the separator, where that line begins, and where the lines below do."""
    top = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    while data[top : top + 1] in (b"\r", b"\n"):
        top += 1
    end = data.find(b"\n", top)
    below = end + 1 if end >= 0 else len(data)
    if below - top > MAX_COLUMNS * (MAX_COLUMN_NAME + 4):
        raise ItemError("undecodable", f"{name} has no line of column names")
    try:
        line = data[top:below].decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        line = data[top:below].decode("latin-1").rstrip("\r\n")
    separator = next((mark for mark in (";", "\t") if mark in line), ",")
    words = [word.strip().strip('"').strip() for word in line.split(separator)]
    if len(words) > MAX_COLUMNS or any(len(word) > MAX_COLUMN_NAME for word in words):
        raise ItemError("undecodable", f"{name} has no line of column names")
    return words, separator, top, below


def _numbers(data: bytes, start: int, separator: str, columns: int, name: str) -> npt.NDArray[np.float64]:
    """(columns, L) of the lines from byte `start` on; an empty cell is NaN. The text is not copied: it is most of the memory."""
    import pyarrow as pa
    from pyarrow import csv

    if _INK.search(data, start) is None:
        raise ItemError("empty", f"{name} has a line of names and no sample")
    names = [str(place) for place in range(columns)]
    decimal = "," if separator != "," and b"," in data[start : start + (1 << 16)] else "."
    if columns * (data.count(b"\n", start) + 1) > MAX_VALUES:
        raise ItemError("too_large", f"{name} has more than {MAX_VALUES} values")
    try:
        table = csv.read_csv(
            pa.BufferReader(pa.py_buffer(memoryview(data)[start:])),
            read_options=csv.ReadOptions(column_names=names, use_threads=False),
            parse_options=csv.ParseOptions(delimiter=separator),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.float64()), decimal_point=decimal, null_values=["", "nan", "NaN", "NA"]
            ),
        )
    except MemoryError:  # arrow's own is one too
        raise
    except pa.ArrowException as err:
        # arrow's words quote the cell, which may be anything
        raise ItemError("undecodable", f"{name}: a line does not hold {columns} numbers") from err
    values = np.empty((columns, table.num_rows))
    for row in range(columns):
        values[row] = table.column(row).to_numpy()
    return values


def _check_rate(title: str, times: npt.NDArray[np.float64], fs_hz: float, name: str) -> None:
    """A time column whose title says its unit must agree with the rate."""
    found = _TIME.match(title.strip().lower())
    per_second = _PER_SECOND.get((found[2] or found[1]) if found else "")
    steps = np.diff(times)
    if per_second is None or not len(steps) or not np.isfinite(steps).all():
        return
    step = float(steps.mean())
    if not step > 0 or abs(per_second / step / fs_hz - 1) > RATE_TOLERANCE:
        raise ItemError("rate_disagrees", f"{name}: its time column {title!r} does not step by 1 / {fs_hz:g} s")


def _counts_up(words: list[str]) -> bool:
    """Whether these are the numbers of the columns, from 0 or from 1, as pandas and others head a table without names.

    Of one column that cannot be told, and either way it is about one sample of 0.
    """
    numbers = [float(word.replace(",", ".")) for word in words]
    return len(words) > 1 and numbers[0] in (0, 1) and numbers == [numbers[0] + place for place in range(len(words))]


def _is_number(word: str) -> bool:
    try:
        float(word.replace(",", "."))
    except ValueError:
        return False
    return True
