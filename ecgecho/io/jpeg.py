"""JPEG baseline frames -> RGB, with the colour space the bytes have, whatever the tags say.

What a JPEG's samples are (YBR or RGB) is said by the DICOM tag, by the JFIF or Adobe marker, by the component ids, and by
the samples themselves: a black background is (0, 128, 128) in YBR and (0, 0, 0) in RGB. Decoders believe the first three, and
show 71 of 255 mean error, silently, where a tag says RGB and no marker objects. Here the samples win where they are clear.

libjpeg mends damaged entropy code without a word. FFmpeg's decoder can be told to refuse it, so each frame passes through that
first, at an eighth of its size (benchmarks/results/decode_flips_*.md).
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from ecgecho.types import U8, ItemError

DARK = 8  # first channel of a background pixel, with room for JPEG noise
MIN_DARK_SHARE = 0.02
CLEAR_SHARE = 0.6  # the rest may be drawing in blue or green
PARTIAL_BLACK = 14
"""Luma of studio range begins at 16, with room for loss; below, samples are of full range whatever a tag says."""
RGB_IDS = (82, 71, 66)  # libjpeg takes component ids "R", "G", "B" as RGB


@dataclass(frozen=True, slots=True, kw_only=True)
class JpegHeader:
    """What the markers before the scan say."""

    rows: int
    columns: int
    precision: int
    component_ids: tuple[int, ...]
    jfif: bool
    adobe_transform: int | None
    process: int
    """Second byte of the frame marker: 0xC0 baseline, 0xC1 extended, 0xC2 progressive, 0xC3 lossless, 0xF7 JPEG-LS."""

    @property
    def is_dct_8_bit(self) -> bool:
        """True for what libjpeg reads."""
        return self.process in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA) and self.precision == 8

    @property
    def claim(self) -> Literal["ybr", "rgb"] | None:
        """What the markers say that three components are."""
        if self.adobe_transform is not None:
            return "ybr" if self.adobe_transform else "rgb"
        if self.jfif:
            return "ybr"
        return "rgb" if self.component_ids == RGB_IDS else None

    @property
    def decoder_converts(self) -> bool:
        """True where libjpeg turns these three components from YBR to RGB."""
        if self.adobe_transform is not None:
            return self.adobe_transform != 0
        return self.jfif or self.component_ids != RGB_IDS


def scale_for(rows: int, columns: int, least: int) -> int:
    """The largest of 8, 4, 2 by which a picture may be divided and keep a short side of `least` pixels; else 1."""
    return next((scale for scale in (8, 4, 2) if min(scaled_size(rows, columns, scale)) >= least), 1)


def scaled_size(rows: int, columns: int, scale: int) -> tuple[int, int]:
    """What a DCT-scaled decoder makes of a size: an incomplete last row or column is kept."""
    return -(-rows // scale), -(-columns // scale)


def decode(
    fragments: Sequence[bytes], *, rows: int, columns: int, samples: int, photometric: str, scale: int = 1
) -> tuple[U8, tuple[str, ...]]:
    """Encapsulated JPEG frames -> (T, rows / scale, columns / scale, 3) RGB, rounded up, and the defects mended.

    With `scale` 2, 4 or 8 each block of 8 x 8 coefficients becomes 8 / scale pixels a side: a pixel (y, x) shows what the
    full picture's [scale * y, scale * (y + 1)) x [scale * x, scale * (x + 1)) does.
    """
    header = parse_header(fragments[0])
    if (header.rows, header.columns) != (rows, columns):
        raise ItemError("undecodable", f"the header says {rows} x {columns} pixels, its JPEG {header.rows} x {header.columns}")
    if header.precision != 8 or len(header.component_ids) not in (1, 3) or len(header.component_ids) != samples:
        raise ItemError(
            "unsupported_pixels", f"JPEG of {header.precision} bits and {len(header.component_ids)} components, header: {samples}"
        )
    broken = first_damaged(fragments)
    if broken is not None:
        raise ItemError("undecodable", f"frame {broken}: its JPEG code is damaged")
    height, width = scaled_size(rows, columns, scale)
    frames = np.empty((len(fragments), height, width, 3), np.uint8)
    if samples == 1:
        for number, fragment in enumerate(fragments):
            frames[number] = _open(fragment, number, header, raw=False, scale=scale)[..., None]
        if photometric == "MONOCHROME1":
            np.subtract(255, frames, out=frames)
        return frames, ()
    # Of the full picture, so that a clip has the same colours however it is decoded.
    first = _open(fragments[0], 0, header, raw=True)
    stored, defects = stored_colour(header, photometric, first)
    partial = stored == "ybr" and is_partial(first, photometric)
    raw = stored == "rgb" or not header.decoder_converts or partial
    for number, fragment in enumerate(fragments):
        frame = _open(fragment, number, header, raw=raw, scale=scale)
        if raw and stored == "ybr":
            frame = ybr_to_rgb(frame, partial=partial)
        frames[number] = frame
    return frames, defects


def first_damaged(fragments: Sequence[bytes]) -> int | None:
    """The first frame whose code is damaged.

    None also where FFmpeg takes none of them - then it is a kind of JPEG that it does not read - and where PyAV is missing.
    """
    if not importlib.util.find_spec("av"):
        return None
    import av

    failed, passed, decoder = None, False, None
    for number, fragment in enumerate(fragments):
        if decoder is None:
            decoder = av.CodecContext.create("mjpeg", "r")
            decoder.options = {"err_detect": "explode", "threads": "1", "lowres": "3"}
        try:
            pictures = decoder.decode(av.Packet(fragment))
            whole = len(pictures) == 1 and not pictures[0].is_corrupt
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError):
            whole, decoder = False, None
        passed = passed or whole
        failed = number if failed is None and not whole else failed
        if passed and failed is not None:
            return failed
    return None


def stored_colour(header: JpegHeader, photometric: str, raw: U8) -> tuple[Literal["ybr", "rgb"], tuple[str, ...]]:
    """What the three components are, and whether the tag was wrong. Samples first, then markers, then the tag."""
    tag: Literal["ybr", "rgb"] = "rgb" if photometric == "RGB" else "ybr"
    stored = looks_like(raw) or header.claim or tag
    return stored, () if stored == tag else ("colour_tag_wrong",)


def looks_like(raw: U8) -> Literal["ybr", "rgb"] | None:
    """What (H, W, 3) stored samples are, by their black background; None where there is none, or it is unclear."""
    dark = raw[raw[..., 0] <= DARK].astype(np.int16)
    if len(dark) < MIN_DARK_SHARE * raw.shape[0] * raw.shape[1]:
        return None
    if (np.abs(dark[:, 1:] - 128) <= 8).all(axis=1).mean() >= CLEAR_SHARE:
        return "ybr"
    if (dark[:, 1:] <= 3 * DARK).all(axis=1).mean() >= CLEAR_SHARE:
        return "rgb"
    return None


def is_partial(raw: U8, photometric: str) -> bool:
    """Whether luma runs from 16 to 235: the tag says so, and no sample denies it."""
    return photometric.startswith("YBR_PARTIAL") and int(raw[..., 0].min(initial=255)) >= PARTIAL_BLACK


def ybr_to_rgb(samples: U8, *, partial: bool = False) -> U8:
    """(H, W, 3) Y, Cb, Cr of ITU-R BT.601 -> RGB. Source: DICOM PS3.3 C.7.6.3.1.2."""
    if partial:
        levels = np.arange(256, dtype=np.float64)
        luma = np.clip(np.rint((levels - 16) * 255 / 219), 0, 255).astype(np.uint8)
        chroma = np.clip(np.rint((levels - 128) * 255 / 224 + 128), 0, 255).astype(np.uint8)
        samples = np.stack([luma[samples[..., 0]], chroma[samples[..., 1]], chroma[samples[..., 2]]], axis=-1)
    height, width = samples.shape[:2]
    return np.asarray(Image.frombytes("YCbCr", (width, height), np.ascontiguousarray(samples).tobytes()).convert("RGB"))


def parse_header(data: bytes) -> JpegHeader:
    """Reads the markers up to the first scan."""
    jfif, adobe, position = False, None, 2
    if data[:2] != b"\xff\xd8":
        raise ItemError("undecodable", "a frame does not begin as a JPEG does")
    frame: tuple[int, int, int, tuple[int, ...], int] | None = None
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + length]
        if marker == 0xE0 and body.startswith(b"JFIF"):
            jfif = True
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        elif (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) or marker == 0xF7) and len(body) >= 6 + 3 * body[5]:
            ids = tuple(body[6 + 3 * i] for i in range(body[5]))
            frame = (int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big"), body[0], ids, marker)
        elif marker == 0xDA:
            break
        position += 2 + max(length, 2)
    if frame is None:
        raise ItemError("undecodable", "a JPEG frame has no frame header")
    return JpegHeader(
        rows=frame[0],
        columns=frame[1],
        precision=frame[2],
        component_ids=frame[3],
        jfif=jfif,
        adobe_transform=adobe,
        process=frame[4],
    )


def _open(data: bytes, number: int, header: JpegHeader, *, raw: bool, scale: int = 1) -> U8:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            if image.size != (header.columns, header.rows):
                raise ItemError("undecodable", f"frame {number} is of another size than the first")
            to_raw = raw and header.decoder_converts
            if to_raw or scale > 1:
                # "YCbCr" hands the samples over as they are stored; a wanted size, rounded down, chooses the scale.
                image.draft("YCbCr" if to_raw else None, (max(1, header.columns // scale), max(1, header.rows // scale)))
            pixels = np.asarray(image)
    except (ItemError, MemoryError):
        raise
    except Exception as err:
        raise ItemError("undecodable", f"frame {number}: {type(err).__name__}: {err}") from err
    if pixels.shape[2:] != ((3,) if len(header.component_ids) == 3 else ()):
        raise ItemError("undecodable", f"frame {number} has other components than the first")
    assert pixels.shape[:2] == scaled_size(header.rows, header.columns, scale)
    return pixels
