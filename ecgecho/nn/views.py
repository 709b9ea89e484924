"""The views of a study as one vector, without padding: values (V, D) of all studies after one another -> (M, D).

Study m owns the views start[m]:start[m + 1]. Sums over a study and their gradients run in the order of the views, on a GPU too,
so that a run repeats bit by bit; memory is O(V * D) whatever the longest study holds.
Parameter names are the reference's, below its `echo_view_aggregator.aggregator`.

Source: Echo2ECG shared/models/token_aggregation/Pooling.py at 64c9610, where every study is padded to 128 views.
V views, M studies, D dimension, H heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Aggregation = Literal["attention", "learnable", "mean", "max", "cls", "single"]

TOKEN_STD = 0.02  # Echo2ECG Pooling.py, of the CLS token
DROPOUT = 0.1  # Echo2ECG Pooling.py, of CLS attention and its feed-forward part
FFN_RATIO = 4  # Echo2ECG Pooling.py


@dataclass(frozen=True, slots=True)
class Studies:
    """Which views belong together, and what is summed over them. Results are at least fp32."""

    start: Tensor
    """(M + 1,)."""
    of_view: Tensor
    """(V,) the study of each view."""

    @staticmethod
    def of(start: Tensor, num_views: int) -> Studies:
        """Raises ValueError where `start` does not cut the views into studies of at least one (on a GPU that is not looked at,
        because the host would wait for it)."""
        counts = start.diff()
        if start.device.type == "cpu" and (int(start[0]) != 0 or int(start[-1]) != num_views or bool((counts < 1).any())):
            raise ValueError(
                f"start {start.tolist()[:8]} does not cut {num_views} views into studies of at least one view each; "
                "a study without a usable view has no place in a batch"
            )
        numbers = torch.arange(len(counts), device=start.device)
        return Studies(start, torch.repeat_interleave(numbers, counts, output_size=num_views))

    @property
    def counts(self) -> Tensor:
        """(M,) views of each study."""
        return self.start.diff()

    def sum(self, values: Tensor) -> Tensor:
        """(V, ...) -> (M, ...)."""
        result: Tensor = _Sum.apply(_full(values), self.start, self.of_view)  # type: ignore[no-untyped-call]
        return result

    def mean(self, values: Tensor) -> Tensor:
        """(V, ...) -> (M, ...)."""
        total = self.sum(values)
        return total / self.counts.view(-1, *[1] * (total.ndim - 1))

    def max(self, values: Tensor) -> Tensor:
        """(V, ...) -> (M, ...); equal views share the gradient."""
        return torch.segment_reduce(_full(values), "max", offsets=self.start, unsafe=True)

    def spread(self, values: Tensor) -> Tensor:
        """What belongs to a study at each of its views: (M, ...) -> (V, ...)."""
        result: Tensor = _Spread.apply(_full(values), self.start, self.of_view)  # type: ignore[no-untyped-call]
        return result

    def softmax(self, scores: Tensor) -> Tensor:
        """Over the views of each study: (V, ...) -> (V, ...)."""
        raised = (_full(scores) - self.spread(self.max(scores.detach()))).exp()
        return raised / self.spread(self.sum(raised))


class _Sum(torch.autograd.Function):
    """Its gradient is `_Spread`, the gradient of which is this; index_add would run in another order at every call on a GPU."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, start: Tensor, of_view: Tensor) -> Tensor:
        ctx.save_for_backward(start, of_view)
        return torch.segment_reduce(values.contiguous(), "sum", offsets=start, unsafe=True)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        return _Spread.apply(grad[0], *ctx.saved_tensors), None, None  # type: ignore[no-untyped-call]


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, start: Tensor, of_view: Tensor) -> Tensor:
        ctx.save_for_backward(start, of_view)
        return values.index_select(0, of_view)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        return _Sum.apply(grad[0], *ctx.saved_tensors), None, None  # type: ignore[no-untyped-call]


def view_pool(aggregation: Aggregation, dim: int, num_heads: int = 4) -> nn.Module:
    """The module that pools views of `dim`, forward(values (V, D), start (M + 1,)) -> (M, D)."""
    match aggregation:
        case "attention" | "learnable":
            return AttentionPool(dim, num_heads, learnable=aggregation == "learnable")
        case "cls":
            return ClsPool(dim, num_heads)
        case "mean":
            return MeanViews()
        case "max":
            return MaxViews()
        case "single":
            return SingleView()


class AttentionPool(nn.Module):
    """out = attention(query, views), nothing added and nothing normalised.

    The query is the mean of the study's views (as published, whatever "weighs views by relevance" promises), or with `learnable`
    one learned vector for all studies.
    """

    def __init__(self, dim: int, num_heads: int = 4, *, learnable: bool = False) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=TOKEN_STD)) if learnable else None

    def forward(self, values: Tensor, start: Tensor) -> Tensor:
        studies = Studies.of(start, len(values))
        query = studies.mean(values) if self.query is None else self.query.expand(len(start) - 1, -1)
        return attend(self.mha, query, values, studies)


class ClsPool(nn.Module):
    """A learned token that looks at the views, layer by layer; the views stay what they are."""

    def __init__(self, dim: int, num_heads: int = 4, *, num_layers: int = 1, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=TOKEN_STD))
        self.layers = nn.ModuleList([ClsLayer(dim, num_heads, dropout) for _ in range(num_layers)])

    def forward(self, values: Tensor, start: Tensor) -> Tensor:
        studies = Studies.of(start, len(values))
        token = self.cls_token[0].expand(len(start) - 1, -1)
        for layer in self.layers:
            token = layer(token, values, studies)
        return token


class ClsLayer(nn.Module):
    """Attention to the views, then a feed-forward part, each added and then normalised."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)
        self.ln1 = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, FFN_RATIO * dim), nn.GELU(), nn.Linear(FFN_RATIO * dim, dim), nn.Dropout(dropout))
        self.ln2 = nn.LayerNorm(dim)

    def forward(self, token: Tensor, values: Tensor, studies: Studies) -> Tensor:
        token = self.ln1(token + attend(self.mha, token, values, studies))
        result: Tensor = self.ln2(token + self.ffn(token))
        return result


class MeanViews(nn.Module):
    """The mean of a study's views."""

    def forward(self, values: Tensor, start: Tensor) -> Tensor:
        return Studies.of(start, len(values)).mean(values)


class MaxViews(nn.Module):
    """The largest value of a study's views, dimension by dimension."""

    def forward(self, values: Tensor, start: Tensor) -> Tensor:
        return Studies.of(start, len(values)).max(values)


class SingleView(nn.Module):
    """Nothing to pool: every study shows one view."""

    def forward(self, values: Tensor, start: Tensor) -> Tensor:
        if len(values) != len(start) - 1:
            raise ValueError(f"{len(values)} views of {len(start) - 1} studies; a single view a study is wanted")
        return values


def attend(mha: nn.MultiheadAttention, query: Tensor, values: Tensor, studies: Studies) -> Tensor:
    """`mha(query, views, views)` for one query a study: (M, D), (V, D) -> (M, D). Softmax and sums are fp32 under autocast."""
    dim, heads = mha.embed_dim, mha.num_heads
    weight, bias = mha.in_proj_weight, mha.in_proj_bias
    q = F.linear(query, weight[:dim], bias[:dim]).view(len(query), heads, -1)
    k, v = F.linear(values, weight[dim:], bias[dim:]).view(len(values), 2, heads, -1).unbind(1)
    shares = studies.softmax((studies.spread(q) * _full(k)).sum(-1) / math.sqrt(dim // heads))
    shares = F.dropout(shares, mha.dropout, mha.training)
    result: Tensor = mha.out_proj(studies.sum(shares[..., None] * _full(v)).flatten(1))
    return result


def drop_views(values: Tensor, start: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Each view left out with probability `share`, but never the last of a study: (V, ...), (M + 1,) -> the same, shorter."""
    studies = Studies.of(start, len(values))
    drawn = torch.rand(len(values), device=values.device)
    keep = (drawn >= share) | (drawn >= studies.spread(studies.max(drawn)))
    counts = studies.sum(keep.float()).long()
    return values[keep], torch.cat([start[:1], counts.cumsum(0)])


def _full(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
