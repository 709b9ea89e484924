"""Pooling of tokens into one vector. B batch, T tokens, D embedding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

TEMPERATURE = 0.1  # EchoingECG src/model/gpo.py: softmax(score / 0.1)
POSITION_BASE = 10000.0


class GPO(nn.Module):
    """Generalised pooling: sort every channel over the tokens, then a learned weighted sum of the ranks. (B, T, D) -> (B, D).

    out[d] = sum_r w_L[r] * sorted(x[:, d])[r],  w_L = softmax(linear(mean of both directions of GRU(position codes)) / 0.1)

    The weights depend on nothing but the number of valid tokens L, so they are computed once for each L in the batch.
    Source: GPO (arXiv 2011.04305) as in EchoingECG src/model/gpo.py and PCME++; parameter names are theirs.
    """

    def __init__(self, position_dim: int = 32, hidden_dim: int = 32) -> None:
        super().__init__()
        self.position_dim = position_dim
        self.gru = nn.GRU(position_dim, hidden_dim, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(hidden_dim, 1, bias=False)

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """`valid` (B, T) True = real token, in any places; a row without any gives zeros. Without it: no host sync."""
        if valid is None:
            weights = self.weights(tokens.shape[1]).to(tokens.dtype)
            return torch.einsum("btd,t->bd", tokens.sort(dim=1, descending=True).values, weights)
        count = valid.sum(1)
        lengths, of_row = torch.unique(count.clamp(min=1), return_inverse=True)
        weights = self.weights_of(lengths, tokens.shape[1]).to(tokens.dtype)[of_row]
        ranked = tokens.masked_fill(~valid[..., None], torch.finfo(tokens.dtype).min).sort(dim=1, descending=True).values
        has_rank = torch.arange(tokens.shape[1], device=tokens.device) < count[:, None]
        return torch.einsum("btd,bt->bd", ranked.masked_fill(~has_rank[..., None], 0.0), weights)

    def weights(self, length: int) -> Tensor:
        """The weights of `length` ranks, (length,), fp32."""
        device = self.linear.weight.device
        with torch.autocast(device.type, enabled=False):
            states, _ = self.gru(position_codes(length, self.position_dim, device)[None])
            return (self._score(states)[0] / TEMPERATURE).softmax(-1)

    def weights_of(self, lengths: Tensor, num_ranks: int) -> Tensor:
        """One row of weights a length, zero from its end on. (K,) int64 -> (K, num_ranks), fp32."""
        device = self.linear.weight.device
        with torch.autocast(device.type, enabled=False):
            codes = position_codes(num_ranks, self.position_dim, device).expand(len(lengths), -1, -1)
            packed = pack_padded_sequence(codes, lengths.cpu(), batch_first=True, enforce_sorted=False)
            states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=num_ranks)
            beyond = torch.arange(num_ranks, device=device) >= lengths.to(device)[:, None]
            return (self._score(states).masked_fill(beyond, -torch.inf) / TEMPERATURE).softmax(-1)

    def _score(self, states: Tensor) -> Tensor:
        """(K, T, 2 * hidden) -> (K, T)."""
        forward, backward = states.chunk(2, dim=-1)
        score: Tensor = self.linear((forward + backward) / 2)
        return score.squeeze(-1)


class MeanPool(nn.Module):
    """The mean of the valid tokens, (B, T, D) -> (B, D); no parameters. The fast choice for small models on a CPU."""

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        if valid is None:
            return tokens.mean(1)
        return tokens.masked_fill(~valid[..., None], 0.0).sum(1) / valid.sum(1).clamp(min=1)[:, None]


def position_codes(length: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Sines in the even columns, cosines in the odd ones, (length, dim). Source: arXiv 1706.03762 section 3.5."""
    rate = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(POSITION_BASE) / dim))
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
