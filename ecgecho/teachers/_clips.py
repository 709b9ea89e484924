"""Where the clips of a cine lie, of teachers that see clips.

Shape letters: U clips, T frames of a clip.
"""

from __future__ import annotations

import numpy as np

from ecgecho.types import I64, TeacherSpec, UserError

MOST_CLIPS = 64


def check_clips(clips: int) -> None:
    """UserError where a cine is to give fewer than one clip or more than MOST_CLIPS."""
    if not 1 <= clips <= MOST_CLIPS:
        raise UserError(f"clips is {clips}; it must be from 1 to {MOST_CLIPS}.")


def clip_index(num_frames: int, spec: TeacherSpec) -> I64:
    """Which frames the clips take, (U, T); where the cine has ended -1, or its last frame with short="repeat_last".

    Starts lie at even distances, each once.
    """
    span = (spec.clip_frames - 1) * spec.frame_stride + 1
    starts = np.unique(np.linspace(0, max(num_frames - span, 0), spec.clips).round().astype(np.int64))
    index = starts[:, None] + np.arange(spec.clip_frames, dtype=np.int64) * spec.frame_stride
    return np.where(index < num_frames, index, num_frames - 1 if spec.short == "repeat_last" else -1)
