"""Frame vectors (T, D) of one clip -> their moments (2, D)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ecgecho.types import ItemError

UNIT_NORM_TOLERANCE = 1e-4


def moments(vectors: npt.NDArray[Any], frame_norm: str) -> npt.NDArray[np.float64]:
    """Frame vectors (T, D) -> (2, D) float64: mean and population standard deviation over the frames.

    With frame_norm "l2" the vectors are unit vectors first, and sum(var) = 1 - |mean|^2 is checked.
    Source: EchoingECG src/datasets/echo.py (mean and biased variance over frames); the root is stored because a
    variance of 1e-7 in fp16 is off by a third.
    """
    values = np.asarray(vectors, np.float64)
    if not np.isfinite(values).all():
        raise ItemError("teacher_not_finite", "the teacher gave a value that is not finite")
    if frame_norm == "l2":
        norm = np.linalg.norm(values, axis=1, keepdims=True)
        if (norm < 1e-12).any():
            raise ItemError("teacher_zero_vector", "the teacher gave a zero vector, which has no direction")
        values = values / norm
    mean, std = values.mean(0), values.std(0)
    if frame_norm == "l2":
        assert abs(np.square(std).sum() - (1 - np.square(mean).sum())) < UNIT_NORM_TOLERANCE
    return np.stack([mean, std])
