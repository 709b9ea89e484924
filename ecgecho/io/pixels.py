"""Pixel Data of DICOM, native or one code a frame, -> RGB, once and only once. 8-bit JPEG is in `jpeg`, MPEG in `video`.

A decoder gives the samples as they are stored; what colour they have is settled once, from the first frame, by the samples
themselves where they are clear, then by what the code says of itself, then by the tag; only then are they turned into RGB.
Every code's size is read from its own header, and held against the tags, before a decoder sees it.

Sources: DICOM PS3.3 C.7.6.3.1.2 (colour), C.7.9 (palettes); PS3.5 8.2, A.4, G (run length); ISO 15444-1 A.5, A.6 (JPEG 2000).
Shape letters: T frames, H rows, W columns, S samples.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import UID

from ecgecho.io import jpeg
from ecgecho.types import U8, ItemError

if TYPE_CHECKING:
    from ecgecho.io.dicom import DicomHeader

_ROOT = "1.2.840.10008.1.2"
IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED = _ROOT, f"{_ROOT}.1", f"{_ROOT}.2", f"{_ROOT}.1.99"
NATIVE = (IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED)
BARE_FRAMES = f"{_ROOT}.1.98"
"""Uncompressed, but one fragment a frame."""
RLE = f"{_ROOT}.5"
JPEG = tuple(f"{_ROOT}.4.{number}" for number in (*range(50, 67), 70))
"""Baseline, extended, lossless, and the retired kinds: the code's own header says which of them it is."""
JPEG_LS = (f"{_ROOT}.4.80", f"{_ROOT}.4.81")
JPEG_2000 = tuple(f"{_ROOT}.4.{number}" for number in (90, 91, 201, 202, 203))
VIDEO = tuple(f"{_ROOT}.4.{number}{cut}" for number in range(100, 109) for cut in ("", ".1"))

Code = Literal["raw", "rle", "jpeg", "jpeg_ls", "jpeg_2000"]
_SUBSAMPLED = ("YBR_FULL_422", "YBR_PARTIAL_422")
Samples = npt.NDArray[Any]
"""uint8 or uint16."""
Colour = Literal["rgb", "ybr"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """(H, W) or (H, W, 3) as stored; what the code itself says of its colour."""

    samples: Samples
    claim: Colour | None = None


def code_of(transfer_syntax: str) -> Code | None:
    """How each frame is coded; None for native pixels, video, and what is not known here."""
    if transfer_syntax == BARE_FRAMES:
        return "raw"
    if transfer_syntax == RLE:
        return "rle"
    if transfer_syntax in JPEG:
        return "jpeg"
    if transfer_syntax in JPEG_LS:
        return "jpeg_ls"
    return "jpeg_2000" if transfer_syntax in JPEG_2000 else None


def unsupported(transfer_syntax: str, name: str, package: str = "") -> ItemError:
    """No decoder, and what to install."""
    known = UID(transfer_syntax).name if transfer_syntax else "an unnamed transfer syntax"
    what = f"install {package}" if package else "none is known to ecgecho; transcode the file"
    return ItemError("unsupported_transfer_syntax", f"{name}: no decoder for {known} ({transfer_syntax}); {what}")


def decode_native(file: BinaryIO, length: int, header: DicomHeader, dataset: Any, name: str, *, swapped: bool) -> Pixels:
    """`length` bytes from where `file` is -> RGB frames. `swapped`: 8-bit samples in words of big-endian order."""
    sizes = _frame_bytes(header)
    full = max(sizes)
    # Some vendors declare 4:2:2 and ship 4:4:4: the length tells.
    size = next((size for size in sorted(sizes, reverse=True) if length >= size * header.num_frames), 0)
    if not size:
        there = length // min(sizes)
        raise ItemError("frame_count_differs", f"{name}: the header says {header.num_frames} frames, {there} are there")
    defects = ("chroma_not_subsampled",) if len(sizes) > 1 and size == full else ()
    frames = (_Frame(samples=_bare(data, header)) for data in _read_frames(file, size, header, name, swapped=swapped))
    found, more = _to_rgb(frames, header, dataset)
    return found, (*defects, *more)


def decode_frames(fragments: Sequence[bytes], header: DicomHeader, dataset: Any, name: str) -> Pixels:
    """Encapsulated frames of any code -> RGB frames."""
    code = code_of(header.transfer_syntax)
    assert code is not None
    frames = split(fragments, header.num_frames, code, name)
    return _to_rgb((_decode(data, number, code, header, name) for number, data in enumerate(frames)), header, dataset)


Pixels = tuple[U8, tuple[str, ...]]
"""(T, H, W, 3) RGB, and what had to be mended."""


def split(fragments: Sequence[bytes], num_frames: int, code: Code, name: str) -> list[bytes]:
    """One code a frame. Offset tables are often empty or wrong; a fragment that begins a code begins a frame."""
    starts: dict[Code, tuple[bytes, ...]] = {
        "jpeg": (b"\xff\xd8",),
        "jpeg_ls": (b"\xff\xd8",),
        "jpeg_2000": (b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP"),
    }
    if code not in starts:
        if len(fragments) != num_frames:
            raise ItemError("frame_count_differs", f"{name}: the header says {num_frames} frames, {len(fragments)} are there")
        return list(fragments)
    begins = [number for number, fragment in enumerate(fragments) if fragment.startswith(starts[code])]
    if not begins or begins[0] != 0:
        raise ItemError("undecodable", f"{name}: its pixels do not begin as their transfer syntax says")
    if len(begins) != num_frames:
        raise ItemError("frame_count_differs", f"{name}: the header says {num_frames} frames, {len(begins)} are there")
    ends = [*begins[1:], len(fragments)]
    return [fragments[a] if b == a + 1 else b"".join(fragments[a:b]) for a, b in zip(begins, ends, strict=True)]


# --- samples as they are stored


def _frame_bytes(header: DicomHeader) -> tuple[int, ...]:
    full = header.rows * header.columns * header.samples * header.bits_allocated // 8
    if header.photometric in _SUBSAMPLED and header.samples == 3 and header.columns % 2 == 0:
        return full * 2 // 3, full
    return (full,)


def _read_frames(file: BinaryIO, size: int, header: DicomHeader, name: str, *, swapped: bool) -> Iterator[bytes]:
    if swapped:
        # The bytes of a word stand the other way round, and a frame of odd length begins inside one.
        length = size * header.num_frames
        data = file.read(length + length % 2)
        whole = np.frombuffer(data, ">u2").astype("<u2").tobytes() if len(data) >= length + length % 2 else b""
        source: BinaryIO = io.BytesIO(whole)
    else:
        source = file
    for number in range(header.num_frames):
        data = source.read(size)
        if len(data) < size:
            raise ItemError("truncated", f"{name} ends inside frame {number}")
        yield data


def _bare(data: bytes, header: DicomHeader) -> Samples:
    rows, columns = header.rows, header.columns
    order = ">" if header.transfer_syntax == EXPLICIT_BE else "<"
    flat: Samples = np.frombuffer(data, np.uint8 if header.bits_allocated == 8 else f"{order}u2")
    if len(flat) < rows * columns * header.samples:  # Y Y Cb Cr for each two pixels
        four = flat.reshape(rows, columns // 2, 4)
        samples = np.empty((rows, columns // 2, 2, 3), flat.dtype)
        samples[..., 0] = four[..., :2]
        samples[..., 1] = four[..., 2:3]
        samples[..., 2] = four[..., 3:]
        return samples.reshape(rows, columns, 3)
    if header.samples == 1:
        return flat[: rows * columns].reshape(rows, columns)
    flat = flat[: rows * columns * 3]
    if header.planar == 1:
        return np.moveaxis(flat.reshape(3, rows, columns), 0, -1)
    return flat.reshape(rows, columns, 3)


def _decode(data: bytes, number: int, code: Code, header: DicomHeader, name: str) -> _Frame:
    try:
        if code == "raw":
            if len(data) < max(_frame_bytes(header)) and len(data) not in _frame_bytes(header):
                raise ItemError("undecodable", f"{name}, frame {number}: {len(data)} bytes are too few for its size")
            return _Frame(samples=_bare(data, header))
        if code == "rle":
            return _Frame(samples=_run_lengths(data, header))
        if code == "jpeg_2000":
            return _jpeg_2000(data, header, name)
        return _jpeg_lossless(data, header, name)
    except (ItemError, MemoryError):
        raise
    except Exception as err:
        raise ItemError("undecodable", f"{name}, frame {number}: {type(err).__name__}: {err}") from err


def _run_lengths(data: bytes, header: DicomHeader) -> Samples:
    """Each byte of each sample is a plane of its own, the most significant first."""
    width = header.bits_allocated // 8
    wanted = header.samples * width
    if len(data) < 64:
        raise ValueError("too short for a header of segments")
    count, *offsets = struct.unpack_from("<16L", data)
    if count != wanted:
        raise ValueError(f"{count} segments for {header.samples} samples of {header.bits_allocated} bits")
    edges = [*offsets[:count], len(data)]
    if edges[0] < 64 or any(a >= b for a, b in zip(edges[:-1], edges[1:], strict=True)):
        raise ValueError("segments that do not follow each other")
    planes = [_unpacked(data[a:b], header) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    joined: list[Samples] = [
        planes[i] if width == 1 else planes[width * i].astype(np.uint16) << 8 | planes[width * i + 1]
        for i in range(header.samples)
    ]
    return joined[0] if header.samples == 1 else np.stack(joined, axis=-1)


def _unpacked(data: bytes, header: DicomHeader) -> U8:
    """(H, W). One long row to the decoder: runs may then cross the picture's rows, as some writers let them."""
    size = header.rows * header.columns
    plane = np.asarray(Image.frombytes("L", (size, 1), data, "packbits", "L"), np.uint8)
    try:
        Image.frombytes("L", (size + header.columns, 1), data, "packbits", "L")
    except ValueError:
        return plane.reshape(header.rows, header.columns)
    raise ValueError("a segment holds more rows than the picture")


def _jpeg_lossless(data: bytes, header: DicomHeader, name: str) -> _Frame:
    """Lossless, 12-bit and JPEG-LS."""
    found = jpeg.parse_header(data)
    if (found.rows, found.columns) != (header.rows, header.columns) or len(found.component_ids) != header.samples:
        raise ValueError(
            f"the tags say {header.rows} x {header.columns} x {header.samples},"
            f" the code {found.rows} x {found.columns} x {len(found.component_ids)}"
        )
    if header.transfer_syntax in JPEG_LS and importlib.util.find_spec("jpeg_ls"):
        if not data.rstrip(b"\0").endswith(b"\xff\xd9"):
            raise ValueError("no end of image")  # CharLS looks for it for seconds
        buffer, said = importlib.import_module("jpeg_ls").decode_pixel_data(data)
        flat: Samples = np.frombuffer(buffer, np.uint8 if int(said["bits_per_sample"]) <= 8 else "<u2")
        samples: Samples = flat
        if header.samples == 1:
            samples = flat.reshape(header.rows, header.columns)
        elif int(said["interleave_mode"]) == 0:
            samples = np.moveaxis(flat.reshape(3, header.rows, header.columns), 0, -1)
        else:
            samples = flat.reshape(header.rows, header.columns, 3)
    else:
        samples = _through_ffmpeg(data, found, header, name)
    return _Frame(samples=samples, claim=found.claim)


def _through_ffmpeg(data: bytes, found: jpeg.JpegHeader, header: DicomHeader, name: str) -> Samples:
    """FFmpeg's own decoder, told to refuse damage. It gives planes of the stored samples; nothing is converted."""
    is_ls = header.transfer_syntax in JPEG_LS
    package = 'pyjpegls: pip install "ecgecho[codecs]"' if is_ls else "av"
    if not importlib.util.find_spec("av"):
        raise unsupported(header.transfer_syntax, name, package)
    import av

    decoder = av.CodecContext.create("jpegls" if is_ls else "mjpeg", "r")
    decoder.options = {"err_detect": "explode", "threads": "1"}
    try:
        frames = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
    except av.error.PatchWelcomeError as err:
        raise unsupported(header.transfer_syntax, name, package) from err
    if len(frames) != 1 or frames[0].is_corrupt or (frames[0].height, frames[0].width) != (header.rows, header.columns):
        raise ValueError("damaged code")
    picture = frames[0]
    layout = picture.format.name
    if layout not in ("gray", "gray16le", "bgr24", "rgb24", "bgr48le", "rgb48le", "gbrp", "yuv444p", "yuvj444p"):
        raise unsupported(header.transfer_syntax, name)
    samples: Samples = picture.to_ndarray()
    if layout.startswith("yuv"):
        samples = np.moveaxis(samples, 0, -1)
    elif layout.startswith("bgr"):
        samples = samples[..., ::-1]
    # 9 to 15 bits of a JPEG, but not of a JPEG-LS, come out as the upper bits of 16.
    return samples if is_ls or samples.dtype == np.uint8 else samples >> (16 - found.precision)


def _jpeg_2000(data: bytes, header: DicomHeader, name: str) -> _Frame:
    from PIL import features

    if not features.check("jpg_2000"):
        raise unsupported(header.transfer_syntax, name, "a Pillow that was built with OpenJPEG")
    # Without the boxes of a .jp2 file: their colour space is one more claim that may be wrong.
    begin = data.find(b"\xff\x4f\xff\x51")
    if begin < 0:
        raise ValueError("no code stream")
    code = data[begin:]
    wide, high, left, top, *_, count = struct.unpack_from(">8LH", code, 8)
    if (high - top, wide - left, count) != (header.rows, header.columns, header.samples):
        raise ValueError(
            f"the tags say {header.rows} x {header.columns} x {header.samples}, the code {high - top} x {wide - left} x {count}"
        )
    parts = [struct.unpack_from(">BBB", code, 42 + 3 * i) for i in range(count)]
    precision = (parts[0][0] & 0x7F) + 1
    with Image.open(io.BytesIO(code), formats=("JPEG2000",)) as image:
        if image.size != (header.columns, header.rows):
            raise ValueError("another size than its header says")
        samples = np.asarray(image)
    if samples.dtype not in (np.uint8, np.uint16) or samples.shape[2:] != ((3,) if count == 3 else ()):
        raise unsupported(header.transfer_syntax, name)
    if samples.dtype == np.uint16:  # they come out as the upper bits of 16
        samples = samples >> (16 - precision)
    # A component transform is undone by the decoder, and so is chroma at a lower resolution.
    halved = any(part[1:] != parts[0][1:] for part in parts)
    claim: Colour | None = "rgb" if count == 3 and (halved or _has_transform(code)) else None
    return _Frame(samples=samples, claim=claim)


def _has_transform(code: bytes) -> bool:
    """The multiple component transformation flag of the COD marker, in the main header."""
    at = 2
    while at + 4 <= len(code):
        marker, length = struct.unpack_from(">HH", code, at)
        if marker == 0xFF52:
            return len(code) > at + 8 and code[at + 8] == 1
        if marker == 0xFF90 or length < 2:  # the first tile
            break
        at += 2 + length
    return False


# --- from samples to RGB


def _to_rgb(frames: Iterator[_Frame], header: DicomHeader, dataset: Any) -> Pixels:
    out = np.empty((header.num_frames, header.rows, header.columns, 3), np.uint8)
    defects: tuple[str, ...] = ()
    stored: Colour = "rgb"
    partial = False
    table = _palette(dataset, header) if header.photometric == "PALETTE COLOR" else None
    for number, (frame, target) in enumerate(zip(frames, out, strict=True)):
        if table is not None:
            target[...] = table[frame.samples if frame.samples.ndim == 2 else frame.samples[..., 0]]
            continue
        samples = _to_8_bits(frame.samples, header)
        if samples.ndim == 2:
            target[...] = (255 - samples if header.photometric == "MONOCHROME1" else samples)[..., None]
            continue
        if number == 0:
            stored, defects = settle(samples, frame.claim, header.photometric)
            partial = stored == "ybr" and jpeg.is_partial(samples, header.photometric)
        target[...] = jpeg.ybr_to_rgb(samples, partial=partial) if stored == "ybr" else samples
    return out, defects


def settle(samples: U8, claim: Colour | None, photometric: str) -> tuple[Colour, tuple[str, ...]]:
    """What three stored samples are, and whether the tag was wrong."""
    # The decoder of a JPEG 2000 has undone YBR_ICT and YBR_RCT.
    tag: Colour = "ybr" if photometric.startswith("YBR") and photometric not in ("YBR_ICT", "YBR_RCT") else "rgb"
    stored = jpeg.looks_like(samples) or claim or tag
    return stored, () if stored == tag else ("colour_tag_wrong",)


def _to_8_bits(samples: Samples, header: DicomHeader) -> U8:
    if samples.dtype == np.uint8:
        return np.asarray(samples, np.uint8)
    wide = samples.astype(np.int32)
    if header.signed:
        wide = samples.astype(np.uint16).view(np.int16).astype(np.int32)
    else:
        wide &= (1 << header.bits_stored) - 1
    return np.asarray(np.clip(wide >> max(header.bits_stored - 8, 0), 0, 255), np.uint8)


def _palette(dataset: Any, header: DicomHeader) -> U8:
    """(2 ** bits, 3): the colour of every index."""
    every = np.arange(1 << header.bits_allocated, dtype=np.uint8 if header.bits_allocated == 8 else np.uint16)
    table = np.asarray(apply_color_lut(every, dataset))[:, :3]
    # Entries declared as 16 bits that hold 8 are met; a palette of nothing but black is not.
    return np.asarray(table >> 8 if table.max() > 255 else table, np.uint8)
