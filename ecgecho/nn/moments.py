"""A teacher's moments over frames as a Gaussian. M entries, D embedding."""

from __future__ import annotations

import torch
from torch import Tensor

from ecgecho.types import Block, Embedding

VAR_EPS = 1e-8  # EchoingECG src/datasets/echo.py:36; keeps log(var) finite for one-frame studies


def gaussian_of_moments(moments: Tensor, *, eps: float = VAR_EPS, rescale_var: bool = False) -> Embedding:
    """Moments (M, 2, D), slot 0 the mean over frames, slot 1 the standard deviation -> mean of unit length, log(var + eps).

    A mean of length 0 stays 0. `rescale_var` divides the variance by the squared length that the mean loses, so that
    both are in the same scale; without it this equals the reference.

    Source: EchoingECG src/datasets/echo.py:49-65.
    """
    mean, std = moments.float().unbind(1)
    norm = torch.linalg.vector_norm(mean, dim=-1, keepdim=True)
    norm = torch.where(norm > 0, norm, torch.ones_like(norm))
    var = std.square() / norm.square() if rescale_var else std.square()
    return Embedding(mean=mean / norm, logvar=(var + eps).log())


def gaussian_of_studies(views: Block) -> Embedding:
    """Studies of one entry of merged moments each, (M, 2, D) -> (M, D); raises ValueError where one has several."""
    if views.start is not None and len(views.start) != len(views.values) + 1:
        raise ValueError(
            f"{len(views.values)} entries of {len(views.start) - 1} studies; merge the moments of a study's cines first"
        )
    return gaussian_of_moments(views.values)
