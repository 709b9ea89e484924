"""What the heads of a run read: the same numbers as the method's own pooling, and the encoder runs once for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_world import quick_recipe
from torch import nn

import ecgecho
import embed_cache
from ecgecho.train import train
from ecgecho.types import Embedding

ROWS = np.arange(7)
METHODS = {"echo2ecg": "seed=0", "prob_echo2ecg": "seed=0", "echoing_ecg": "method.on=echo", "supervised": "seed=0"}


class Counted(nn.Module):
    """An encoder that counts its calls; with `pooled` it is asked for the mean itself."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.width, self.calls = inner, inner.width, 0

    def forward(self, ecg):
        self.calls += 1
        return self.inner(ecg)


class Pooled(Counted):
    def pooled(self, ecg):
        return self(ecg).mean(1)


class Untold(nn.Module):
    """A method that goes its own way to the embedding."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def embed_ecg(self, ecg, lead_valid):
        return Embedding(mean=ecg.mean(2))


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    for method, word in METHODS.items():
        echos = [] if method == "supervised" else [world.echo]
        recipe = quick_recipe(method, word, "optim.steps=1")
        train(recipe, catalogs=[world.catalog], ecgs=[world.ecg], echos=echos, out=root / method, progress=False)
    return {method: ecgecho.load(root / method) for method in METHODS}


@pytest.mark.parametrize("kind", [Counted, Pooled])
@pytest.mark.parametrize("method", METHODS)
def test_features_are_what_the_heads_read_and_cost_no_second_run(runs, world, method, kind):
    student, store = runs[method], embed_cache.open(world.ecg)
    mean, logvar = student.embed_rows(store, ROWS)
    inner = student.encoder_module
    with torch.no_grad():
        signal, valid = student.open_signals([store]).take(ROWS)
        pooled = inner(student.normaliser(signal, valid)).mean(1)
    expected = student.model.ecg_norm(pooled) if method == "echo2ecg" else pooled
    student.model.encoder = kind(inner)
    try:
        again, spread, features = student.embed_rows_and_features(store, ROWS, batch_size=3)
        assert student.model.encoder.calls == 3
        assert not {"features", "forward", "pooled"} & {*vars(student.model), *vars(student.model.encoder)}
    finally:
        student.model.encoder = inner
    np.testing.assert_allclose(features, expected.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(again, mean, atol=1e-6)
    assert (spread is None) == (logvar is None)


@pytest.mark.parametrize("kind", [Counted, Pooled])
def test_where_the_method_never_asks_the_encoder_it_is_asked_then(runs, world, kind):
    store, inner = embed_cache.open(world.ecg), runs["supervised"].encoder_module
    student = replace(runs["supervised"], model=Untold(kind(inner)))
    features = student.embed_rows_and_features(store, ROWS)[2]
    expected, _ = runs["supervised"].embed_rows(store, ROWS)
    np.testing.assert_allclose(features, expected, atol=1e-5)
