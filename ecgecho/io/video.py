"""AVI and MP4 -> EchoClip, through decord. Such files have no tags: kind is taken as b_mode, times come from the frame rate."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecgecho.io.files import MAX_BYTES, size_of
from ecgecho.types import EchoClip, ItemError

DEFAULT_FRAME_MS = 1000.0 / 30.0
"""Assumed, and said so in `defects`, where a file has no frame rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoHeader:
    """What the container says."""

    container: str
    num_frames: int
    rows: int
    columns: int
    frame_time_ms: float
    defects: tuple[str, ...]


def container_of(head: bytes) -> str:
    """ "avi", "mp4" or "" from the first bytes of a file."""
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    return "mp4" if head[4:8] == b"ftyp" else ""


def read(path: Path) -> EchoClip:
    """All frames of a video."""
    reader, header = _open(path)
    if header.num_frames < 2:
        raise ItemError("still", f"{path.name} has one frame; a cine is wanted", outcome="excluded")
    frames = np.empty((header.num_frames, header.rows, header.columns, 3), np.uint8)
    try:
        for number in range(header.num_frames):
            frames[number] = reader.next().asnumpy()
    except StopIteration as err:
        raise ItemError(
            "frame_count_differs", f"{path.name}: the header says {header.num_frames} frames, {number} are there"
        ) from err
    except MemoryError:
        raise
    except Exception as err:
        raise ItemError("undecodable", f"{path.name}, frame {number}: {_first_line(err)}") from err
    return EchoClip(
        frames=frames,
        frame_time_ms=(np.arange(header.num_frames) * header.frame_time_ms).astype(np.float32),
        regions=(),
        kind="b_mode",
        cm_per_px=None,
        defects=header.defects,
    )


def scan(path: Path) -> VideoHeader:
    """The container's header."""
    return _open(path)[1]


def _open(path: Path) -> tuple[Any, VideoHeader]:
    # decord asks again 10,240 times for a frame that a truncated file does not hold; that takes minutes.
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "64")
    import decord

    size = size_of(path)
    with path.open("rb") as file:
        head = file.read(512)
    container = container_of(head)
    promised = _check_avi(head, size, path.name) if container == "avi" else 0
    decord.logging.set_level(decord.logging.FATAL)
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        num_frames = len(reader)
        rate = float(reader.get_avg_fps())
        rows, columns = _shape(reader)
        reader.seek(0)
    except MemoryError:
        raise
    except Exception as err:
        raise ItemError("undecodable", f"{path.name}: {_first_line(err)}") from err
    if num_frames < 1:
        raise ItemError("undecodable", f"{path.name} holds no frame")
    if num_frames < promised:
        raise ItemError("frame_count_differs", f"{path.name}: the header says {promised} frames, {num_frames} are there")
    if num_frames * rows * columns * 3 > MAX_BYTES:
        raise ItemError("too_large", f"{path.name}: {num_frames} frames of {rows} x {columns} need more than {MAX_BYTES} bytes")
    defects = ["no_regions"]
    if not (math.isfinite(rate) and 1.0 <= rate <= 1000.0):
        defects.append("frame_time_assumed")
        rate = 1000.0 / DEFAULT_FRAME_MS
    return reader, VideoHeader(
        container=container,
        num_frames=num_frames,
        rows=rows,
        columns=columns,
        frame_time_ms=1000.0 / rate,
        defects=tuple(defects),
    )


def _check_avi(head: bytes, size: int, name: str) -> int:
    """The frames an AVI's header promises. The library counts those that are there and says nothing of the rest."""
    # Writers that were stopped leave 0 or the largest number in place of the size.
    announced = int.from_bytes(head[4:8], "little")
    if size < announced + 8 and announced < 0xFFFFFF00:
        raise ItemError("truncated", f"{name}: {announced + 8} bytes are announced, {size} are there")
    at = head.find(b"avih")
    return int.from_bytes(head[at + 24 : at + 28], "little") if at >= 0 else 0


def _shape(reader: Any) -> tuple[int, int]:
    rows, columns, _ = reader[0].shape
    return int(rows), int(columns)


def _first_line(err: Exception) -> str:
    # decord's messages carry a C++ stack and absolute paths.
    return type(err).__name__
