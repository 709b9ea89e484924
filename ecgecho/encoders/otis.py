"""OTiS, the ECG encoder of Echo2ECG: a vision transformer over windows of 1,008 samples, 12 leads of 42 patches each.

    window (12, 1008) -> patches of 24 samples of a lead: linear, LayerNorm, GELU   -> 504 tokens, lead by lead
                      + position: one half of the width says the lead (learned), the other the time (sines, fixed)
    CLS and tokens    -> 12 blocks: x += attention(LN(x)); x += MLP(LN(x)); no norm at the end

7,123,680 parameters in the base size, 9.5 GFLOP a window in the reference's arithmetic. An ECG longer than a window is covered
by windows at even distances, where the reference looks at the first 2 s of 10; `Config.windows = "first"` is its way.

The reference projects twice in attention (`qkv`, then again inside `mha`; `mha.out_proj`, then `proj`). Both are kept as
parameters, so that published weights fit and train as they do there, but the two matrices are multiplied with one another
before a token meets them: the same function of the parameters, in training too, for 4 D^2 instead of 8 D^2 products a token.

Source: Echo2ECG (github michelleespranita/Echo2ECG at 64c9610): ecg/models/ECGEncoder.py, Components.py, init_model.py;
OTiS (github oetu/otis at e034a4b). Attribute names are those of their checkpoints.
B batch, W windows, n windows of all rows, C leads, S samples of a window, T patches of a lead, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ecgecho import weights
from ecgecho.types import EcgContract, UsageError, UserError

CONTRACT = EcgContract(name="otis", fs_hz=500, num_samples=5000, chain="otis", least_samples=1008)

SIZES = {"base": (192, 12, 3), "large": (384, 18, 6), "huge": (576, 24, 8)}
"""Width, blocks and heads. Source: ECGEncoder.py, vit_baseDeep_patchX and its greater sisters."""
BLOCK_NORM_EPS = 1e-6  # ECGEncoder.py; the patches' norm has PyTorch's own 1e-5
MLP_RATIO = 4
TIME_SCALE = 10_000  # util/pos_embed.py: wavelengths of the sines go from 2 pi to this times 2 pi
INIT_STD = 0.02
AT_ONCE = 64
"""Windows that go through together where no gradient is kept: 32,320 tokens fill a GPU, and their MLP takes 100 MB."""
DOMAIN = "ecg"
"""The name of ECGs among the domains of an OTiS checkpoint."""
LEFT_OUT = ("decoder_", "projector", "predictor", "mask_token", "norm.", "head.")
"""What begins so in a published file belongs to pre-training, or is deleted by Echo2ECG, and is no part of the encoder."""
PREFIX = "ecg_encoder."
"""In front of the encoder's names in a whole checkpoint of Echo2ECG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Sizes, windows and regularisation; the defaults are the published ones but for `windows`."""

    size: Literal["base", "large", "huge"] = "base"
    dim: int = 0
    """0: as `size` says; so for `depth` and `heads`."""
    depth: int = 0
    heads: int = 0
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """OTiS files made since February 2026 have "swiglu" (8,902,368 parameters in the base size), Echo2ECG has "gelu"."""
    windows: Literal["all", "first"] = "all"
    """"first" looks at the first window alone, as the reference does."""
    drop_path: float = 0.1
    """Share of the residual branches that a training step leaves out in the last block; from 0 in the first, linearly."""
    checkpointing: bool = False
    """Computes the blocks again in the backward pass instead of keeping what is between: a third slower, less memory."""
    patch: int = 24
    """Samples of a patch."""
    window: int = 1008
    """Samples of a window; a small student may look at less."""
    num_leads: int = 12

    def __post_init__(self) -> None:
        if not 0 <= self.drop_path < 1:
            raise UsageError(f"encoder.drop_path is {self.drop_path}; it must be in [0, 1).")
        if min(self.dim, self.depth, self.heads) < 0 or min(self.patch, self.window, self.num_leads) < 1:
            raise UsageError("encoder.dim, depth and heads must be 0 or more, patch, window and num_leads 1 or more.")
        dim, _, heads = self.sizes
        if dim % heads or dim % 4:
            raise UsageError(f"encoder.dim is {dim}; it must be a multiple of 4 and of the {heads} heads.")
        if self.window % self.patch:
            raise UsageError(f"encoder.window is {self.window}; it must be a multiple of the patch, {self.patch} samples.")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Width, blocks, heads."""
        dim, depth, heads = SIZES[self.size]
        return self.dim or dim, self.depth or depth, self.heads or heads


def build(config: Config) -> Otis:
    """The encoder, randomly initialised."""
    return Otis(config)


class Otis(nn.Module):
    """(B, C, L) -> (B, W * C * T, width), L at least a window."""

    pos_embed_x: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        dim, depth, heads = config.sizes
        self.config = config
        self.width = dim
        self.num_layers = depth
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.patch_embed = PatchEmbed(config.patch, dim)
        self.blocks = nn.ModuleList(
            [Block(dim, heads, config.mlp, config.drop_path * block / max(depth - 1, 1)) for block in range(depth)]
        )
        self.pos_embed_y = nn.Embedding(config.num_leads + 1, dim // 2, padding_idx=0)
        self.register_buffer("pos_embed_x", time_positions(dim // 2, config.window // config.patch)[None])
        nn.init.normal_(self.cls_token, std=INIT_STD)
        nn.init.trunc_normal_(self.pos_embed_y.weight[1:], std=INIT_STD)

    def forward(self, ecg: Tensor) -> Tensor:
        """The patch tokens of all windows, one window after another, without CLS.

        Where a recording was filled up with zeros, patches that hold none of it do not count: in place of their tokens stands,
        lead by lead, the mean over the row's tokens that do. So the mean over all tokens is the mean over the patches of the
        recording; a patch that it ends in counts as a whole. Of a row of nothing but zeros the first window counts. A window
        that a recording ends in is still looked at with the zeros behind it, as nothing shorter can be.
        """
        windows, recorded = self._windows(ecg)
        looked_at = recorded.any(2)
        tokens = self._encode(windows, looked_at, None)
        if bool(recorded.all()):
            return tokens.reshape(len(ecg), -1, self.width)
        full = tokens.new_zeros(*recorded.shape[:2], *tokens.shape[1:])
        full[looked_at] = tokens
        full = full.view(*recorded.shape[:2], self.config.num_leads, -1, self.width)  # (B, W, C, T, width)
        counts = recorded[:, :, None, :, None]
        mean = (full * counts).sum((1, 3)) / recorded.sum((1, 2))[:, None, None]
        return torch.where(counts, full, mean[:, None, :, None]).flatten(1, 3)

    def pooled(self, ecg: Tensor) -> Tensor:
        """(B, C, L) -> (B, width): the mean of `forward`'s tokens, in fp32, without keeping all of them."""
        windows, recorded = self._windows(ecg)
        looked_at = recorded.any(2)
        means = self._encode(windows, looked_at, recorded[looked_at])
        full = means.new_zeros(*looked_at.shape, self.width)
        full[looked_at] = means
        share = recorded.float().mean(2)
        return (full * share[:, :, None]).sum(1) / share.sum(1)[:, None]

    def window_tokens(self, x: Tensor) -> Tensor:
        """(n, C, S) -> (n, 1 + C * T, width): CLS and the patches of each lead, as the reference gives them."""
        num_times = self.config.window // self.config.patch
        leads, times = self.pos_embed_y.weight[1:], self.pos_embed_x[0]
        position = torch.cat([leads[:, None].expand(-1, num_times, -1), times[1:].expand(len(leads), -1, -1)], 2)
        patches = (self.patch_embed(x) + position).flatten(1, 2)
        cls = self.cls_token + F.pad(times[:1], (self.width // 2, 0))
        tokens = torch.cat([cls.expand(len(x), -1, -1).to(patches.dtype), patches], 1)
        for block in self.blocks:
            keep = self.config.checkpointing and torch.is_grad_enabled()
            tokens = checkpoint(block, tokens, use_reentrant=False) if keep else block(tokens)
        return tokens

    def starts(self, num_samples: int) -> list[int]:
        """Where the windows begin that cover a recording: as few as can be, at even distances, the first at 0."""
        window = self.config.window
        if num_samples < window:
            raise UserError(
                f"the ECG has {num_samples} samples, but encoder otis looks at {window} at a time "
                f"({window / CONTRACT.fs_hz:.3f} s at {CONTRACT.fs_hz:g} Hz); give longer recordings or a smaller encoder.window."
            )
        if self.config.windows == "first":
            return [0]
        count = math.ceil(num_samples / window)
        return [round(k * (num_samples - window) / max(count - 1, 1)) for k in range(count)]

    def layer_of(self, parameter_name: str) -> int:
        """The block a parameter is in, for rates that fall with depth; patches, CLS and positions go with the first."""
        first, _, rest = parameter_name.partition(".")
        return int(rest.partition(".")[0]) if first == "blocks" else 0

    def adapted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published tensors with the time positions of this window.

        Of a table for longer windows the first positions are taken, as the reference does when it runs; one for shorter windows
        is interpolated linearly, but for the row of CLS.
        """
        given, own = state.get("pos_embed_x"), self.pos_embed_x
        if given is None or given.ndim != 3 or given.shape[1] == own.shape[1] or given.shape[::2] != own.shape[::2]:
            return dict(state)
        if given.shape[1] > own.shape[1]:
            return {**state, "pos_embed_x": given[:, : own.shape[1]]}
        if given.shape[1] < 2:
            return dict(state)
        rows = F.interpolate(given[:, 1:].float().transpose(1, 2), own.shape[1] - 1, mode="linear", align_corners=False)
        return {**state, "pos_embed_x": torch.cat([given[:, :1].float(), rows.transpose(1, 2)], 1)}

    def _windows(self, ecg: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, L) -> (B, W, C, S), and which patches of them hold some of the recording (B, W, T).

        A recording reaches from the first to the last sample that is not 0 in all leads: zeros follow it, or precede it where an
        augmentation moved or turned it.
        """
        if ecg.ndim != 3 or ecg.shape[1] != self.config.num_leads:
            raise UserError(f"encoder otis takes (batch, {self.config.num_leads} leads, samples), not {tuple(ecg.shape)}.")
        length, patch = ecg.shape[2], self.config.patch
        starts = self.starts(length)
        windows = torch.stack([ecg[:, :, start : start + self.config.window] for start in starts], 1)
        place, some = torch.arange(length, device=ecg.device), (ecg != 0).any(1)
        first = torch.where(some, place, length).amin(1)[:, None, None]
        last = torch.where(some, place, -1).amax(1)[:, None, None]
        begin = torch.tensor(starts, device=ecg.device)[:, None] + place[: self.config.window : patch]  # (W, T)
        recorded = (begin <= last) & (begin + patch > first)
        recorded[:, 0] |= ~recorded.flatten(1).any(1)[:, None]
        return windows, recorded

    def _encode(self, windows: Tensor, looked_at: Tensor, pooled: Tensor | None) -> Tensor:
        """The tokens (n, C * T, width) of the windows (B, W, C, S) that are `looked_at` (B, W), in their order.

        With `pooled` (n, T) their means in fp32 over these patches of all leads, (n, width). Without gradients a few windows
        go through at a time, to bound memory.
        """
        chosen = windows[looked_at]
        if torch.is_grad_enabled():
            return self._kept(chosen, pooled)
        parts = torch.split(chosen, AT_ONCE)
        masks = [None] * len(parts) if pooled is None else torch.split(pooled, AT_ONCE)
        return torch.cat([self._kept(part, mask) for part, mask in zip(parts, masks, strict=True)])

    def _kept(self, windows: Tensor, pooled: Tensor | None) -> Tensor:
        tokens = self.window_tokens(windows)[:, 1:]
        if pooled is None:
            return tokens
        tokens = tokens.float()
        if bool(pooled.all()):
            return tokens.mean(1)
        by_time = tokens.view(len(tokens), self.config.num_leads, -1, self.width).mean(1)  # (n, T, width)
        part = (by_time * pooled[:, :, None]).sum(1) / pooled.sum(1)[:, None]
        return torch.where(pooled.all(1)[:, None], tokens.mean(1), part)


class PatchEmbed(nn.Module):
    """(n, C, S) -> (n, C, T, D): a linear map of each patch of a lead, LayerNorm, GELU."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(1, dim, (1, patch), stride=(1, patch))  # for its names and shapes; patches do not overlap
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x.view(*x.shape[:2], -1, self.patch), self.proj.weight.flatten(1), self.proj.bias)
        return F.gelu(self.norm(y))


class Block(nn.Module):
    """Attention and MLP, each on normalised tokens and added to them."""

    def __init__(self, dim: int, heads: int, mlp: str, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim, eps=BLOCK_NORM_EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=BLOCK_NORM_EPS)
        self.mlp = Mlp(dim) if mlp == "gelu" else SwiGlu(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._dropped(self.attn(self.norm1(x)))
        return x + self._dropped(self.mlp(self.norm2(x)))

    def _dropped(self, branch: Tensor) -> Tensor:
        """Leaves the branch out of a random share of the windows and makes it larger in the others, so that the mean stays."""
        if not self.training or self.drop_path == 0:
            return branch
        kept = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * (kept / (1 - self.drop_path)).to(branch.dtype)


class Attention(nn.Module):
    """Attention with two projections in a row before it and two after it, each pair multiplied to one."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mha = InnerProjections(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        for matrix in (*self.qkv.weight.chunk(3), *self.mha.in_proj_weight.chunk(3), self.mha.out_proj.weight, self.proj.weight):
            nn.init.xavier_uniform_(matrix)  # products of two matrices of the usual 0.02 would give attention no contrast
        for bias in (self.qkv.bias, self.mha.in_proj_bias, self.mha.out_proj.bias, self.proj.bias):
            nn.init.zeros_(bias)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, out_weight, out_bias = self.folded()
        q, k, v = F.linear(x, weight, bias).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return F.linear(attended, out_weight, out_bias)

    def folded(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weight (3D, D) and bias of query, key and value, weight (D, D) and bias of the output.

        W = W_in W_qkv, b = W_in b_qkv + b_in for each of the three; W = W_proj W_out, b = W_proj b_out + b_proj. Made anew in
        every pass, with gradients, so that no copy can fall behind the weights: 4 D^3 products, against 4 D^2 saved per token.
        """
        dim = self.proj.in_features
        inner = self.mha.in_proj_weight.view(3, dim, dim)
        with torch.autocast(inner.device.type, enabled=False):  # in bf16 the product would be rounded before it is used
            weight = (inner @ self.qkv.weight.view(3, dim, dim)).view(3 * dim, dim)
            bias = (inner @ self.qkv.bias.view(3, dim, 1)).view(3 * dim) + self.mha.in_proj_bias
            out_weight = self.proj.weight @ self.mha.out_proj.weight
            out_bias = self.proj.weight @ self.mha.out_proj.bias + self.proj.bias
        return weight, bias, out_weight, out_bias


class InnerProjections(nn.Module):
    """The second projections' parameters, by the names that `nn.MultiheadAttention` gives them in published files."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * dim))
        self.out_proj = nn.Linear(dim, dim)


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = _linear(dim, MLP_RATIO * dim)
        self.fc2 = _linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return result


class SwiGlu(nn.Module):
    """fc2(SiLU(fc1_g(x)) * fc1_x(x)), as OTiS has it since a1bd3c6."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1_g = _linear(dim, MLP_RATIO * dim)
        self.fc1_x = _linear(dim, MLP_RATIO * dim)
        self.fc2 = _linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(F.silu(self.fc1_g(x)) * self.fc1_x(x))
        return result


def _linear(width_in: int, width: int) -> nn.Linear:
    layer = nn.Linear(width_in, width)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def time_positions(width: int, num_times: int) -> Tensor:
    """(1 + num_times, width): a row of zeros for CLS, then [sin(t w), cos(t w)] of t = 0, 1, ..., w_i = 10000^(-2 i / width)."""
    frequency = TIME_SCALE ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angle = torch.arange(num_times, dtype=torch.float64)[:, None] * frequency
    return F.pad(torch.cat([angle.sin(), angle.cos()], 1), (0, 0, 1, 0)).float()


def import_weights(encoder: nn.Module, path: Path) -> list[str]:
    """Load a published encoder; returns what to print: what was loaded, what was left out by rule.

    `path` is an OTiS checkpoint (of all domains; the rows of its ECG leads are taken), Echo2ECG's ecg_multimodal.ckpt, or a
    whole checkpoint of Echo2ECG, of which "ecg_encoder." is taken. Strict: all of the encoder is in the file and all of the file
    is known, or a UserError names what is not, and nothing is loaded.
    """
    assert isinstance(encoder, Otis)
    state = weights.read_weights(path)
    if any(name.startswith(PREFIX) for name in state):
        left_out = [name for name in state if not name.startswith(PREFIX)]
    else:
        left_out = [name for name in state if name.startswith(LEFT_OUT)]
    state = {name.removeprefix(PREFIX): value for name, value in state.items() if name not in left_out}
    lines = []
    _check_kind(encoder, state, path)
    table = state.get("pos_embed_y.weight")
    if table is not None and table.ndim == 2 and len(table) > encoder.config.num_leads + 1:
        first = _first_row(weights.read_facts(path), len(table), encoder.config.num_leads, path)
        state["pos_embed_y.weight"] = F.pad(table[first : first + encoder.config.num_leads], (0, 0, 1, 0))
        lines.append(f"lead embeddings: rows {first} to {first + encoder.config.num_leads - 1} of {len(table)}, domain {DOMAIN}")
    times, own = state.get("pos_embed_x"), encoder.pos_embed_x
    if times is not None and times.ndim == 3 and times.shape[1] != own.shape[1]:
        how = "the first of" if times.shape[1] > own.shape[1] else "interpolated from"
        lines.append(f"time positions: {own.shape[1] - 1}, {how} the file's {times.shape[1] - 1}")
    weights.fit(encoder, state, str(path))
    groups = sorted({name.split(".")[0] for name in left_out})
    if left_out:
        lines.append(f"left out by rule: {len(left_out)} tensors of {', '.join(groups)}")
    return [f"{path}: {len(state)} tensors of the encoder otis", *lines]


def _check_kind(encoder: Otis, state: Mapping[str, Tensor], path: Path) -> None:
    """Says which option the file wants, where it is another kind of OTiS than the encoder."""
    mlp = "swiglu" if any(".mlp.fc1_g." in name for name in state) else "gelu"
    if mlp != encoder.config.mlp and any(".mlp." in name for name in state):
        raise UserError(f"{path} has MLPs of the kind {mlp}, the encoder {encoder.config.mlp}; pass --set encoder.mlp={mlp}.")
    cls = state.get("cls_token")
    size = next((name for name, (dim, _, _) in SIZES.items() if cls is not None and cls.shape[-1] == dim), "")
    if size and SIZES[size][0] != encoder.width:
        raise UserError(f"{path} has the width {SIZES[size][0]}, the encoder {encoder.width}; pass --set encoder.size={size}.")


def _first_row(facts: Mapping[str, Any], num_rows: int, num_leads: int, path: Path) -> int:
    """Of the ECG leads in a table of all domains: row 0 is for padding, then the domains follow at their offsets.

    Source: init_model.py:36-44.
    """
    offsets = facts.get("domain_offsets")
    if not isinstance(offsets, dict) or type(offsets.get(DOMAIN)) is not int:
        known = f"only {weights.few(sorted(offsets))}" if isinstance(offsets, dict) else "no domain_offsets"
        raise UserError(
            f"{path} has {num_rows} lead embeddings but {known}, so that nobody knows which are those of {DOMAIN}; "
            "give the original OTiS checkpoint."
        )
    first: int = offsets[DOMAIN] + 1
    if not 1 <= first <= num_rows - num_leads:
        raise UserError(f"{path} has {num_rows} lead embeddings, but its domain {DOMAIN} begins at {first}; get it again.")
    return first
