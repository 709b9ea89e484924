"""DICOM ultrasound multi-frame -> EchoClip: tags through pydicom, pixels through `jpeg` (most of echo), `video` and `pixels`.

Source of the tags' meaning and of the order of the sources of time: DICOM PS3.3 C.7.6.5, C.8.5.5, C.8.5.6.
"""

from __future__ import annotations

import io
import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pydicom
from pydicom.uid import UID

from ecgecho.io import jpeg, pixels, video
from ecgecho.io.files import MAX_BYTES, Clipped, size_of
from ecgecho.types import F32, ClipKind, EchoClip, ItemError, Region

DEFAULT_FRAME_MS = 1000.0 / 30.0
"""Assumed, and said so in `defects`, where a file says nothing of time."""
TIME_TOLERANCE = 0.05
MAX_FRAME_MS = 1000.0  # a cine of less than one frame a second is none
CLAMP_PX = 2
"""A region that leaves the image by so little counts pixels from one, or leaves out the last; by more, in other coordinates."""
MAX_REGION_FACTOR = 8
MAX_HEADER = 16 << 20
"""Bytes of a deflated file that are inflated for its header alone."""
ECHO_MODALITIES = ("US", "OT", "SC", "XC", "ES", "")
"""Exports and de-identification write OT, SC and XC for ultrasound."""
_CM = 3  # PhysicalUnitsX/YDirection
_ITEM, _DELIMITER = 0xE000, 0xE0DD
logging.getLogger("pydicom").addHandler(logging.NullHandler())  # damage is reported once, by ItemError


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomHeader:
    """All but the pixels; regions are in pixels of the image."""

    kind: ClipKind
    num_frames: int
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    planar: int
    photometric: str
    transfer_syntax: str
    frame_time_ms: F32
    frame_time_source: str
    """The attribute that `frame_time_ms` comes from; "assumed" where none says it, "" for a still."""
    regions: tuple[Region, ...]
    cm_per_px: float | None
    defects: tuple[str, ...]


def read(path: Path, *, decode: Literal["full", "dct"] = "full", least: int = 224) -> EchoClip:
    """All frames of a cine as RGB; with "dct", 8-bit JPEG at 1/2, 1/4 or 1/8 of its size, no smaller than `least`."""
    size_of(path)
    with readable(path), Clipped(path) as file:
        dataset, header, stream = _header(file, path.name)
        if header.kind in ("still", "spectral", "m_mode"):
            raise ItemError(header.kind, f"{path.name} is a {header.kind} image; a 2-D cine is wanted", outcome="excluded")
        need = header.num_frames * header.rows * header.columns * 3
        if need > MAX_BYTES:
            raise ItemError("too_large", f"{path.name}: the header promises {need} bytes of pixels, more than {MAX_BYTES}")
        scale = jpeg.scale_for(header.rows, header.columns, least) if decode == "dct" else 1
        frames, mended = _pixels(stream, dataset, header, path, scale)
    regions, cm_per_px = header.regions, header.cm_per_px
    if frames.shape[1:3] != (header.rows, header.columns):
        regions = _scaled(regions, scale, frames.shape[1], frames.shape[2])
        cm_per_px = cm_per_px * scale if cm_per_px is not None else None
    return EchoClip(
        frames=frames,
        frame_time_ms=header.frame_time_ms,
        regions=regions,
        kind=header.kind,
        cm_per_px=cm_per_px,
        defects=(*header.defects, *mended),
    )


def scan(path: Path) -> DicomHeader:
    """The header alone; the pixels stay on disk."""
    size_of(path)
    with readable(path), Clipped(path) as file:
        return _header(file, path.name, most=MAX_HEADER)[1]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """pydicom meets damaged bytes with any exception there is, and quotes values, which may be a patient's; the user gets one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ItemError, MemoryError):
        raise
    except OSError as err:
        if err.errno is None:  # Pillow and pydicom raise it for damaged data
            raise ItemError("undecodable", f"{path.name}: {type(err).__name__} while it was read") from None
        raise ItemError("unreadable", f"{path.name}: {err.strerror}", permanent=False) from err
    except Exception as err:
        raise ItemError("undecodable", f"{path.name}: {type(err).__name__} while it was read") from None


def _header(file: BinaryIO, name: str, *, most: int = MAX_BYTES) -> tuple[Any, DicomHeader, BinaryIO]:
    """Reads up to the pixels; the stream, of which `most` bytes are inflated, is left at the Pixel Data element."""
    head = file.read(132)
    file.seek(0)
    # Files from before 1993 have no preamble and begin with a low, even group number.
    old = head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\x00"
    if head[128:] != b"DICM" and not old:
        raise ItemError("not_dicom", f"{name} does not begin as a DICOM file does")
    inflated = None if old else _inflated(file, name, most)
    stream = file if inflated is None else inflated
    try:
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=old or inflated is not None)
        implicit, little_endian = (True if known is None else bool(known) for known in dataset.original_encoding)
        native = pixels.IMPLICIT_LE if implicit else pixels.EXPLICIT_LE if little_endian else pixels.EXPLICIT_BE
        transfer_syntax = str(dataset.file_meta.get("TransferSyntaxUID") or native) if inflated is None else pixels.DEFLATED
        modality = str(dataset.get("Modality") or "")
        rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
        num_frames = _number(dataset.get("NumberOfFrames"))
        samples = int(dataset.get("SamplesPerPixel") or 1)
        bits = int(dataset.get("BitsAllocated") or 8)
        bits_stored = int(dataset.get("BitsStored") or bits)
        signed = int(dataset.get("PixelRepresentation") or 0) == 1
        planar = int(dataset.get("PlanarConfiguration") or 0)
        photometric = str(dataset.get("PhotometricInterpretation") or "")
        sop_class = str(dataset.get("SOPClassUID") or "")
    except (OSError, MemoryError):
        raise
    except Exception as err:
        raise ItemError("damaged_header", f"{name}: {type(err).__name__} in its header") from None
    if modality not in ECHO_MODALITIES:
        raise ItemError("not_ultrasound", f"{name} has modality {modality}", outcome="excluded")
    if rows < 1 or columns < 1:
        if "Ultrasound" in UID(sop_class).name:
            raise ItemError("truncated", f"{name} ends before its image is described")
        raise ItemError("no_pixels", f"{name} holds no image", outcome="excluded")
    if samples not in (1, 3) or bits not in (8, 16) or not 1 <= bits_stored <= bits:
        raise ItemError("unsupported_pixels", f"{name} has {samples} samples of {bits} bits; 1 or 3 of 8 or 16 are read")
    frames = 1 if num_frames is None or num_frames < 1 else int(num_frames)
    if frames * rows * columns * 3 > 1 << 50:
        raise ItemError("damaged_header", f"{name} says it has {frames} frames of {rows} x {columns}")
    try:
        regions, factor, defects = _regions(dataset, rows, columns)
        kind = _kind(dataset, frames, regions)
        # Times only where a decoder could hold the frames; a header that promises 10^9 frames costs nothing.
        fits = frames * rows * columns * 3 <= MAX_BYTES
        times, time_source, time_defects = _frame_times(dataset, frames) if fits else (np.zeros(1, np.float32), "", [])
        type_defects = _image_type(dataset, kind)
        cm_per_px = _cm_per_px(dataset, factor)
    except MemoryError:
        raise
    except Exception as err:
        raise ItemError("damaged_header", f"{name}: {type(err).__name__} in its header") from None
    header = DicomHeader(
        kind=kind,
        num_frames=frames,
        rows=rows,
        columns=columns,
        samples=samples,
        bits_allocated=bits,
        bits_stored=bits_stored,
        signed=signed,
        planar=planar,
        photometric=photometric,
        transfer_syntax=transfer_syntax,
        frame_time_ms=times,
        frame_time_source=time_source,
        regions=regions,
        cm_per_px=cm_per_px,
        defects=(*defects, *time_defects, *type_defects),
    )
    return dataset, header, stream


def _inflated(file: BinaryIO, name: str, most: int) -> BinaryIO | None:
    """What a deflated data set inflates to, with a bound; None where the file's transfer syntax is another."""
    at, syntax = 132, b""
    while True:
        file.seek(at)
        head = file.read(12)
        if len(head) < 8 or head[:2] != b"\x02\x00":
            break
        long = head[4:6] in (b"OB", b"OW", b"UN", b"UT", b"SQ", b"UC", b"UR")
        length = int.from_bytes(head[8:12] if long else head[6:8], "little")
        at += 12 if long else 8
        if head[2:4] == b"\x10\x00":
            file.seek(at)
            syntax = file.read(min(length, 64)).strip(b"\0 ")
        at += length
    file.seek(at if syntax.decode("ascii", "replace") == pixels.DEFLATED else 0)
    if file.tell() == 0:
        return None
    inflate, content = zlib.decompressobj(-zlib.MAX_WBITS), bytearray()
    while len(content) < most and not inflate.eof:
        packed = inflate.unconsumed_tail or file.read(1 << 20)
        if not packed:
            raise ItemError("truncated", f"{name} ends inside its deflated data")
        try:
            content += inflate.decompress(packed, min(most - len(content), 1 << 24))
        except zlib.error as err:
            raise ItemError("undecodable", f"{name}: its deflated data are damaged") from err
    if not inflate.eof and most >= MAX_BYTES:
        raise ItemError("too_large", f"{name} inflates to more than {MAX_BYTES} bytes")
    return io.BytesIO(content)


def _image_type(dataset: Any, kind: ClipKind) -> list[str]:
    """What ImageType says that the other tags do not. Noted only: how makers use its values is UNVERIFIED. "DERIVED" is no news:
    every file that was compressed with loss is.

    Value 4 adds up hexadecimal codes of what the image holds (PS3.3 C.8.5.6.1.1): 1 two-dimensional, 2 M-mode, 4 CW, 8 PW, 10
    colour Doppler, 20 colour M-mode, 40 three-dimensional, 100 colour power.
    """
    value = dataset.get("ImageType")
    words = [str(word).strip().upper() for word in value] if isinstance(value, (list, pydicom.multival.MultiValue)) else []
    found = []
    if any("STRESS" in word for word in words[2:]) or dataset.get("StageName") or dataset.get("StageNumber"):
        found.append("stress_stage")
    code = words[3] if len(words) > 3 else ""
    if 0 < len(code) <= 4 and all(digit in "0123456789ABCDEF" for digit in code):
        bits = int(code, 16)
        if bits & 0x40:
            found.append("image_type_3d")
        flat = kind in ("b_mode", "colour")
        if (flat and bits & (0x02 | 0x04 | 0x08 | 0x20)) or (kind == "b_mode" and bits & (0x10 | 0x100)):
            found.append("image_type_differs")
    elif any(word in ("3D", "4D", "VOLUME", "STRAIN") for word in words[2:]):
        found.append("image_type_unusual")
    return found


def _regions(dataset: Any, rows: int, columns: int) -> tuple[tuple[Region, ...], int, list[str]]:
    """Regions in image pixels, the factor their coordinates were divided by, defects."""
    found: list[Region] = []
    for item in dataset.get("SequenceOfUltrasoundRegions") or ():
        corners = [_number(item.get(f"RegionLocation{corner}")) for corner in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        numbers = [_number(item.get(name)) for name in ("RegionSpatialFormat", "RegionDataType")]
        if any(corner is None or corner < 0 for corner in corners):
            continue
        x0, y0, x1, y1 = (int(corner) for corner in corners if corner is not None)
        if x1 > x0 and y1 > y0:
            found.append(Region(x0=x0, y0=y0, x1=x1, y1=y1, spatial_format=int(numbers[0] or 0), data_type=int(numbers[1] or 0)))
    if not found:
        return (), 1, ["no_regions"]
    right, bottom = max(region.x1 for region in found), max(region.y1 for region in found)
    if right < columns and bottom < rows:
        return tuple(found), 1, []
    if right < columns + CLAMP_PX and bottom < rows + CLAMP_PX:
        return _scaled(found, 1, rows, columns), 1, ["region_clamped"]
    for factor in range(2, MAX_REGION_FACTOR + 1):
        if right // factor < columns and bottom // factor < rows:
            return _scaled(found, factor, rows, columns), factor, ["region_rescaled"]
    return (), 1, ["region_outside_image"]


def _scaled(regions: Sequence[Region], factor: int, rows: int, columns: int) -> tuple[Region, ...]:
    return tuple(
        Region(
            x0=min(region.x0 // factor, columns - 1),
            y0=min(region.y0 // factor, rows - 1),
            x1=min(region.x1 // factor, columns - 1),
            y1=min(region.y1 // factor, rows - 1),
            spatial_format=region.spatial_format,
            data_type=region.data_type,
        )
        for region in regions
    )


def _kind(dataset: Any, num_frames: int, regions: tuple[Region, ...]) -> ClipKind:
    formats = {region.spatial_format for region in regions}
    if num_frames <= 1:
        return "still"
    if 3 in formats:
        return "spectral"
    if 2 in formats:
        return "m_mode"
    colour = any(region.data_type == 2 for region in regions) or _number(dataset.get("UltrasoundColorDataPresent")) == 1
    return "colour" if colour else "b_mode"


def _frame_times(dataset: Any, num_frames: int) -> tuple[F32, str, list[str]]:
    """(T,) ms since the first frame, their source, defects.

    FrameTime, FrameTimeVector, CineRate, RecommendedDisplayFrameRate, ActualFrameDuration: the first that is plausible.

    The vector comes first where FrameIncrementPointer names it and it is valid.
    """
    if num_frames <= 1:
        return np.zeros(1, np.float32), "", []
    sources: dict[str, float] = {}
    interval = _number(dataset.get("FrameTime"))
    if _plausible(interval):
        sources["FrameTime"] = float(interval or 0)
    vector = _time_vector(dataset, num_frames)
    if vector is not None:
        sources["FrameTimeVector"] = float(vector[-1] / (num_frames - 1))
    for name in ("CineRate", "RecommendedDisplayFrameRate"):
        rate = _number(dataset.get(name))
        if rate and rate > 0 and _plausible(1000.0 / rate):
            sources[name] = 1000.0 / rate
    duration = _number(dataset.get("ActualFrameDuration"))
    if _plausible(duration):
        sources["ActualFrameDuration"] = float(duration or 0)
    if not sources:
        return (np.arange(num_frames) * DEFAULT_FRAME_MS).astype(np.float32), "assumed", ["frame_time_assumed"]
    pointed = vector is not None and _points_at_vector(dataset)
    first = "FrameTimeVector" if pointed else next(iter(sources))
    differs = any(abs(other / sources[first] - 1.0) > TIME_TOLERANCE for other in sources.values())
    times = vector if first == "FrameTimeVector" and vector is not None else np.arange(num_frames) * sources[first]
    return times.astype(np.float32), first, ["frame_time_differs"] if differs else []


def _time_vector(dataset: Any, num_frames: int) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    value = dataset.get("FrameTimeVector")
    if value is None or isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or len(value) != num_frames:
        return None
    steps = np.array([_number(step) or 0.0 for step in value], np.float64)
    if steps[0] != 0 or not (np.isfinite(steps).all() and (steps[1:] > 0).all() and (steps <= MAX_FRAME_MS).all()):
        return None
    return np.cumsum(steps)


def _points_at_vector(dataset: Any) -> bool:
    pointer = dataset.get("FrameIncrementPointer")
    tags = list(pointer) if isinstance(pointer, (list, pydicom.multival.MultiValue)) else [pointer]
    return any(tag is not None and int(tag) == 0x00181065 for tag in tags)


def _plausible(interval_ms: float | None) -> bool:
    return interval_ms is not None and 0.5 <= interval_ms <= MAX_FRAME_MS


def _cm_per_px(dataset: Any, factor: int) -> float | None:
    """Of the largest 2-D region, in pixels of the image; where x and y differ by more than 1 %, or nothing is said, None."""
    best, spacing = 0.0, None
    for item in dataset.get("SequenceOfUltrasoundRegions") or ():
        units = (_number(item.get("PhysicalUnitsXDirection")), _number(item.get("PhysicalUnitsYDirection")))
        deltas = (_number(item.get("PhysicalDeltaX")), _number(item.get("PhysicalDeltaY")))
        if _number(item.get("RegionSpatialFormat")) != 1 or units != (_CM, _CM) or None in deltas:
            continue
        x, y = abs(deltas[0] or 0.0), abs(deltas[1] or 0.0)
        area = (_number(item.get("RegionLocationMaxX1")) or 0.0) - (_number(item.get("RegionLocationMinX0")) or 0.0)
        area *= (_number(item.get("RegionLocationMaxY1")) or 0.0) - (_number(item.get("RegionLocationMinY0")) or 0.0)
        if area > best and x > 0 and abs(x / y - 1.0 if y else 1.0) <= 0.01:
            best, spacing = area, x * factor
    if spacing is not None:
        return spacing
    pixel = dataset.get("PixelSpacing")
    if pixel is not None and hasattr(pixel, "__len__") and len(pixel) == 2:
        y, x = (_number(pixel[0]) or 0.0), (_number(pixel[1]) or 0.0)
        if x > 0 and y > 0 and abs(x / y - 1.0) <= 0.01:
            return x / 10.0
    return None


def _number(value: Any) -> float | None:
    """A finite number, or None for what is absent, empty or no number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _pixels(file: BinaryIO, dataset: Any, header: DicomHeader, path: Path, scale: int) -> pixels.Pixels:
    name, syntax = path.name, header.transfer_syntax
    if syntax not in pixels.NATIVE and syntax not in pixels.VIDEO and pixels.code_of(syntax) is None:
        raise pixels.unsupported(syntax, name)
    implicit, little_endian = (True if known is None else bool(known) for known in dataset.original_encoding)
    length, value_type = _pixel_element(file, name, implicit=implicit, little_endian=little_endian)
    if (length is None) == (syntax in pixels.NATIVE):
        shown = "fragments" if length is None else "one piece"
        raise ItemError("undecodable", f"{name}: its pixels lie in {shown}, but its transfer syntax is {UID(syntax).name}")
    if length is not None:
        left = _left(file)
        if length > left:
            raise ItemError("truncated", f"{name}: {length} bytes of pixels are announced, {left} are there")
        swapped = syntax == pixels.EXPLICIT_BE and header.bits_allocated == 8 and value_type == b"OW"
        return pixels.decode_native(file, length, header, dataset, name, swapped=swapped)
    fragments = list(_fragments(file.read(), name))
    if syntax in pixels.VIDEO:
        size = (header.rows, header.columns)
        return video.read_stream(b"".join(fragments), num_frames=header.num_frames, size=size, name=name), ()
    if pixels.code_of(syntax) == "jpeg" and header.photometric != "PALETTE COLOR":
        frames = pixels.split(fragments, header.num_frames, "jpeg", name)
        # The syntax is often wrong in kind; the code's own header is not.
        if jpeg.parse_header(frames[0]).is_dct_8_bit:
            return jpeg.decode(
                frames,
                rows=header.rows,
                columns=header.columns,
                samples=header.samples,
                photometric=header.photometric,
                scale=scale,
            )
    return pixels.decode_frames(fragments, header, dataset, name)


def _left(file: BinaryIO) -> int:
    here = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(here)
    return end - here


def _pixel_element(file: BinaryIO, name: str, *, implicit: bool, little_endian: bool) -> tuple[int | None, bytes]:
    """Length of the Pixel Data element, None where it is encapsulated, and its type; `file` is left at its value."""
    order = "<" if little_endian else ">"
    tag = file.read(4)
    if len(tag) < 4:
        raise ItemError("truncated", f"{name} ends before its pixels")
    if struct.unpack(order + "HH", tag) != (0x7FE0, 0x0010):
        raise ItemError("unsupported_pixels", f"{name} has no Pixel Data element where its header ends")
    rest = file.read(4 if implicit else 8)
    if len(rest) < (4 if implicit else 8):
        raise ItemError("truncated", f"{name} ends before its pixels")
    length = int(struct.unpack(order + "L", rest[-4:])[0])
    return None if length == 0xFFFFFFFF else length, b"OW" if implicit else rest[:2]


def _fragments(data: bytes, name: str) -> Iterator[bytes]:
    """The items of an encapsulated Pixel Data element, without the offset table; a missing end is a truncated file."""
    position, number = 0, 0
    while True:
        if position + 8 > len(data):
            raise ItemError("truncated", f"{name} ends after {max(number - 1, 0)} fragments, with no end of the sequence")
        group, element, length = struct.unpack_from("<HHL", data, position)
        if (group, element) == (0xFFFE, _DELIMITER):
            return
        if (group, element) != (0xFFFE, _ITEM):
            raise ItemError("undecodable", f"{name}: fragment {number} does not begin as an item does")
        position += 8
        if position + length > len(data):
            raise ItemError("truncated", f"{name} ends inside fragment {max(number - 1, 0)}")
        if number > 0:
            yield data[position : position + length]
        position += length
        number += 1
