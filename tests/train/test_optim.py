"""The learning rate at a step and in a layer, and what the optimiser leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ecgecho.config import OptimOptions
from ecgecho.optim import learning_rate, make_optimizer, set_learning_rate
from ecgecho.types import UsageError

ECHO2ECG = OptimOptions(
    learning_rate=5e-4, warmup_share=2 / 50, warmup_start=0.1, final_share=0.1, layer_decay=0.75, epochs=50.0, clip_norm=0.0
)
STEPS = 50 * 47


class Encoder(nn.Module):
    """Twelve blocks with a norm each, something before them and something after."""

    num_layers = 12

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)) for _ in range(12)])
        self.last = nn.LayerNorm(2)

    def layer_of(self, name: str) -> int:
        kind, _, rest = name.partition(".")
        return int(rest.partition(".")[0]) if kind == "blocks" else 0 if kind == "first" else 11


class Student(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(2, 2)


def rates(model: nn.Module, options: OptimOptions, step: int) -> dict[str, float]:
    optimizer = make_optimizer(model, options)
    set_learning_rate(optimizer, step, STEPS, options)
    found = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name: found[id(p)] for name, p in model.named_parameters() if id(p) in found}


def test_the_published_schedule_has_its_values_at_its_corners():
    """50 epochs of 47 steps: from a tenth of the rate to all of it over 2 epochs, then a cosine down to a tenth."""
    at = {step: learning_rate(step, STEPS, ECHO2ECG) for step in (0, 47, 94, 94 + (STEPS - 94) // 2, STEPS)}
    assert list(at.values()) == pytest.approx([5e-5, 2.75e-4, 5e-4, 2.75e-4, 5e-5], rel=1e-12)


@given(step=st.integers(0, 400), steps=st.integers(1, 400))
def test_without_new_settings_the_schedule_is_what_it_was(step, steps):
    options = OptimOptions(learning_rate=3e-4, warmup_share=0.03)
    warmup = round(0.03 * steps)
    before = (
        3e-4 * (1e-3 + (1 - 1e-3) * step / warmup)
        if step < warmup
        else 3e-4 * 0.5 * (1 + math.cos(math.pi * min((step - warmup) / max(steps - warmup, 1), 1.0)))
    )
    assert learning_rate(step, steps, options) == before


def test_each_layer_learns_slower_than_the_next_and_what_is_no_encoder_at_the_full_rate():
    found = rates(Student(Encoder()), ECHO2ECG, 94)
    assert found["head.weight"] == found["encoder.last.bias"] == found["encoder.blocks.11.0.weight"] == pytest.approx(5e-4)
    for i in range(12):
        assert found[f"encoder.blocks.{i}.0.weight"] == pytest.approx(5e-4 * 0.75 ** (11 - i))
        assert found[f"encoder.blocks.{i}.1.weight"] == pytest.approx(5e-4 * 0.75 ** (11 - i))
    assert found["encoder.first.weight"] == pytest.approx(2.1e-5, rel=0.01)  # the published figure, rounded


def test_frozen_parameters_are_left_out_and_only_weights_decay():
    model = Student(Encoder())
    model.encoder.first.requires_grad_(False)
    options = OptimOptions(weight_decay=0.1, layer_decay=0.5)
    assert "encoder.first.weight" not in rates(model, options, 0)
    for group in make_optimizer(model, options).param_groups:
        assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] == 0.1}


def test_an_encoder_that_tells_no_layers_and_a_method_that_trains_nothing_are_refused():
    with pytest.raises(UsageError, match=r"layer_decay is 0\.75, and the encoder Linear does not tell its layers"):
        make_optimizer(Student(nn.Linear(2, 2)), ECHO2ECG)
    make_optimizer(Student(nn.Linear(2, 2)), OptimOptions())
    with pytest.raises(UsageError, match="no parameter that is trained"):
        make_optimizer(nn.Linear(2, 2).requires_grad_(False), OptimOptions())


def test_without_layer_decay_there_are_two_groups_the_decaying_one_first():
    groups = make_optimizer(Student(Encoder()), OptimOptions(weight_decay=0.1)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(torch.is_tensor(p) for group in groups for p in group["params"])
