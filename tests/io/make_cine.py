"""Small ultrasound files for tests: every colour case, every way to lie about what follows."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

ULTRASOUND_MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3.1"


def pictures(num_frames: int = 4, rows: int = 48, columns: int = 64) -> np.ndarray:
    """(T, rows, columns, 3): grey discs and smooth red and blue patches on black, moving; JPEG keeps them within a few levels."""
    y, x = np.mgrid[:rows, :columns].astype(np.float64)
    frames = np.zeros((num_frames, rows, columns, 3))
    for t in range(num_frames):
        blob = np.exp(-((x - columns / 2 - 2 * t) ** 2 + (y - rows / 2) ** 2) / (rows / 5) ** 2)
        red = np.exp(-((x - columns / 4) ** 2 + (y - rows / 3) ** 2) / (rows / 8) ** 2)
        blue = np.exp(-((x - 3 * columns / 4) ** 2 + (y - 2 * rows / 3) ** 2) / (rows / 8) ** 2)
        frames[t] = 180 * blob[..., None] + 120 * red[..., None] * [1, 0.1, 0] + 120 * blue[..., None] * [0, 0.1, 1]
    return np.where(frames < 3, 0, frames).clip(0, 255).astype(np.uint8)


def jpeg(frame: np.ndarray, *, stored: str = "ybr", marker: str = "jfif", quality: int = 97) -> bytes:
    """One JPEG with its samples stored as "ybr" or "rgb", and the marker "jfif", "adobe" (true) or "none"."""
    target = io.BytesIO()
    if stored == "ybr":
        Image.fromarray(frame).save(target, "JPEG", quality=quality, subsampling=0)
    else:
        Image.fromarray(frame).save(target, "JPEG", quality=quality, subsampling=0, keep_rgb=True)
    plain = _without_markers(target.getvalue())
    if marker == "jfif":
        extra = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    elif marker == "adobe":
        extra = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + (b"\x01" if stored == "ybr" else b"\x00")
    else:
        extra = b""
    return plain[:2] + extra + plain[2:]


def _without_markers(data: bytes) -> bytes:
    """No APP0 and APP14, component ids 1, 2, 3: nothing but the samples tells their colour."""
    out, position = bytearray(data[:2]), 2
    while True:
        marker, length = data[position + 1], struct.unpack(">H", data[position + 2 : position + 4])[0]
        segment = bytearray(data[position : position + 2 + length])
        if marker == 0xC0 and segment[9] == 3:
            segment[10], segment[13], segment[16] = 1, 2, 3
        if marker == 0xDA:
            for component in range(segment[4]):
                segment[5 + 2 * component] = component + 1
            return bytes(out + segment + data[position + 2 + length :])
        if marker not in (0xE0, 0xEE):
            out += segment
        position += 2 + length


def dataset(num_frames: int, rows: int, columns: int, *, photometric: str = "YBR_FULL_422", samples: int = 3, **tags) -> Dataset:
    """All but the pixels; a tag given as None is left out."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = ULTRASOUND_MULTI_FRAME
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "2.25.7"
    ds.Modality = "US"
    ds.NumberOfFrames = num_frames
    ds.FrameTime = "25.0"
    ds.FrameIncrementPointer = 0x00181063
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = rows, columns, samples, photometric
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    if samples == 3:
        ds.PlanarConfiguration = 0
    for name, value in tags.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    return ds


def region(
    x0: int, y0: int, x1: int, y1: int, *, spatial_format: int = 1, data_type: int = 1, cm: float | None = None
) -> Dataset:
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = spatial_format, data_type, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0, item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x0, y0, x1, y1
    if cm is not None:
        item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
        item.PhysicalDeltaX, item.PhysicalDeltaY = -cm, cm
    return item


def save(path: Path, ds: Dataset, pixels: bytes | list[bytes], syntax: str = "") -> Path:
    """Native pixels as bytes, encapsulated ones as a list."""
    if isinstance(pixels, list):
        ds.file_meta.TransferSyntaxUID = syntax or JPEGBaseline8Bit
        ds.PixelData = encapsulate(pixels)
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    else:
        ds.file_meta.TransferSyntaxUID = syntax or ExplicitVRLittleEndian
        ds.PixelData = pixels
        ds["PixelData"].VR = "OB"
    ds.save_as(path, enforce_file_format=True)
    return path


def jpeg_cine(
    path: Path, frames: np.ndarray | None = None, *, stored="ybr", marker="jfif", photometric="YBR_FULL_422", **tags
) -> Path:
    frames = pictures() if frames is None else frames
    ds = dataset(len(frames), *frames.shape[1:3], photometric=photometric, **tags)
    return save(path, ds, [jpeg(frame, stored=stored, marker=marker) for frame in frames])
