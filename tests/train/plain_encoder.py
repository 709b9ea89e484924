"""An encoder that knows each ECG by itself: no statistics of a batch."""

from dataclasses import dataclass

import torch
from torch import nn

from ecgecho.encoders import resnet_small

CONTRACT = resnet_small.CONTRACT


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    width: int = 8


def build(config: Config) -> nn.Module:
    return Plain(config.width)


class Plain(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.conv = nn.Conv1d(12, width, 50, stride=50)

    def forward(self, ecg):
        return torch.tanh(self.conv(ecg)).transpose(1, 2)
