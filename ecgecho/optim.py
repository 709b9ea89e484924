"""AdamW, its learning rate at a step and in a layer, and which parameters decay."""

from __future__ import annotations

import math

import torch
from torch import nn

from ecgecho.config import OptimOptions
from ecgecho.types import UsageError


def make_optimizer(model: nn.Module, options: OptimOptions) -> torch.optim.AdamW:
    """AdamW; weights decay, biases, norms and scalars (fewer than two dimensions) do not.

    Parameters that are not trained are left out. A group has the key "scale", its share of the learning rate: 1, or with
    `layer_decay` that of a layer of `model.encoder`.
    """
    scales = _scales(model, options.layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = options.weight_decay if parameter.ndim >= 2 else 0.0
            groups.setdefault((-decay, scales.get(name, 1.0)), []).append(parameter)
    made = [{"params": found, "weight_decay": -key[0], "scale": key[1]} for key, found in sorted(groups.items(), key=_key)]
    if not made:
        raise UsageError("the method has no parameter that is trained.")
    return torch.optim.AdamW(made, lr=options.learning_rate, betas=options.betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, num_steps: int, options: OptimOptions) -> float:
    """Set the rate of a step in every group, and return the full one."""
    rate = learning_rate(step, num_steps, options)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    return rate


def learning_rate(step: int, num_steps: int, options: OptimOptions) -> float:
    """Linear from `warmup_start` of the full rate over the warm-up, then a cosine to `final_share` of it at `num_steps`."""
    warmup = round(options.warmup_share * num_steps)
    start, final = options.warmup_start, options.final_share
    if step < warmup:
        return options.learning_rate * (start + (1 - start) * step / warmup)
    passed = (step - warmup) / max(num_steps - warmup, 1)
    return options.learning_rate * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(passed, 1.0))))


def _scales(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Parameter name -> share of the rate, of the encoder's parameters; none without decay."""
    if layer_decay == 1:
        return {}
    encoder = getattr(model, "encoder", None)
    if not (hasattr(encoder, "layer_of") and hasattr(encoder, "num_layers")):
        raise UsageError(
            f"optim.layer_decay is {layer_decay}, and the encoder {type(encoder).__name__} does not tell its layers; set it to 1."
        )
    assert isinstance(encoder, nn.Module)
    num_layers = int(encoder.num_layers)  # type: ignore[arg-type]
    layers = {name: int(encoder.layer_of(name)) for name, _ in encoder.named_parameters()}  # type: ignore[operator]
    beyond = next((name for name, layer in layers.items() if not 0 <= layer < num_layers), None)
    assert beyond is None, f"{beyond} is in layer {layers[beyond]} of {num_layers}"
    return {f"encoder.{name}": layer_decay ** (num_layers - 1 - layer) for name, layer in layers.items()}


def _key(item: tuple[tuple[float, float], list[nn.Parameter]]) -> tuple[float, float]:
    return item[0]
