"""ISHNE Holter (`ISHNE1.0`) -> EcgRecord, only the excerpt that is asked for.

"ISHNE1.0", CRC-CCITT (0x1021, start 0xFFFF) of what follows up to the samples, a header of 512 bytes, a free block, then int16
little endian, leads interleaved. mV = raw * resolution / 1e6 (nV). Names, birth date and the free block are never looked at.
The orthogonal bipolar X, Y, Z of a Holter are called X, Y, Z; they are not Frank's.

Source: Badilini, The ISHNE Holter standard output file format, Ann Noninvasive Electrocardiol 1998;3:263-266, as ishneholterlib
2020.5.29 reads it (facts only).
"""

from __future__ import annotations

import binascii
import struct
from pathlib import Path

import numpy as np

from ecgecho.io.excerpt import samples_of
from ecgecho.io.files import read_bytes, size_of
from ecgecho.io.leads import FRANK_LEADS, rate, record_of
from ecgecho.types import STANDARD_LEADS, EcgRecord, EcgSource, ItemError

MAGIC = b"ISHNE1.0"
HEADER_BYTES = 522
MAX_FREE_BYTES = 1 << 20
MAX_CHANNELS = 12
MAX_VALUES = 1 << 28
_NAMES = dict(zip(range(2, 20), (*FRANK_LEADS, *STANDARD_LEADS, "ES", "AS", "AI"), strict=True))


def read(path: Path, source: EcgSource) -> EcgRecord:
    """Leads by their code in the header; unknown and generic ones are "channel N"."""
    size = size_of(path)
    head = read_bytes(path, size=HEADER_BYTES)
    if len(head) < HEADER_BYTES or head[:8] != MAGIC:
        raise ItemError("truncated", f"{path.name}: the header of a Holter has {HEADER_BYTES} bytes, this {len(head)}")
    crc, free_bytes, announced, _, data_offset = struct.unpack_from("<HiiiI", head, 8)
    channels, codes, resolution_nv = _i16(head, 156)[0], _i16(head, 158, 12), _i16(head, 206, 12)
    fs_hz = rate(_i16(head, 272)[0], path)
    if not 1 <= channels <= MAX_CHANNELS or announced < 0 or not 0 <= free_bytes <= MAX_FREE_BYTES:
        raise ItemError(
            "damaged_header", f"{path.name}: {channels} leads, {announced} samples, a free block of {free_bytes} bytes"
        )
    if not HEADER_BYTES <= data_offset <= HEADER_BYTES + MAX_FREE_BYTES or data_offset > size:
        raise ItemError("damaged_header", f"{path.name}: its samples would begin at byte {data_offset} of {size}")
    whole = read_bytes(path, offset=10, size=data_offset - 10)
    if crc and binascii.crc_hqx(whole, 0xFFFF) != crc:
        raise ItemError("checksum_differs", f"{path.name}: its header does not fit its CRC")
    if min(resolution_nv[:channels]) <= 0:
        raise ItemError("unit_unknown", f"{path.name}: a lead has no resolution")
    there = (size - data_offset) // (2 * channels)
    # Writers differ: all samples, or those of one lead.
    if there not in (announced, announced // channels):
        if there < announced // channels:
            raise ItemError(
                "truncated", f"{path.name} holds {there} of the {announced // channels} samples a lead that it promises"
            )
        raise ItemError("damaged_header", f"{path.name} holds {there} samples a lead, not the {announced} that it promises")
    first, stop, defects = samples_of(source, fs_hz, there, path.name)
    count = stop - first
    if channels * count > MAX_VALUES:
        raise ItemError("too_large", f"{path.name}: {count} samples of {channels} leads; ask for an excerpt")
    data = read_bytes(path, offset=data_offset + 2 * channels * first, size=2 * channels * count)
    if len(data) < 2 * channels * count:
        raise ItemError("truncated", f"{path.name} became shorter while it was read")
    raw = np.frombuffer(data, "<i2").reshape(count, channels)
    signal = np.empty((channels, count), np.float32)
    for row, nv in enumerate(resolution_nv[:channels]):
        np.multiply(raw[:, row], nv * 1e-6, out=signal[row], casting="unsafe")
    leads = [_NAMES.get(code, f"channel {place + 1}") for place, code in enumerate(codes[:channels])]
    return record_of(path, leads, signal, fs_hz, defects=defects)


def _i16(data: bytes, offset: int, count: int = 1) -> tuple[int, ...]:
    return struct.unpack_from(f"<{count}h", data, offset)
