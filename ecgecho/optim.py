"""AdamW, its learning rate at a step, and which parameters decay."""

from __future__ import annotations

import math

import torch
from torch import nn

from ecgecho.config import OptimOptions


def make_optimizer(model: nn.Module, options: OptimOptions) -> torch.optim.AdamW:
    """AdamW; weights decay, biases, norms and scalars (fewer than two dimensions) do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=options.learning_rate, betas=options.betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, num_steps: int, options: OptimOptions) -> float:
    """Set and return the rate of a step."""
    rate = learning_rate(step, num_steps, options)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def learning_rate(step: int, num_steps: int, options: OptimOptions) -> float:
    """Linear from 1/1000 to the full rate over the warm-up, then a cosine that would reach zero at `num_steps`."""
    warmup = round(options.warmup_share * num_steps)
    if step < warmup:
        start = 1e-3  # EchoingECG src/configs/optimizer.yaml: start factor of the warm-up
        return options.learning_rate * (start + (1 - start) * step / warmup)
    passed = (step - warmup) / max(num_steps - warmup, 1)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * min(passed, 1.0)))
