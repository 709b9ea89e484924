"""The files of an export: their names, what they say of themselves, their arrays written and read. Names of arrays:

    id, group, reason, fingerprint, row, counts/NAME, columns/NAME       rows that are ok, in the store's order
    columns/NAME/values, columns/NAME/start, columns/NAME/count          of a ragged column
    others/id, others/group, others/status, others/reason, others/permanent, others/fingerprint, others/row, others/counts/NAME

Text is fixed-width UTF-8, in safetensors as uint8 (rows, width) padded with zeros. `about` is JSON: kind, identity (with the
teacher's licence), columns, content hash, and what made each segment. Shape letters: N rows, W width of a text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ecgecho.types import Json, UserError

EXPORT_FORMAT, EXPORT_VERSION = "ecgecho-export", 1
SUFFIXES: Mapping[str, tuple[str, ...]] = {"hdf5": (".h5", ".hdf5"), "safetensors": (".safetensors",), "studies": ("",)}
INDEX_FILE = "export.json"
MAX_ABOUT_BYTES = 1 << 28
_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_DTYPES = {
    "float16": "F16", "float32": "F32", "float64": "F64", "bool": "BOOL", "int8": "I8", "int16": "I16", "int32": "I32",
    "int64": "I64", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip


def file_name(study: str) -> str:
    """A study's id as a file name that gives the id back: letters, digits, _ and - stay, other bytes are %XX."""
    return "".join(char if char in _SAFE else "".join(f"%{byte:02X}" for byte in char.encode()) for char in study)


def about_of(path: Path) -> Json | None:
    """What an export of ours says of itself, None for any other file or folder."""
    try:
        if path.is_dir():
            text = _bounded(path / INDEX_FILE)
        elif path.suffix.lower() in SUFFIXES["safetensors"]:
            text = str(_safetensors_header(path)[0].get("__metadata__", {}).get("about", ""))
        else:
            import h5py

            with h5py.File(path, "r") as file:
                found = file["about"][()] if "about" in file else b""
            text = found.decode() if isinstance(found, bytes) else str(found)
        about = json.loads(text)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError):
        return None
    return about if isinstance(about, dict) and about.get("format") == EXPORT_FORMAT else None


# ---- written


class Sink(Protocol):
    """A file whose arrays are all declared when it is made."""

    def __init__(self, path: Path, about: Json, shapes: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> None: ...
    def put(self, name: str, start: int, values: npt.NDArray[Any]) -> None: ...
    def close(self) -> None: ...


class _Hdf5Sink:
    """Contiguous datasets, so that another program may map them at their offset."""

    def __init__(self, path: Path, about: Json, shapes: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> None:
        import h5py

        self.path = path
        self.file = h5py.File(path, "w")
        self.file["about"] = json.dumps(about)
        for name, (dtype, shape) in shapes.items():
            kind = h5py.string_dtype("utf-8", dtype.itemsize) if dtype.kind == "S" else dtype
            self.file.create_dataset(name, shape, kind)

    def put(self, name: str, start: int, values: npt.NDArray[Any]) -> None:
        if len(values):
            target = self.file[name]
            target[start : start + len(values)] = values.astype(target.dtype) if values.dtype.kind == "S" else values

    def close(self) -> None:
        self.file.close()
        sync(self.path)


class _SafetensorsSink:
    """Header first, then every array at its offset. Source of the layout: huggingface/safetensors README, "Format"."""

    def __init__(self, path: Path, about: Json, shapes: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> None:
        header: Json = {"__metadata__": {"about": json.dumps(about)}}
        self.offsets: dict[str, tuple[int, int]] = {}
        at = 0
        # Wide numbers first, so that every array begins at a multiple of its item.
        for name, (dtype, shape) in sorted(shapes.items(), key=lambda item: (-_plain(*item[1])[0].itemsize, item[0])):
            plain, sizes = _plain(dtype, shape)
            row_bytes = plain.itemsize * int(np.prod(sizes[1:], dtype=np.int64))
            size = row_bytes * sizes[0]
            header[name] = {"dtype": _DTYPES[plain.name], "shape": list(sizes), "data_offsets": [at, at + size]}
            self.offsets[name] = (at, row_bytes)
            at += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.begin = 8 + len(text)
        self.path = path
        self.file = path.open("wb")
        self.file.write(len(text).to_bytes(8, "little") + text)
        self.file.truncate(self.begin + at)

    def put(self, name: str, start: int, values: npt.NDArray[Any]) -> None:
        at, row_bytes = self.offsets[name]
        self.file.seek(self.begin + at + start * row_bytes)
        self.file.write(np.ascontiguousarray(values).tobytes())

    def close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


SINKS: Mapping[str, type[Sink]] = {"hdf5": _Hdf5Sink, "safetensors": _SafetensorsSink}


def _plain(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Text (N,) of width W is uint8 (N, W) where a format has numbers only."""
    return (np.dtype(np.uint8), (*shape, dtype.itemsize)) if dtype.kind == "S" else (dtype, shape)


def sync(path: Path) -> None:
    """The bytes of a file, or the names in a folder, are on the disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---- read


class Arrays(Protocol):
    """The arrays of one file of an export, by name."""

    def texts(self, name: str) -> list[str]: ...
    def text(self, name: str, place: int) -> str: ...
    def value(self, name: str, place: int) -> Any: ...
    def values(self, name: str, start: int, stop: int) -> Any: ...


def arrays_of(path: Path) -> Arrays:
    """One file of an export, opened by its ending."""
    return _SafetensorsArrays(path) if path.suffix.lower() in SUFFIXES["safetensors"] else _Hdf5Arrays(path)


class _Hdf5Arrays:
    """Arrays of an HDF5 export. Nothing outside the file is followed."""

    def __init__(self, path: Path) -> None:
        import h5py

        self.file = h5py.File(path, "r")
        self.path = path

    def _node(self, name: str) -> Any:
        import h5py

        group: Any = self.file
        for part in name.split("/"):
            if not isinstance(group.get(part, getlink=True), h5py.HardLink):
                raise KeyError(name)
            group = group[part]
        if not isinstance(group, h5py.Dataset) or group.external or group.is_virtual or group.nbytes > self.path.stat().st_size:
            raise KeyError(name)
        return group

    def texts(self, name: str) -> list[str]:
        return [bytes(text).rstrip(b"\0").decode() for text in self._node(name)[()]]

    def text(self, name: str, place: int) -> str:
        return bytes(self._node(name)[place]).rstrip(b"\0").decode()

    def value(self, name: str, place: int) -> Any:
        return self._node(name)[place]

    def values(self, name: str, start: int, stop: int) -> Any:
        return self._node(name)[start:stop]


class _SafetensorsArrays:
    """Arrays of a safetensors export, mapped."""

    def __init__(self, path: Path) -> None:
        import safetensors

        try:
            with safetensors.safe_open(path, framework="numpy"):
                pass  # refuses a header that does not fit the file
        except Exception as error:
            raise UserError(f"{path} is damaged ({str(error)[:200]}). Export the store again.") from error
        self.path = path
        self.header, self.begin = _safetensors_header(path)
        self.maps: dict[str, npt.NDArray[Any]] = {}

    def _array(self, name: str) -> npt.NDArray[Any]:
        if name not in self.maps:
            entry = self.header[name]
            dtype = next(np.dtype(plain) for plain, code in _DTYPES.items() if code == entry["dtype"])
            shape, (start, stop) = tuple(entry["shape"]), entry["data_offsets"]
            if start == stop:
                self.maps[name] = np.empty(shape, dtype)
            else:
                self.maps[name] = np.memmap(self.path, dtype.newbyteorder("<"), "r", self.begin + start, shape)
        return self.maps[name]

    def texts(self, name: str) -> list[str]:
        return [bytes(text).rstrip(b"\0").decode() for text in self._array(name)]

    def text(self, name: str, place: int) -> str:
        return bytes(self._array(name)[place]).rstrip(b"\0").decode()

    def value(self, name: str, place: int) -> Any:
        return np.array(self._array(name)[place])

    def values(self, name: str, start: int, stop: int) -> Any:
        return np.array(self._array(name)[start:stop])


def _safetensors_header(path: Path) -> tuple[Json, int]:
    """The header, and where the values begin."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_ABOUT_BYTES:
            raise ValueError(f"{path} has a header of {size} bytes")
        return object_of(json.loads(file.read(size))), 8 + size


def object_of(value: Any) -> Json:
    """A JSON object, empty where a file holds something else."""
    return value if isinstance(value, dict) else {}


def _bounded(path: Path) -> str:
    if path.stat().st_size > MAX_ABOUT_BYTES:
        raise ValueError(f"{path} is too large")
    return path.read_text(encoding="utf-8")
