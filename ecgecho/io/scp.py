"""SCP-ECG (EN 1064, ISO 11073-91064; versions 1 and 2) -> EcgRecord: the rhythm of section 6.

CRC and size, then sections, each with a header of 16 bytes; section 0 says where they lie. Section 3 names the leads, 6 holds
them: AVM in nV a count, sample interval in us, first or second differences, Huffman code by the tables of section 2 (19999: the
default table). With reference beat subtraction, the beat of section 5 is added where section 4 says; a beat is never returned.
Section 1, which holds the patient, is not looked at.

Refused: bimodal compression (decimated between the beats), leads of different times, section 12 (version 3, long recordings).

Defects of a record that was read: reference_beat_added.

Source: EN 1064 as ECGDataKit 2.0.3 reads it (facts only). Where the beat goes, the C# ECG Toolkit agrees; PixelMed's SCPECG.java
has it one sample later. Tables other than the default one, and vendors' deviations, were never met in a real file.
"""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ecgecho.io.files import read_bytes, size_of
from ecgecho.io.leads import MAX_LEADS, SCP_LEADS, near_integer, rate, record_of
from ecgecho.types import EcgRecord, EcgSource, ItemError

MAX_BYTES = 16 << 20
"""A section holds at most 64 KiB a lead."""
MAX_VALUES = 1 << 22
"""Samples times leads: 5 minutes of 12 leads at 1 kHz."""
MAX_TABLES, MAX_CODES, MAX_PREFIX = 64, 4096, 32
DEFAULT_TABLE = 19999
_HEADER = 16
_Values = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Code:
    bits: int
    """Of the whole code; what is beyond the prefix is a signed number that is added."""
    is_value: bool
    """False: from here on by table `value`, which counts from 1."""
    value: int


_Table = dict[tuple[int, int], _Code]
"""(Bits of the prefix, prefix, first bit as the most significant) -> code."""


def looks_like_scp(head: bytes) -> bool:
    """True where the first 32 bytes are a record whose section 0 points at itself."""
    return len(head) >= 32 and head[8:10] == b"\0\0" and head[22:24] == b"\0\0" and head[28:32] == b"\7\0\0\0"


def read(path: Path, source: EcgSource) -> EcgRecord:
    """The rhythm in mV."""
    if size_of(path) > MAX_BYTES:
        raise ItemError("too_large", f"{path.name} is larger than the {MAX_BYTES >> 20} MiB of SCP-ECG that a reader takes")
    data = read_bytes(path, size=MAX_BYTES)
    try:
        return _read(data, path)
    except (struct.error, IndexError):
        raise ItemError("truncated", f"{path.name}: a section ends before what it announces") from None


def _read(data: bytes, path: Path) -> EcgRecord:
    if struct.unpack_from("<I", data, 2)[0] > len(data):
        raise ItemError("truncated", f"{path.name} has {len(data)} bytes, fewer than it announces")
    sections = _sections(data, path)
    if 6 not in sections:
        code = "unsupported_format" if 12 in sections else "no_rhythm"
        raise ItemError(code, f"{path.name} has no section 6; a long recording of version 3 is not read")
    if 3 not in sections:
        raise ItemError("damaged_header", f"{path.name} does not name its leads")
    num_leads, flags = sections[3][0], sections[3][1]
    spans = [struct.unpack_from("<IIB", sections[3], 2 + 9 * row) for row in range(num_leads)]
    if not 1 <= num_leads <= MAX_LEADS or any(not 1 <= start <= end for start, end, _ in spans):
        raise ItemError("damaged_header", f"{path.name}: {num_leads} leads, or one that ends before it begins")
    if len({(start, end) for start, end, _ in spans}) > 1:
        raise ItemError("unsupported_format", f"{path.name}: its leads were not recorded at the same time")
    tables = _tables(sections[2], path) if 2 in sections else None
    num_samples = spans[0][1] - spans[0][0] + 1
    avm_nv, interval_us, counts = _leads(sections[6], 6, num_leads, num_samples, tables, path)
    if sections[6][5]:
        raise ItemError("unsupported_format", f"{path.name}: bimodal compression is not read")
    values_nv = counts * avm_nv
    if flags & 1:
        if 4 not in sections or 5 not in sections:
            raise ItemError("damaged_header", f"{path.name}: a beat was subtracted, and it is not there")
        _add_beats(values_nv, sections, spans[0][0], interval_us, tables, path)
    leads = [SCP_LEADS.get(code, f"channel {row + 1}") for row, (_, _, code) in enumerate(spans)]
    defects = ("reference_beat_added",) if flags & 1 else ()
    fs_hz = rate(near_integer(1e6 / interval_us), path)
    return record_of(path, leads, (values_nv * 1e-6).astype(np.float32), fs_hz, defects=defects)


def _sections(data: bytes, path: Path) -> dict[int, bytes]:
    """Section number -> its bytes behind the header, for those that are read; each fits its CRC, where it has one."""
    (length,) = struct.unpack_from("<I", data, 10)
    found: dict[int, bytes] = {}
    for offset in range(6 + _HEADER, min(6 + length, len(data)) - 9, 10):
        number, size, index = struct.unpack_from("<HII", data, offset)
        if number not in (2, 3, 4, 5, 6, 12) or not size or number in found:
            continue
        if size < _HEADER or index < 1 or index - 1 + size > len(data):
            raise ItemError("truncated", f"{path.name}: section {number} would lie outside the file")
        whole = data[index - 1 : index - 1 + size]
        crc, own_number, own_size = struct.unpack_from("<HHI", whole)
        if number != 12 and (own_number, own_size) != (number, size):
            raise ItemError("damaged_header", f"{path.name}: section {number} is not where it should be, or of another length")
        if number != 12 and crc and binascii.crc_hqx(whole[2:], 0xFFFF) != crc:
            raise ItemError("checksum_differs", f"{path.name}: section {number} does not fit its CRC")
        found[number] = whole[_HEADER:]
    return found


def _leads(
    section: bytes, number: int, num_leads: int, num_samples: int, tables: list[_Table] | None, path: Path
) -> tuple[int, int, _Values]:
    """AVM in nV, sample interval in us, (leads, samples) of section 5 or 6."""
    avm_nv, interval_us, differences = struct.unpack_from("<HHB", section)
    if not avm_nv:
        raise ItemError("unit_unknown", f"{path.name}: section {number} does not say what a count is in volts")
    if not interval_us or differences > 2:
        raise ItemError("damaged_header", f"{path.name}: section {number} has an interval of 0, or differences of a kind unknown")
    sizes = struct.unpack_from(f"<{num_leads}H", section, 6)
    offset = 6 + 2 * num_leads
    if offset + sum(sizes) > len(section) or num_samples > 8 * min(sizes):
        raise ItemError("truncated", f"{path.name}: section {number} is too short for {num_leads} leads of {num_samples} samples")
    if num_leads * num_samples > MAX_VALUES:
        raise ItemError("too_large", f"{path.name}: {num_samples} samples of {num_leads} leads")
    rows = np.empty((num_leads, num_samples), np.int64)
    for row, size in enumerate(sizes):
        chunk = section[offset : offset + size]
        offset += size
        if tables is None:
            if size < 2 * num_samples:
                raise ItemError("truncated", f"{path.name}: lead {row + 1} of section {number} has {size} bytes")
            values = np.frombuffer(chunk, "<i2", count=num_samples).astype(np.int64)
        else:
            values = _huffman(chunk, num_samples, tables, path)
        rows[row] = _integrate(values, differences)
    return avm_nv, interval_us, rows


def _integrate(values: _Values, times: int) -> _Values:
    """Samples of which these are the first or second differences, in 16 bits as encoders add them."""
    if times == 1:
        values = values.cumsum()
    elif times == 2 and len(values) > 2:
        slope = np.concatenate([[values[1] - values[0]], values[2:]]).cumsum()
        values = np.concatenate([values[:1], values[0] + slope.cumsum()])
    return values.astype(np.int16).astype(np.int64)


def _add_beats(
    values_nv: _Values, sections: dict[int, bytes], start: int, interval_us: int, tables: list[_Table] | None, path: Path
) -> None:
    """Adds the reference beat, in place, at each QRS of type 0, within its subtraction zone."""
    length_ms, fiducial, num_qrs = struct.unpack_from("<HHH", sections[4])
    (beat_interval_us,) = struct.unpack_from("<H", sections[5], 2)
    if beat_interval_us != interval_us or not interval_us:
        raise ItemError("unsupported_format", f"{path.name}: its reference beat has another rate than the rhythm")
    num_samples = round(length_ms * 1000 / interval_us)
    if num_samples < 1:
        raise ItemError("damaged_header", f"{path.name}: its reference beat is empty")
    avm_nv, _, beats = _leads(sections[5], 5, len(values_nv), num_samples, tables, path)
    beats_nv = beats * avm_nv
    for row in range(num_qrs):
        kind, first, centre, last = struct.unpack_from("<HIII", sections[4], 6 + 14 * row)
        if kind:
            continue
        # Samples count from 1, in the rhythm and in the beat.
        begin = max(first, start, centre - fiducial + 1)
        end = min(last, start + values_nv.shape[1] - 1, centre - fiducial + num_samples)
        if begin <= end:
            place = begin - centre + fiducial - 1
            values_nv[:, begin - start : end - start + 1] += beats_nv[:, place : place + end - begin + 1]


def _tables(section: bytes, path: Path) -> list[_Table]:
    (count,) = struct.unpack_from("<H", section)
    if count == DEFAULT_TABLE:
        return [_default_table()]
    if not 1 <= count <= MAX_TABLES:
        raise ItemError("damaged_header", f"{path.name}: {count} Huffman tables")
    tables: list[_Table] = []
    offset = 2
    for _ in range(count):
        (num_codes,) = struct.unpack_from("<H", section, offset)
        offset += 2
        if not 1 <= num_codes <= MAX_CODES:
            raise ItemError("damaged_header", f"{path.name}: a Huffman table of {num_codes} codes")
        table: _Table = {}
        for _ in range(num_codes):
            prefix, bits, is_value, value, stored = struct.unpack_from("<BBBhI", section, offset)
            offset += 9
            if not 1 <= prefix <= min(bits, MAX_PREFIX) or bits - prefix > MAX_PREFIX:
                raise ItemError("damaged_header", f"{path.name}: a Huffman code of {prefix} and {bits} bits")
            # Stored with its first bit as the least significant.
            word = int(f"{stored & ((1 << prefix) - 1):0{prefix}b}"[::-1], 2)
            table[prefix, word] = _Code(bits=bits, is_value=bool(is_value), value=value)
        tables.append(table)
    return tables


def _default_table() -> _Table:
    """0 is "0"; +n is n ones, 0, 0 and -n is n ones, 0, 1 for n up to 8; then 8 or 16 bits as they are."""
    table = {(1, 0): _Code(bits=1, is_value=True, value=0)}
    for size in range(1, 9):
        for sign in (0, 1):
            word = ((1 << size) - 1) << 2 | sign
            table[size + 2, word] = _Code(bits=size + 2, is_value=True, value=-size if sign else size)
    table[10, 0b1111111110] = _Code(bits=18, is_value=True, value=0)
    table[10, 0b1111111111] = _Code(bits=26, is_value=True, value=0)
    return table


def _huffman(data: bytes, count: int, tables: list[_Table], path: Path) -> _Values:
    """`count` numbers, most significant bit first."""
    bits = "".join(f"{octet:08b}" for octet in data)
    values = np.empty(count, np.int64)
    table, longest = tables[0], max(prefix for prefix, _ in tables[0])
    place, found = 0, 0
    while found < count:
        word, start = 0, place
        code = None
        while code is None:
            if place >= len(bits):
                raise ItemError("truncated", f"{path.name}: the samples of a lead end at {found} of {count}")
            word, place = word << 1 | (bits[place] == "1"), place + 1
            code = table.get((place - start, word))
            if code is None and place - start >= longest:
                raise ItemError("undecodable", f"{path.name}: a Huffman code that is in no table")
        if not code.is_value:
            if not 1 <= code.value <= len(tables):
                raise ItemError("undecodable", f"{path.name}: a switch to a Huffman table that is not there")
            table = tables[code.value - 1]
            longest = max(prefix for prefix, _ in table)
            continue
        value = code.value
        more = code.bits - (place - start)
        if more:
            if place + more > len(bits):
                raise ItemError("truncated", f"{path.name}: the samples of a lead end at {found} of {count}")
            extra = int(bits[place : place + more], 2)
            value += extra - (1 << more) if extra >> (more - 1) else extra
            place += more
        values[found] = value
        found += 1
    return values
