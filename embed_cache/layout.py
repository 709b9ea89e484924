"""Where everything lies in a store, and the Zarr v3 metadata that makes it readable without this package (FORMAT.md, 2 to 5)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embed_cache.errors import StoreError

FORMAT_VERSION = 1
HEAD, ROOT, PLAN = "head.json", "zarr.json", "plan.json"
SEGMENTS, ERASURES = "segments", "erasures"
STATUS = ("ok", "excluded", "failed", "erased")  # index/status holds the position in this tuple
STRINGS_PLANNED = ("id", "group")
UNKNOWN_COUNT = -1
STRINGS_SEALED = ("reason", "fingerprint")
DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_RESERVED = frozenset(["id", "group", "status", "reason", "permanent", "fingerprint", "live", "segment", "part", "row", "source"])
_PATH_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Column:
    """One fixed-size value per row, or, when ragged, an array (n_i, *shape) per row."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    ragged: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        check_name(self.name, "column")
        if self.dtype not in DTYPES:
            raise StoreError(f"column {self.name!r} has dtype {self.dtype!r}; use one of {', '.join(sorted(DTYPES))}.")
        if any(size < 1 for size in self.shape):
            raise StoreError(f"column {self.name!r} has shape {self.shape}; every size must be at least 1.")

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Little-endian, as on disk."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, or of one entry of a ragged row."""
        size = np.dtype(self.dtype).itemsize
        for length in self.shape:
            size *= length
        return size

    @property
    def fill(self) -> float | int | bool:
        """What a row without a value holds: NaN, the smallest signed integer, 0 for unsigned ones, False."""
        kind = np.dtype(self.dtype).kind
        if kind == "f":
            return float("nan")
        return int(np.iinfo(self.dtype).min) if kind == "i" else (False if kind == "b" else 0)

    def empty(self, rows: int) -> npt.NDArray[Any]:
        """(rows, *shape) of fill."""
        return np.full((rows, *self.shape), self.fill, dtype=self.numpy_dtype)

    def to_json(self) -> dict[str, Any]:
        """As in plans and heads."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype, "ragged": self.ragged}


@dataclass(frozen=True, slots=True)
class SegmentShape:
    """All that decides which files a segment has."""

    number: int
    num_rows: int
    part_rows: int
    columns: tuple[Column, ...]
    counts: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Relative to the store."""
        return f"{SEGMENTS}/{self.number:05d}"

    @property
    def num_parts(self) -> int:
        """Parts of the segment."""
        return -(-self.num_rows // self.part_rows)

    def part(self, number: int) -> slice:
        """Rows of a part, within the segment."""
        return slice(number * self.part_rows, min((number + 1) * self.part_rows, self.num_rows))

    def chunk(self, column: Column, part: int) -> str:
        """The file that holds a part of a column."""
        if column.ragged:
            return f"{self.ragged_folder(column, part)}/{chunk_key(1 + len(column.shape))}"
        return f"{self.folder}/columns/{column.name}/{chunk_key(1 + len(column.shape), part)}"

    def ragged_folder(self, column: Column, part: int) -> str:
        """The array of one part of a ragged column."""
        return f"{self.folder}/columns/{column.name}/p{part:05d}"

    def record(self, part: int) -> str:
        """The commit record of a part."""
        return f"{self.folder}/log/p{part:05d}.json"

    @property
    def plan(self) -> str:
        """The plan file."""
        return f"{self.folder}/{PLAN}"

    def index_arrays(self) -> dict[str, tuple[str, int | None]]:
        """Index array -> (dtype, width): width is None for one number a row, 0 for strings of a width to be found."""
        arrays: dict[str, tuple[str, int | None]] = {name: ("uint8", 0) for name in STRINGS_PLANNED + STRINGS_SEALED}
        arrays |= {"status": ("uint8", None), "permanent": ("uint8", None), "source": ("int64", None)}
        arrays |= {f"counts/{name}": ("int64", None) for name in self.counts}
        for column in self.ragged():
            arrays |= {f"ragged_start/{column.name}": ("int64", None), f"ragged_count/{column.name}": ("int64", None)}
        return arrays

    def index_chunk(self, name: str) -> str:
        """The one file of an index array."""
        return f"{self.folder}/index/{name}/{chunk_key(2 if self.index_arrays()[name][1] == 0 else 1)}"

    def index_meta(self, name: str) -> str:
        """The Zarr metadata of an index array."""
        return f"{self.folder}/index/{name}/zarr.json"

    def ragged(self) -> Iterator[Column]:
        """The ragged columns."""
        return (column for column in self.columns if column.ragged)

    def skeleton(self) -> dict[str, bytes]:
        """Group and column metadata, known before any part is computed."""
        group = zarr_group()
        groups = [self.folder, f"{self.folder}/columns", f"{self.folder}/index"]
        groups += [f"{self.folder}/index/counts"] if self.counts else []
        if any(self.ragged()):
            groups += [f"{self.folder}/index/ragged_start", f"{self.folder}/index/ragged_count"]
        groups += [f"{self.folder}/columns/{column.name}" for column in self.ragged()]
        files = {f"{folder}/zarr.json": group for folder in groups}
        for column in self.columns:
            if not column.ragged:
                files[f"{self.folder}/columns/{column.name}/zarr.json"] = zarr_array(
                    (self.num_rows, *column.shape), self.part_rows, column.dtype, column.fill
                )
        return files

    def expected_files(self) -> dict[str, int | None]:
        """Every file of a sealed segment -> its size where that follows from the shape. Empty ragged parts have no chunk."""
        files: dict[str, int | None] = {path: len(data) for path, data in self.skeleton().items()}
        files[self.plan] = None
        for name, (dtype, width) in self.index_arrays().items():
            files[self.index_meta(name)] = None
            files[self.index_chunk(name)] = None if width == 0 else self.num_rows * np.dtype(dtype).itemsize
        for part in range(self.num_parts):
            files[self.record(part)] = None
            for column in self.columns:
                if column.ragged:
                    files[f"{self.ragged_folder(column, part)}/zarr.json"] = None
                    files[self.chunk(column, part)] = None
                else:
                    files[self.chunk(column, part)] = self.part_rows * column.row_bytes
        return files


def chunk_key(num_dims: int, first: int = 0) -> str:
    """Zarr's default chunk key with the separator "."."""
    return ".".join(["c", str(first), *["0"] * (num_dims - 1)])


def root_files() -> dict[str, bytes]:
    """The groups above the segments; never rewritten."""
    return {ROOT: zarr_group({"embed_cache": {"format_version": FORMAT_VERSION}}), f"{SEGMENTS}/zarr.json": zarr_group()}


def zarr_group(attributes: dict[str, Any] | None = None) -> bytes:
    """zarr.json of a group."""
    return _json({"zarr_format": 3, "node_type": "group", "attributes": attributes or {}})


def zarr_array(shape: Sequence[int], chunk_rows: int, dtype: str, fill: float | int | bool) -> bytes:
    """zarr.json of an array cut along its first axis, plain little-endian bytes, no compression."""
    codec: dict[str, Any] = {"name": "bytes"}
    if np.dtype(dtype).itemsize > 1:
        codec["configuration"] = {"endian": "little"}
    return _json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk_rows, *shape[1:]]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": "NaN" if np.dtype(dtype).kind == "f" else fill,
            "codecs": [codec],
            "attributes": {},
        }
    )


def check_name(name: str, what: str) -> None:
    """Names of columns and counts become folder names, so they are plain."""
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise StoreError(
            f"{what} {name!r} cannot be used as a name; use at most 64 of a-z, 0-9 and _, a letter first, "
            f"and none of {', '.join(sorted(_RESERVED))}."
        )


def is_safe_path(path: str) -> bool:
    """Relative, below the store, with plain parts only."""
    return len(path) <= 1024 and all(_PATH_PART.fullmatch(part) for part in path.split("/"))


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
