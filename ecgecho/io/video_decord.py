"""AVI and MP4 through decord, where PyAV is not installed. It says less of damage, and gives no frame times: docs/decoding.md."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ecgecho.io import video
from ecgecho.types import U8, ItemError


def read(path: Path) -> tuple[video.VideoHeader, U8]:
    """The header, and all frames (T, H, W, 3)."""
    reader, header = _open(path)
    if header.num_frames < 2:
        raise ItemError("still", f"{path.name} has one frame; a cine is wanted", outcome="excluded")
    frames = np.empty((header.num_frames, header.rows, header.columns, 3), np.uint8)
    number = 0
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
        raise ItemError("undecodable", f"{path.name}, frame {number}: {type(err).__name__}") from err
    return header, frames


def scan(path: Path) -> video.VideoHeader:
    """The container's header."""
    return _open(path)[1]


def _open(path: Path) -> tuple[Any, video.VideoHeader]:
    # decord asks again 10,240 times for a frame that a truncated file does not hold; that takes minutes.
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "64")
    import decord

    container, promised = video.checked_header(path)
    decord.logging.set_level(decord.logging.FATAL)
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        num_frames, rate = len(reader), float(reader.get_avg_fps())
        rows, columns, _ = reader[0].shape
        reader.seek(0)
    except MemoryError:
        raise
    except Exception as err:
        # decord's messages carry a C++ stack and absolute paths.
        raise ItemError("undecodable", f"{path.name}: {type(err).__name__}") from err
    header = video.make_header(
        path.name, container, num_frames=num_frames, promised=promised, shape=(int(rows), int(columns)), rate=rate
    )
    return reader, header
