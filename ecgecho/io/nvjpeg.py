"""JPEG frames -> a GPU's memory, in batches, through nvJPEG (torchvision).

For the process that owns the GPU: decode workers import no torch, so they hand over encoded frames, and this decodes them.
On a GPU this has never run (docs/decoding.md); the tests run its checks on the CPU, with torchvision's libjpeg in nvJPEG's place.

Shape letters: T frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ecgecho.io.files import MAX_BYTES
from ecgecho.io.jpeg import parse_header
from ecgecho.types import ItemError, UserError

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 64
END = b"\xff\xd9"


def decode_jpegs_on(device: str, frames: Sequence[bytes], *, batch: int = BATCH) -> Tensor:
    """Frames of one clip, grey or YBR -> uint8 (T, 3, H, W) RGB on `device`.

    UserError where there is no such device. ItemError "undecodable" where a frame is damaged or of another size than the first,
    "unsupported_pixels" where nvJPEG's colours could be wrong: what is stored as RGB must be decoded by `read_echo`.
    """
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise UserError('no CUDA device is usable here, and nvJPEG needs one; choose decode="full" or decode="dct".')
    rows, columns = check_frames(frames)
    out = torch.empty((len(frames), 3, rows, columns), dtype=torch.uint8, device=device)
    for begin in range(0, len(frames), batch):
        encoded = [torch.frombuffer(bytearray(frame), dtype=torch.uint8) for frame in frames[begin : begin + batch]]
        try:
            decoded = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except RuntimeError as err:  # of the whole batch: nvJPEG does not say which frame
            last = min(begin + batch, len(frames)) - 1
            reason = str(err).splitlines()[0][:200]
            raise ItemError("undecodable", f"one of frames {begin} to {last}: {reason}") from err
        for number, picture in enumerate(decoded, start=begin):
            if tuple(picture.shape) != (3, rows, columns):
                raise ItemError("undecodable", f"frame {number} came out as {tuple(picture.shape)}, not {(3, rows, columns)}")
            out[number] = picture
    return out


def check_frames(frames: Sequence[bytes]) -> tuple[int, int]:
    """Rows and columns; refuses what a batched decoder would mend, mix up or give wrong colours without a word."""
    if not frames:
        raise ItemError("undecodable", "no frames")
    first = parse_header(frames[0])
    if first.precision != 8 or len(first.component_ids) not in (1, 3):
        raise ItemError("unsupported_pixels", f"JPEG of {first.precision} bits and {len(first.component_ids)} components")
    if len(first.component_ids) == 3 and not first.decoder_converts:
        raise ItemError("unsupported_pixels", "the JPEG says that it is stored as RGB; nvJPEG may take it for YBR")
    if len(frames) * first.rows * first.columns * 3 > MAX_BYTES:
        raise ItemError("too_large", f"{len(frames)} frames of {first.rows} x {first.columns} need more than {MAX_BYTES} bytes")
    for number, frame in enumerate(frames):
        header = parse_header(frame)
        if header != first:
            raise ItemError("undecodable", f"frame {number} is of another size or kind than the first")
        # DICOM pads a frame to an even length.
        if not frame.endswith((END, END + b"\0")):
            raise ItemError("undecodable", f"frame {number} ends before its JPEG does")
    return first.rows, first.columns
