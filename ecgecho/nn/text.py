"""Text towers: token ids (B, T) -> tokens (B, T, width). B batch, T tokens.

`BertText` wraps any local Hugging Face BERT; `SmallText` is a light encoder over a vocabulary of the run's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ecgecho.types import UserError
from ecgecho.weights import read_weights

PAPER_TOKENS = 244  # EchoingECG, implementation details: reports are padded to 244 tokens
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


class SmallText(nn.Module):
    """Word embeddings, learned positions and a few transformer layers. Id 0 is padding."""

    def __init__(
        self,
        vocabulary_size: int,
        width: int = 128,
        *,
        num_layers: int = 1,
        num_heads: int = 4,
        max_tokens: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.width = width
        self.max_tokens = max_tokens
        self.words = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Parameter(torch.zeros(max_tokens, width))
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList([SmallLayer(width, num_heads, dropout) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, ids: Tensor, valid: Tensor) -> Tensor:
        """`valid` (B, T) True = real token; what is not valid has no effect on what is."""
        if ids.shape[1] > self.max_tokens:
            raise UserError(f"a text of {ids.shape[1]} tokens is longer than the {self.max_tokens} of this tower; cut it first.")
        x = self.drop(self.words(ids) + self.positions[: ids.shape[1]])
        # A row without any token would make every score -inf; it may look at its padding, which pooling leaves out.
        seen = (valid | ~valid.any(1, keepdim=True))[:, None, None]
        for layer in self.layers:
            x = layer(x, seen)
        tokens: Tensor = self.norm(x)
        return tokens


class SmallLayer(nn.Module):
    """A transformer layer, normalised before each part."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.drop(self.out(attended.transpose(1, 2).flatten(2)))
        mixed: Tensor = x + self.drop(self.mlp(self.norm2(x)))
        return mixed


class BertText(nn.Module):
    """A Hugging Face text encoder from a local folder (config.json and its weights); nothing is fetched, nothing unpickled."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        config: Any = backbone.config
        self.width: int = config.hidden_size
        self.max_tokens: int = config.max_position_embeddings

    @classmethod
    def from_folder(cls, folder: str | Path) -> BertText:
        """The model of `folder` with its weights, all of them trainable."""
        folder = Path(folder)
        tower = cls.from_config(folder)
        weights = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
        if weights is None:
            raise UserError(f"{folder} holds none of {', '.join(WEIGHT_FILES)}; give the folder of a downloaded BERT.")
        _load_backbone(tower.backbone, read_weights(weights), weights)
        return tower

    @classmethod
    def from_config(cls, config: Any) -> BertText:
        """The same with random weights, from a transformers configuration or a folder that holds config.json."""
        from transformers import AutoConfig, AutoModel

        if isinstance(config, str | Path):
            if not (Path(config) / "config.json").is_file():
                raise UserError(f"{config} holds no config.json; give the folder of a downloaded BERT.")
            config = AutoConfig.from_pretrained(config, local_files_only=True, trust_remote_code=False)
        return cls(AutoModel.from_config(config))

    def forward(self, ids: Tensor, valid: Tensor) -> Tensor:
        if ids.shape[1] > self.max_tokens:
            raise UserError(f"a text of {ids.shape[1]} tokens is longer than the {self.max_tokens} of this BERT; cut it first.")
        tokens: Tensor = self.backbone(input_ids=ids, attention_mask=valid.long()).last_hidden_state
        return tokens


def _load_backbone(backbone: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Strict but for the pooler, which no token passes, and for heads and buffers of other tasks."""
    expected = backbone.state_dict()
    prefix: str = getattr(backbone, "base_model_prefix", "bert") + "."
    if not any(key in expected for key in state):
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    legacy = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # names before transformers 0.4
    for old, new in legacy.items():
        state = {key.replace(old, new): value for key, value in state.items()}
    missing = [key for key in expected if key not in state and not key.startswith("pooler.") and "position_ids" not in key]
    wrong = [key for key, value in state.items() if key in expected and value.shape != expected[key].shape]
    if missing or wrong:
        raise UserError(
            f"{path} does not fit its config.json: missing {missing[:5] or 'nothing'}, other shapes {wrong[:5] or 'none'}; "
            "give a folder whose weights and configuration belong together."
        )
    backbone.load_state_dict({key: value for key, value in state.items() if key in expected}, strict=False)
