"""Vectors that somebody else computed, from .npy, .npz, .pt, .h5 or .safetensors. Shapes: T frames, D embedding.

Nothing in such a file is executed, no link in it is followed, and what it claims to hold is compared with a bound before it
is built. Codes of "failed": unreadable, missing_file, not_a_file, empty, too_large, truncated, undecodable, holds_code,
outside_link, no_array, several_arrays, no_such_array, not_vectors, not_floats, not_finite, unsupported_format.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgecho.io.files import read_bytes, size_of
from ecgecho.types import ItemError

MAX_BYTES = 1 << 30
"""Of a file, and of the array in it: 130,000 frames of 2,048 fp32 values."""
MAX_NODES = 4096
MAX_DEPTH = 8
_NPY_HEADERS: Mapping[tuple[int, int], Callable[..., tuple[Any, ...]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}
_SAFETENSORS_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}

Found = dict[str, Callable[[], npt.NDArray[Any]]]
"""Float arrays of one or two axes by name, each read when it is called."""


def read_vectors(path: Path, key: str = "") -> tuple[npt.NDArray[np.floating[Any]], bytes]:
    """The one array of vectors in a file, (T, D) or (D,), finite, and the bytes of the file. `key` names one of several."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ItemError("unsupported_format", f"{path.name} is none of {', '.join(READERS)}")
    if size_of(path) > MAX_BYTES:
        raise ItemError("too_large", f"{path.name} has more than {MAX_BYTES} bytes")
    data = read_bytes(path)
    try:
        values = np.asarray(_choose(reader(data, path.name), key, path.name)())
    except (ItemError, MemoryError):
        raise
    except Exception as error:  # whatever a parser makes of hostile bytes
        raise ItemError("undecodable", f"{path.name}: {type(error).__name__}: {str(error)[:200]}") from error
    if values.ndim not in (1, 2) or 0 in values.shape:
        raise ItemError("not_vectors", f"{path.name} holds shape {values.shape}; vectors are (frames, size) or (size,)")
    if not np.isfinite(values).all():
        raise ItemError("not_finite", f"{path.name} holds a value that is not finite")
    return values, data


def _choose(found: Found, key: str, name: str) -> Callable[[], npt.NDArray[Any]]:
    known = ", ".join(sorted(found)[:4]) + (", ..." if len(found) > 4 else "")
    if key:
        if key not in found:
            raise ItemError("no_such_array", f"{name} holds no vectors {key!r}; it holds: {known or 'none'}")
        return found[key]
    if len(found) > 1:
        raise ItemError("several_arrays", f"{name} holds several arrays: {known}; name one of them with --array")
    if not found:
        raise ItemError("no_array", f"{name} holds no array of floats with one or two axes")
    return next(iter(found.values()))


def _npy(data: bytes, name: str) -> Found:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    shape, fortran, dtype = _NPY_HEADERS[version](file)
    if dtype.hasobject:
        raise ItemError("holds_code", f"{name} holds Python objects, which are never loaded; save a plain float array")
    if dtype.kind != "f":
        raise ItemError("not_floats", f"{name} holds {dtype}; vectors are floats")
    size, have = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if size != have:
        raise ItemError("truncated", f"{name} holds {have} bytes of values, its header says {size}")
    values = np.frombuffer(data, dtype, offset=file.tell())
    return {"array": lambda: values.reshape(shape, order="F" if fortran else "C")}


def _npz(data: bytes, name: str) -> Found:
    archive = zipfile.ZipFile(io.BytesIO(data))

    def member(info: zipfile.ZipInfo) -> Callable[[], npt.NDArray[Any]]:
        def read() -> npt.NDArray[Any]:
            _bound(info.file_size, name)
            return _npy(archive.read(info), f"{name}:{info.filename}")["array"]()

        return read

    return {info.filename.removesuffix(".npy"): member(info) for info in archive.infolist()[:MAX_NODES]}


def _pt(data: bytes, name: str) -> Found:
    import torch

    file = io.BytesIO(data)
    if zipfile.is_zipfile(file):
        _bound(sum(info.file_size for info in zipfile.ZipFile(file).infolist()), name)
    file.seek(0)
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise ItemError(
                "holds_code", f"{name} holds more than tensors, which is never loaded; save a plain tensor"
            ) from error
        raise
    named = {str(k): v for k, v in loaded.items()} if isinstance(loaded, dict) else {"array": loaded}

    def tensor(value: torch.Tensor) -> Callable[[], npt.NDArray[Any]]:
        def read() -> npt.NDArray[Any]:
            _bound(value.numel() * value.element_size(), name)
            plain = value.detach().float() if value.dtype == torch.bfloat16 else value.detach()
            result: npt.NDArray[Any] = plain.contiguous().numpy()
            return result

        return read

    return {
        key: tensor(value)
        for key, value in list(named.items())[:MAX_NODES]
        if isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.is_floating_point()
        and value.ndim in (1, 2)
    }


def _hdf5(data: bytes, name: str) -> Found:
    import h5py

    with_links: list[str] = []

    def datasets(group: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
        if depth > MAX_DEPTH:
            return
        for count, inner in enumerate(group):
            if count >= MAX_NODES:
                return
            path = f"{prefix}{inner}"
            if not isinstance(group.get(inner, getlink=True), h5py.HardLink):
                with_links.append(path)
                continue
            node = group[inner]
            if isinstance(node, h5py.Group):
                yield from datasets(node, f"{path}/", depth + 1)
            elif isinstance(node, h5py.Dataset) and node.dtype.kind == "f" and node.ndim in (1, 2):
                if node.external or node.is_virtual:
                    with_links.append(path)
                else:
                    yield path, node

    def read(node: Any) -> Callable[[], npt.NDArray[Any]]:
        def values() -> npt.NDArray[Any]:
            _bound(math.prod(node.shape) * node.dtype.itemsize, name)
            result: npt.NDArray[Any] = node[()]
            return result

        return values

    file = h5py.File(io.BytesIO(data), "r")
    found: Found = {}
    for path, node in datasets(file, "", 0):
        found[path] = read(node)
        if len(found) >= MAX_NODES:
            break
    if with_links and not found:
        raise ItemError("outside_link", f"{name} has its values elsewhere ({with_links[0]} is a link); links are never followed")
    return found


def _safetensors(data: bytes, name: str) -> Found:
    import safetensors

    def values(tensor: Mapping[str, Any]) -> Callable[[], npt.NDArray[Any]]:
        def read() -> npt.NDArray[Any]:
            if tensor["dtype"] == "BF16":
                wide = np.frombuffer(tensor["data"], "<u2").astype(np.uint32) << 16
                flat: npt.NDArray[Any] = wide.view(np.float32)
            else:
                flat = np.frombuffer(tensor["data"], _SAFETENSORS_FLOATS[tensor["dtype"]])
            return flat.reshape(tensor["shape"])

        return read

    return {
        key: values(tensor)
        for key, tensor in safetensors.deserialize(data)  # type: ignore[no-untyped-call]
        if len(tensor["shape"]) in (1, 2) and tensor["dtype"] in (*_SAFETENSORS_FLOATS, "BF16")
    }


def _bound(size: int, name: str) -> None:
    if size > MAX_BYTES:
        raise ItemError("too_large", f"{name} says that it holds {size} bytes; at most {MAX_BYTES} are read")


READERS: Mapping[str, Callable[[bytes, str], Found]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".pt": _pt,
    ".pth": _pt,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".safetensors": _safetensors,
}
