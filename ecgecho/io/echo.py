"""An echo file of any kind -> EchoClip; its first bytes, then its name, decide which reader takes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ecgecho.io import dicom, nifti, video
from ecgecho.io.files import read_bytes
from ecgecho.types import ClipKind, EchoClip, ItemError, Region

Decode = Literal["full", "dct"]
VIDEO_SUFFIXES = (".avi", ".mp4", ".m4v", ".mov")


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoHeader:
    """What is known of an echo file without its pixels."""

    kind: ClipKind
    num_frames: int
    rows: int
    columns: int
    transfer_syntax: str
    """A DICOM transfer syntax UID, or "avi", "mp4", "nifti", "metaimage"."""
    frame_time_ms: float
    """Mean interval between frames; 0 for a still."""
    frame_time_source: str = ""
    """Where that comes from: a DICOM attribute's name, "container", "header" (NIfTI, MetaImage), "assumed"; "" for a still."""
    photometric: str = ""
    """PhotometricInterpretation as the tag has it; "" outside DICOM."""
    regions: tuple[Region, ...] = ()
    defects: tuple[str, ...] = ()


def read_echo(path: Path | str, *, decode: Decode = "full", least: int = 224) -> EchoClip:
    """All frames of a cine, RGB once and only once. ItemError: excluded for what is no cine, failed for what cannot be read.

    "full" gives every pixel. "dct" lets the JPEG decoder make the picture 1/2, 1/4 or 1/8 as large, whichever is the
    smallest with a short side of at least `least` pixels; regions and cm_per_px are of that picture. What is no 8-bit JPEG
    in DICOM is decoded in full.
    """
    path = Path(path)
    reader = _reader(path)
    if reader == "dicom":
        return dicom.read(path, decode=decode, least=least)
    return video.read(path) if reader == "video" else nifti.read(path)


def scan_echo(path: Path | str) -> EchoHeader:
    """The header alone; excludes nothing: a still or a spectral clip has its `kind`."""
    path = Path(path)
    reader = _reader(path)
    if reader == "volume":
        volume = nifti.scan(path)
        return EchoHeader(
            kind="b_mode" if volume.num_frames > 1 else "still",
            num_frames=volume.num_frames,
            rows=volume.rows,
            columns=volume.columns,
            transfer_syntax=volume.layout,
            frame_time_ms=volume.frame_time_ms,
            frame_time_source=volume.frame_time_source,
            defects=volume.defects,
        )
    if reader == "video":
        found = video.scan(path)
        source = "assumed" if "frame_time_assumed" in found.defects else "container"
        return EchoHeader(
            kind="b_mode" if found.num_frames > 1 else "still",
            num_frames=found.num_frames,
            rows=found.rows,
            columns=found.columns,
            transfer_syntax=found.container,
            frame_time_ms=found.frame_time_ms if found.num_frames > 1 else 0.0,
            frame_time_source=source if found.num_frames > 1 else "",
            defects=found.defects,
        )
    header = dicom.scan(path)
    times = header.frame_time_ms
    return EchoHeader(
        kind=header.kind,
        num_frames=header.num_frames,
        rows=header.rows,
        columns=header.columns,
        transfer_syntax=header.transfer_syntax,
        frame_time_ms=float(times[-1] / (len(times) - 1)) if len(times) > 1 else 0.0,
        frame_time_source=header.frame_time_source,
        photometric=header.photometric,
        regions=header.regions,
        defects=header.defects,
    )


def _reader(path: Path) -> Literal["dicom", "video", "volume"]:
    head = read_bytes(path, size=nifti.HEADER)
    if head[128:132] == b"DICM":
        return "dicom"
    if video.container_of(head):
        return "video"
    if nifti.is_volume(head):
        return "volume"
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise ItemError("not_video", f"{path.name} is named like a video, but its first bytes are of neither AVI nor MP4")
    return "dicom"
