"""AVI and MP4 -> EchoClip, through PyAV. Such files have no tags: kind is taken as b_mode, and there are no regions.

All or nothing: the frames that the container promises, the packets that are there and the frames that come out must agree in
number, and the decoder must have seen no damage; a clip of fewer or mended frames is never returned. Which decoder, and why:
docs/decoding.md. Where PyAV is not installed, decord takes its place (video_decord).
"""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ecgecho.io.files import MAX_BYTES, size_of
from ecgecho.types import F32, U8, EchoClip, ItemError

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_FRAME_MS = 1000.0 / 30.0
"""Assumed, and said so in `defects`, where a file has no frame rate."""
MAX_STEP_MS = 1000.0
"""Longer pauses between frames are no cine's; such times are not believed."""
TS_SYNC = 0x47
"""First byte of each 188 of a transport stream."""
STRICT = {"err_detect": "explode", "threads": "1"}
"""The decoder refuses what it would otherwise conceal: grey or smeared blocks of a damaged frame."""


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


def decoder() -> str:
    """ "av" or "decord": what reads videos here. Its version belongs into the provenance of what is made from them."""
    return "av" if importlib.util.find_spec("av") else "decord"


def read(path: Path) -> EchoClip:
    """All frames of a video."""
    if decoder() == "decord":
        from ecgecho.io import video_decord

        header, frames = video_decord.read(path)
        return _clip(header, frames, [])
    with _readable(path.name), _file(path) as file:
        header = _scan(file, path)
        if header.num_frames < 2:
            raise ItemError("still", f"{path.name} has one frame; a cine is wanted", outcome="excluded")
        frames, times = _decode(file, header, path.name)
    return _clip(header, frames, times)


def read_stream(data: bytes, *, num_frames: int, size: tuple[int, int], name: str) -> U8:
    """All frames (T, H, W, 3) of the MPEG-2, H.264 or HEVC stream that a DICOM file holds, as its header promises them.

    Matrix and range are those the stream states; BT.601 and studio range where it states none (all that grey needs).
    """
    if not importlib.util.find_spec("av"):
        raise ItemError("unsupported_transfer_syntax", f"{name} holds MPEG video; install av to read it")
    container = stream_of(data)
    if not container:
        raise ItemError("undecodable", f"{name}: its pixels begin as no MPEG stream, transport stream or MP4 does")
    header = VideoHeader(
        container=container, num_frames=num_frames, rows=size[0], columns=size[1], frame_time_ms=DEFAULT_FRAME_MS, defects=()
    )
    with _readable(name):
        frames: U8 = _decode(io.BytesIO(data), header, name)[0]
    return frames


def stream_of(data: bytes) -> str:
    """FFmpeg's name of a stream or its container, from its first bytes; "" for none of them."""
    if data[4:8] == b"ftyp":
        return "mp4"
    if len(data) > 188 and data[0] == data[188] == TS_SYNC:
        return "mpegts"
    start = 4 if data.startswith(b"\0\0\0\1") else 3
    if not data.startswith((b"\0\0\1", b"\0\0\0\1")) or len(data) < start + 2:
        return ""
    if data[start] == 0xBA:
        return "mpeg"
    if data[start] == 0xB3:
        return "mpegvideo"
    # H.264 begins with a parameter set (7) or a delimiter (9), HEVC with 32 to 35, whose header has two bytes.
    if data[start] & 0x9F in (7, 9, 6):
        return "h264"
    return "hevc" if (data[start] & 0x81, data[start] >> 1 & 0x3F) in [(0, kind) for kind in (32, 33, 34, 35, 39)] else ""


def scan(path: Path) -> VideoHeader:
    """The container's header, held against the packets that are there; nothing is decoded."""
    if decoder() == "decord":
        from ecgecho.io import video_decord

        return video_decord.scan(path)
    with _readable(path.name), _file(path) as file:
        return _scan(file, path)


def checked_header(path: Path) -> tuple[str, int]:
    """The container, and the frames an AVI's header promises (0: nothing is promised); refuses one that is cut."""
    size = size_of(path)
    with path.open("rb") as file:
        head = file.read(512)
    container = container_of(head)
    if not container:
        raise ItemError("not_video", f"the first bytes of {path.name} are of neither AVI nor MP4")
    if container != "avi":
        return container, 0
    # Writers that were stopped leave 0 or the largest number in place of the size.
    announced = int.from_bytes(head[4:8], "little")
    if size < announced + 8 and announced < 0xFFFFFF00:
        raise ItemError("truncated", f"{path.name}: {announced + 8} bytes are announced, {size} are there")
    at = head.find(b"avih")
    return container, int.from_bytes(head[at + 24 : at + 28], "little") if at >= 0 else 0


def make_header(name: str, container: str, *, num_frames: int, promised: int, shape: tuple[int, int], rate: float) -> VideoHeader:
    """A header whose numbers are believable, or ItemError."""
    rows, columns = shape
    if num_frames < 1 or rows < 1 or columns < 1:
        raise ItemError("undecodable", f"{name} holds no frame")
    if num_frames < promised:
        raise ItemError("frame_count_differs", f"{name}: the header says {promised} frames, {num_frames} are there")
    if num_frames * rows * columns * 3 > MAX_BYTES:
        raise ItemError("too_large", f"{name}: {num_frames} frames of {rows} x {columns} need more than {MAX_BYTES} bytes")
    defects = ["no_regions"]
    if not (math.isfinite(rate) and 1.0 <= rate <= 1000.0):
        defects.append("frame_time_assumed")
        rate = 1000.0 / DEFAULT_FRAME_MS
    return VideoHeader(
        container=container,
        num_frames=num_frames,
        rows=rows,
        columns=columns,
        frame_time_ms=1000.0 / rate,
        defects=tuple(defects),
    )


def _clip(header: VideoHeader, frames: Any, times_ms: Sequence[float | None]) -> EchoClip:
    found = _believable(times_ms)
    defects = header.defects
    if found is None:
        found = (np.arange(len(frames)) * header.frame_time_ms).astype(np.float32)
    else:
        defects = tuple(defect for defect in defects if defect != "frame_time_assumed")
    return EchoClip(frames=frames, frame_time_ms=found, regions=(), kind="b_mode", cm_per_px=None, defects=defects)


def _believable(times_ms: Sequence[float | None]) -> F32 | None:
    """(T,) ms since the first frame, where every frame has a time and they rise by steps that a cine has."""
    known = np.array([time for time in times_ms if time is not None], np.float64)
    if len(known) < 2 or len(known) != len(times_ms):
        return None
    steps = np.diff(known)
    return (known - known[0]).astype(np.float32) if ((steps > 0) & (steps <= MAX_STEP_MS)).all() else None


def _scan(file: BinaryIO, path: Path) -> VideoHeader:
    """Counts the packets without decoding them; `file` is left at its beginning."""
    container, promised = checked_header(path)
    with _opened(file, container, path.name) as (source, stream):
        num_packets = 0
        for packet in source.demux(stream):
            if packet.is_corrupt:
                raise ItemError("truncated", f"{path.name} ends or is damaged inside frame {num_packets}")
            num_packets += packet.size > 0  # the last one is empty, and says that no more come
        promised = max(promised, stream.frames)
        rate = float(stream.average_rate or stream.guessed_rate or 0.0)
        shape = (int(stream.codec_context.height), int(stream.codec_context.width))
    return make_header(path.name, container, num_frames=num_packets, promised=promised, shape=shape, rate=rate)


def _decode(file: BinaryIO, header: VideoHeader, name: str) -> tuple[Any, list[float | None]]:
    """Frames (T, H, W, 3) and their times in ms."""
    from av.video.reformatter import VideoReformatter

    frames = np.empty((header.num_frames, header.rows, header.columns, 3), np.uint8)
    times: list[float | None] = []
    to_rgb = VideoReformatter()
    with _opened(file, header.container, name) as (source, stream):
        for packet in source.demux(stream):
            for frame in packet.decode():
                number = len(times)
                if frame.is_corrupt:
                    raise ItemError("undecodable", f"{name}, frame {number}: the decoder found it damaged")
                if number == header.num_frames:
                    raise ItemError("frame_count_differs", f"{name}: more frames come out than the {number} that are in it")
                if (frame.height, frame.width) != (header.rows, header.columns):
                    raise ItemError("undecodable", f"{name}, frame {number} is of another size than the header says")
                frames[number] = to_rgb.reformat(frame, format="rgb24").to_ndarray()
                times.append(None if frame.pts is None else float(frame.pts * frame.time_base) * 1000.0)
    if len(times) != header.num_frames:
        raise ItemError(
            "frame_count_differs", f"{name}: {header.num_frames} frames are in it, the decoder gives {len(times)} of them"
        )
    return frames, times


@contextmanager
def _opened(file: BinaryIO, container: str, name: str) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream. From an open file and of a stated format: no name is ever taken for an address."""
    import av

    # All frames of the file: a damaged edit list or table of times hides some of them without a word.
    options = {"ignore_editlist": "1"} if container == "mp4" else {}
    file.seek(0)
    with av.open(file, mode="r", format=container, options=options) as source:
        stream = source.streams.best("video")
        # Decoding a stream whose parameters could not be read ends the process (PyAV issue 2344).
        if stream is None or stream.codec_context is None:
            raise ItemError("undecodable", f"{name} has no video stream that can be decoded")
        stream.codec_context.options = STRICT
        yield source, stream


def _file(path: Path) -> BinaryIO:
    size_of(path)
    return path.open("rb")


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """FFmpeg meets damaged bytes with many exceptions, whose texts hold absolute paths; the user gets one."""
    from av.error import FFmpegError

    try:
        yield
    except (ItemError, MemoryError):
        raise
    except Exception as err:
        if isinstance(err, OSError) and not isinstance(err, FFmpegError):
            raise ItemError("unreadable", f"{name}: {err.strerror}", permanent=False) from err
        raise ItemError("undecodable", f"{name}: {getattr(err, 'strerror', None) or type(err).__name__}") from err
