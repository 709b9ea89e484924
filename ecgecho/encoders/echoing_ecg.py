"""The paper's ECG encoder: a 1-D ResNet of basic blocks [3, 4, 23, 3], 10 s of 12 leads at 100 Hz to 63 tokens of 1536.

With its two heads it has 126,642,944 parameters and costs 27.8 GFLOP an ECG.
Source: EchoingECG src/model/ecg_encoder.py and src/configs/model.yaml at 60da543; attribute names are those of its checkpoint.
B batch, C leads, L samples, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ecgecho.nn.heads import GaussianHead
from ecgecho.types import EcgContract, UserError

CONTRACT = EcgContract(name="echoing_ecg", fs_hz=100, num_samples=1000, band_hz=(0.5, 40.0))

HEAD_NAMES = {"linear": "mean_linear", "gpool": "mean_pool", "std_linear": "logvar_linear", "std_gpool": "logvar_pool"}
"""The reference's names of a head's parts, and ours."""


@dataclass(frozen=True)
class Config:
    """Sizes; the defaults are the published ones."""

    stem_width: int = 96
    """Channels after the stem; stage k has stem_width * (2, 4, 8, 16)[k]."""
    num_blocks: tuple[int, int, int, int] = (3, 4, 23, 3)
    num_leads: int = 12


def build(config: Config) -> EchoingEcg:
    """The encoder with PyTorch's default initialisation."""
    return EchoingEcg(config)


class EchoingEcg(nn.Module):
    """(B, C, L) -> (B, T, width), T = L / 16 rounded up."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = [config.stem_width * factor for factor in (2, 4, 8, 16)]
        self.width = widths[-1]
        self.conv1 = nn.Conv1d(config.num_leads, config.stem_width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm1d(config.stem_width)
        self.layer1 = _stage(config.stem_width, widths[0], config.num_blocks[0], stride=1)
        self.layer2 = _stage(widths[0], widths[1], config.num_blocks[1], stride=2)
        self.layer3 = _stage(widths[1], widths[2], config.num_blocks[2], stride=2)
        self.layer4 = _stage(widths[2], widths[3], config.num_blocks[3], stride=2)

    def forward(self, ecg: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(ecg)), inplace=True)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        tokens: Tensor = x.transpose(1, 2)
        return tokens


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus the shortcut, ReLU; kernels of 3, no biases."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm1d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(nn.Conv1d(width_in, width, 1, stride=stride, bias=False), nn.BatchNorm1d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


def import_state_dict(
    mapping: Mapping[str, Tensor],
    *,
    encoder: nn.Module,
    ecg_head: GaussianHead,
    text_tower: nn.Module | None = None,
    text_head: GaussianHead | None = None,
) -> None:
    """Load a published `echoingecg.pt` (read with weights_only) into our modules; raises UserError naming what does not fit.

    Keys start with "ecg_encoder." and "text_encoder."; without text modules the text keys are left aside.
    """
    parts: dict[str, tuple[nn.Module, dict[str, Tensor]]] = {"encoder": (encoder, {}), "ecg head": (ecg_head, {})}
    if text_tower is not None and text_head is not None:
        parts |= {"text tower": (text_tower, {}), "text head": (text_head, {})}
    unexpected = []
    for key, value in mapping.items():
        side, _, name = key.partition(".")
        first, _, rest = name.partition(".")
        is_head = first in HEAD_NAMES
        part = {"ecg_encoder": ("encoder", "ecg head"), "text_encoder": ("text tower", "text head")}.get(side)
        if part is None:
            unexpected.append(key)
        elif part[is_head] in parts:
            parts[part[is_head]][1][f"{HEAD_NAMES[first]}.{rest}" if is_head else name] = value
    problems = [f"unexpected key {key}" for key in unexpected]
    for part_name, (module, state) in parts.items():
        expected = module.state_dict()
        problems += [f"{part_name}: missing key {key}" for key in expected if key not in state]
        problems += [f"{part_name}: unexpected key {key}" for key in state if key not in expected]
        problems += [
            f"{part_name}: {key} is {tuple(state[key].shape)}, not {tuple(expected[key].shape)}"
            for key in state
            if key in expected and state[key].shape != expected[key].shape
        ]
    if problems:
        more = f"; and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise UserError(
            f"the checkpoint does not fit this model: {'; '.join(problems[:12])}{more}. "
            "Use a checkpoint of the published model, or the sizes it was trained with."
        )
    for module, state in parts.values():
        module.load_state_dict(state, strict=True)


def _stage(width_in: int, width: int, num_blocks: int, stride: int) -> nn.Sequential:
    blocks = [BasicBlock(width_in if i == 0 else width, width, stride if i == 0 else 1) for i in range(num_blocks)]
    return nn.Sequential(*blocks)
