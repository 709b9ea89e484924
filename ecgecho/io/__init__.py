"""Bytes on disk -> EcgRecord / EchoClip. Untrusted input ends here: whatever a file holds, a reader returns a record or raises
ItemError with a code; `workers` bounds the time and the memory a decoder may take.

Codes of "excluded": still, spectral, m_mode, not_ultrasound, no_pixels.
Codes of "failed", permanent: missing_file, not_a_file, empty, not_dicom, not_video, not_ecg, truncated, frame_count_differs,
damaged_header, undecodable, unsupported_transfer_syntax, unsupported_pixels, too_large, checksum_differs, unsafe_file_name,
unit_unknown, lead_named_twice, unsupported_format, no_rhythm (only median beats), unsafe_xml, row_outside, excerpt_outside,
rate_disagrees, unit_disagrees, leads_disagree, length_disagrees; those of arrays: see `arrays`, `hdf5` and `sidecar`.
Transient: unreadable, timeout, out_of_memory, decoder_died, unexpected_error.
"""

from ecgecho.io.ecg import read_ecg
from ecgecho.io.echo import EchoHeader, read_echo, scan_echo
from ecgecho.io.fingerprint import fingerprint
from ecgecho.types import ItemError

__all__ = ["EchoHeader", "ItemError", "fingerprint", "read_ecg", "read_echo", "scan_echo"]
