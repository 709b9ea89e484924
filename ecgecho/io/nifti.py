"""NIfTI-1 (.nii, .nii.gz) and MetaImage (.mhd with its .raw) cines -> EchoClip: the two releases of CAMUS. No regions, b_mode.

A picture's columns come first in the file, then its rows, then time, so that the values read in order are (T, H, W): what
SimpleITK shows. nibabel shows (W, H, T). Rotations of the header are not applied: a cine has no place in a scanner's room.

Source: nifti1.h (348 bytes: dim, datatype, bitpix, pixdim, vox_offset, scl_slope, scl_inter, xyzt_units); MetaImage: "Key =
value" lines. UNVERIFIED on the real files: which axis holds time (the third or the fourth is taken), whether pixdim has a time
step, and that intensities are 0 to 255.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import cv2
import numpy as np
import numpy.typing as npt

from ecgecho.io.files import MAX_BYTES, size_of
from ecgecho.types import F32, U8, EchoClip, ItemError

HEADER = 348
DEFAULT_FRAME_MS = 1000.0 / 30.0
"""Assumed, and said so in `defects`, where a file says nothing of time."""
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
"""NIfTI's code of a data type -> numpy's."""
META_TYPES = {
    "MET_UCHAR": "u1", "MET_CHAR": "i1", "MET_USHORT": "u2", "MET_SHORT": "i2", "MET_UINT": "u4", "MET_INT": "i4",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_CM = {0: 0.1, 1: 100.0, 2: 0.1, 3: 1e-4}
"""xyzt_units & 7 -> cm: unknown (taken as mm), m, mm, um."""
_MS = {8: 1000.0, 16: 1.0, 24: 1e-3}
"""xyzt_units & 56 -> ms."""
SQUARE = 0.01
"""Pixels whose sides differ by less are square."""
MAX_STRETCH = 4.0
MAX_FRAME_MS = 1000.0
MAX_META = 1 << 14
_GZIP = b"\x1f\x8b"
_META = re.compile(rb"^\s*ObjectType\s*=", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeHeader:
    """All but the values."""

    layout: Literal["nifti", "metaimage"]
    num_frames: int
    rows: int
    columns: int
    """As they are in the clip, of square pixels."""
    frame_time_ms: float
    """0 for a still."""
    frame_time_source: str
    cm_per_px: float | None
    defects: tuple[str, ...]
    stored: tuple[int, int]
    """Rows and columns in the file."""
    dtype: str
    offset: int
    slope: float
    intercept: float
    data_file: str = ""
    """MetaImage: the name of the file of values, beside the header."""


def is_volume(head: bytes) -> bool:
    """Whether a file's first `HEADER` bytes are of NIfTI-1, of gzip, or of a MetaImage."""
    return head[:2] == _GZIP or head[344:348] in (b"n+1\0", b"ni1\0") or _META.search(head[:128]) is not None


def read(path: Path) -> EchoClip:
    """All frames, grey in three channels; pixels that are not square are made so, at the finer of their two sides."""
    with _readable(path):
        header = _header(path)
        if header.num_frames < 2:
            raise ItemError("still", f"{path.name} holds one picture; a cine is wanted", outcome="excluded")
        values, defects = _to_grey(_values(path, header), path.name)
    frames = np.empty((header.num_frames, header.rows, header.columns, 3), np.uint8)
    for source, target in zip(values, frames, strict=True):
        grey = source
        if grey.shape != target.shape[:2]:
            grey = np.asarray(cv2.resize(grey, (header.columns, header.rows), interpolation=cv2.INTER_LINEAR), np.uint8)
        target[...] = grey[..., None]
    times: F32 = (np.arange(header.num_frames) * header.frame_time_ms).astype(np.float32)
    return EchoClip(
        frames=frames,
        frame_time_ms=times,
        regions=(),
        kind="b_mode",
        cm_per_px=header.cm_per_px,
        defects=(*header.defects, *defects),
    )


def scan(path: Path) -> VolumeHeader:
    """The header alone."""
    with _readable(path):
        return _header(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    size_of(path)
    try:
        yield
    except (ItemError, MemoryError):
        raise
    except OSError as err:
        raise ItemError("unreadable", f"{path.name}: {err.strerror}", permanent=False) from err
    except Exception as err:
        raise ItemError("damaged_header", f"{path.name}: {type(err).__name__}") from err


def _header(path: Path) -> VolumeHeader:
    with path.open("rb") as file:
        head = _take(file, MAX_META, path.name, short=True)
    if _META.search(head[:128]) is not None:
        return _squared(_meta_header(head, path.name), path.name)
    if len(head) < HEADER:
        raise ItemError("truncated", f"{path.name} ends inside its header")
    if head[344:348] == b"ni1\0":
        raise ItemError("unsupported_format", f"{path.name} keeps its values in another file (.img); one file is read")
    if head[344:348] != b"n+1\0":
        raise ItemError("unsupported_format", f"{path.name} is packed, but holds no NIfTI-1")
    return _squared(_nifti_header(head, path.name), path.name)


def _nifti_header(head: bytes, name: str) -> VolumeHeader:
    order = "<" if struct.unpack_from("<i", head)[0] == HEADER else ">"
    if struct.unpack_from(f"{order}i", head)[0] != HEADER:
        raise ItemError("damaged_header", f"{name}: the header's own size is not {HEADER}")
    dims = struct.unpack_from(f"{order}8h", head, 40)
    code, bits = struct.unpack_from(f"{order}2h", head, 70)
    pixdim = struct.unpack_from(f"{order}8f", head, 76)
    offset, slope, intercept = struct.unpack_from(f"{order}3f", head, 108)
    units = head[123]
    if not 2 <= dims[0] <= 7 or any(size < 1 for size in dims[1 : dims[0] + 1]):
        raise ItemError("damaged_header", f"{name}: sizes {dims} are none of a picture or a cine")
    if code not in TYPES or bits != 8 * np.dtype(TYPES[code]).itemsize:
        raise ItemError("unsupported_pixels", f"{name}: data type {code} of {bits} bits is not read")
    sizes = list(dims[1 : dims[0] + 1]) + [1, 1]
    # Time is the fourth axis, or, as CAMUS has it, the third.
    if sizes[2] > 1 and any(size > 1 for size in sizes[3:]):
        raise ItemError("unsupported_pixels", f"{name} is a volume over time, not a cine of pictures")
    time_axis = 3 if sizes[2] > 1 else 4
    frames = math.prod(sizes[2:])
    # A third axis of space has its step in units of length; only a fourth one says a time.
    step = pixdim[4] * _MS.get(units & 56, 0.0) if time_axis == 4 else 0.0
    return _made(
        name,
        "nifti",
        frames,
        (sizes[1], sizes[0]),
        (pixdim[1] * _CM.get(units & 7, 0.0), pixdim[2] * _CM.get(units & 7, 0.0)),
        step,
        dtype=order + TYPES[code],
        offset=int(offset) if math.isfinite(offset) and offset >= HEADER else HEADER + 4,
        scale=(slope, intercept),
    )


def _meta_header(head: bytes, name: str) -> VolumeHeader:
    words: dict[str, str] = {}
    for line in head.decode("latin-1").splitlines()[:64]:
        key, _, value = line.partition("=")
        words.setdefault(key.strip(), value.strip())
    if words.get("CompressedData", "False").lower() == "true":
        raise ItemError("unsupported_format", f"{name}: compressed MetaImage is not read")
    kind, data_file = words.get("ElementType", ""), words.get("ElementDataFile", "")
    if kind not in META_TYPES or int(words.get("ElementNumberOfChannels", "1")) != 1:
        raise ItemError("unsupported_pixels", f"{name}: one number a pixel, of a MET_ type up to 64 bits, is read")
    if not data_file or data_file in ("LOCAL", "LIST") or "%" in data_file:
        raise ItemError("unsupported_format", f"{name}: its values must lie in one file beside it")
    if Path(data_file).name != data_file or "\\" in data_file:
        raise ItemError("unsafe_file_name", f"{name} names a file of values in another folder")
    sizes = [int(size) for size in words["DimSize"].split()]
    if not 2 <= len(sizes) <= 4 or any(size < 1 for size in sizes):
        raise ItemError("damaged_header", f"{name}: sizes {sizes} are none of a picture or a cine")
    spacing = [float(step) for step in words.get("ElementSpacing", "0 0").split()] + [0.0, 0.0]
    most = "true" in (words.get(key, "").lower() for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))
    made = _made(
        name,
        "metaimage",
        math.prod(sizes[2:]),
        (sizes[1], sizes[0]),
        (spacing[0] * _CM[2], spacing[1] * _CM[2]),
        0.0,
        dtype=(">" if most else "<") + META_TYPES[kind],
        offset=0,
        scale=(0.0, 0.0),
    )
    return replace(made, data_file=data_file)


def _made(
    name: str,
    layout: Literal["nifti", "metaimage"],
    frames: int,
    size: tuple[int, int],
    cm: tuple[float, float],
    step_ms: float,
    *,
    dtype: str,
    offset: int,
    scale: tuple[float, float],
) -> VolumeHeader:
    """A header whose numbers are believable. `size`: rows, columns as stored; `cm`: a pixel's width and height."""
    if frames * size[0] * size[1] * max(3, np.dtype(dtype).itemsize) > MAX_BYTES:
        raise ItemError("too_large", f"{name}: {frames} frames of {size[0]} x {size[1]} need more than {MAX_BYTES} bytes")
    defects = ["no_regions"]
    source = "header"
    if frames < 2:
        step_ms, source = 0.0, ""
    elif not 0.5 <= step_ms <= MAX_FRAME_MS:
        step_ms, source = DEFAULT_FRAME_MS, "assumed"
        defects.append("frame_time_assumed")
    across, down = (abs(side) if math.isfinite(side) else 0.0 for side in cm)
    rows, columns, cm_per_px = size[0], size[1], None
    if across > 0 and down > 0 and max(across, down) <= MAX_STRETCH * min(across, down):
        cm_per_px = min(across, down)
        if max(across, down) > (1 + SQUARE) * cm_per_px:
            rows, columns = max(1, round(rows * down / cm_per_px)), max(1, round(columns * across / cm_per_px))
            defects.append("pixels_made_square")
    slope, intercept = scale if all(map(math.isfinite, scale)) and scale[0] != 0 else (1.0, 0.0)
    return VolumeHeader(
        layout=layout,
        num_frames=frames,
        rows=rows,
        columns=columns,
        frame_time_ms=step_ms,
        frame_time_source=source,
        cm_per_px=cm_per_px,
        defects=tuple(defects),
        stored=size,
        dtype=dtype,
        offset=offset,
        slope=slope,
        intercept=intercept,
    )


def _squared(header: VolumeHeader, name: str) -> VolumeHeader:
    if header.num_frames * header.rows * header.columns * 3 > MAX_BYTES:
        raise ItemError("too_large", f"{name}: with square pixels its frames need more than {MAX_BYTES} bytes")
    return header


def _values(path: Path, header: VolumeHeader) -> npt.NDArray[Any]:
    """(T, H, W) as stored, before `slope`."""
    source = path.with_name(header.data_file) if header.data_file else path
    size_of(source)
    rows, columns = header.stored
    wanted = header.num_frames * rows * columns * np.dtype(header.dtype).itemsize
    with source.open("rb") as file:
        data = _take(file, header.offset + wanted, path.name)[header.offset :]
    if len(data) < wanted:
        raise ItemError("truncated", f"{path.name}: {wanted} bytes of values are announced, {len(data)} are there")
    values = np.frombuffer(data, header.dtype).reshape(header.num_frames, rows, columns)
    if (header.slope, header.intercept) == (1.0, 0.0):
        return values
    return values.astype(np.float64) * header.slope + header.intercept


def _to_grey(values: npt.NDArray[Any], name: str) -> tuple[U8, tuple[str, ...]]:
    """0 to 255 is kept; what lies in 0 to 1 (and is no integer), or beyond 255 or below 0, is stretched over 0 to 255."""
    if values.dtype == np.uint8:
        return np.asarray(values, np.uint8), ()
    if not np.isfinite(values).all():
        raise ItemError("undecodable", f"{name} holds values that are not finite")
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 255 and (values.dtype.kind in "iu" or high > 1):
        return np.asarray(np.rint(values), np.uint8), ()
    low = min(low, 0.0)
    stretched = (values.astype(np.float64) - low) * (255.0 / (high - low) if high > low else 0.0)
    return np.asarray(np.rint(stretched), np.uint8), ("intensity_rescaled",)


def _take(file: BinaryIO, size: int, name: str, *, short: bool = False) -> bytes:
    """The first `size` bytes, unpacked where they are packed; no more is ever unpacked. `short`: fewer will do."""
    packed = file.read(2) == _GZIP
    file.seek(0)
    if not packed:
        return file.read(size)
    unpack, content = zlib.decompressobj(16 + zlib.MAX_WBITS), bytearray()
    while len(content) < size and not unpack.eof:
        block = unpack.unconsumed_tail or file.read(1 << 20)
        if not block:
            if short:
                break
            raise ItemError("truncated", f"{name} ends inside its gzip data")
        try:
            content += unpack.decompress(block, min(size - len(content), 1 << 24))
        except zlib.error as err:
            raise ItemError("undecodable", f"{name}: its gzip data are damaged") from err
    return bytes(content)
