"""What every encoder obeys: the shape law at three lengths, gradients to every parameter, rows that do not see each other."""

import pytest
import torch

from ecgecho import plugins
from ecgecho.types import STANDARD_LEADS, EcgContract

NAMES = plugins.names("encoders")
SMALL = {
    "echoing_ecg": {"stem_width": 8, "num_blocks": (1, 1, 1, 1)},
    "otis": {"dim": 24, "depth": 2, "heads": 3, "window": 240, "drop_path": 0.0},
}


def build(name: str):
    """The encoder, made narrow where its own size would take minutes here."""
    import dataclasses

    module = plugins.load("encoders", name)
    known = {field.name for field in dataclasses.fields(module.Config)}
    torch.manual_seed(0)
    return module.build(module.Config(**{k: v for k, v in SMALL.get(name, {}).items() if k in known}))


@pytest.mark.parametrize("name", NAMES)
def test_its_contract_says_what_it_is_fed(name):
    contract = plugins.load("encoders", name).CONTRACT
    assert isinstance(contract, EcgContract)
    assert contract.leads == STANDARD_LEADS


@pytest.mark.parametrize("name", NAMES)
def test_the_shape_law_holds_at_three_lengths(name):
    encoder = build(name).eval()
    lengths = []
    for num_samples in (250, 1000, 2500):
        with torch.no_grad():
            tokens = encoder(torch.randn(2, 12, num_samples))
        assert tokens.shape[0] == 2
        assert tokens.shape[2] == encoder.width
        lengths.append(tokens.shape[1])
    assert lengths == sorted(set(lengths))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name):
    encoder = build(name).train()
    encoder(torch.randn(3, 12, 1000)).square().mean().backward()
    assert not [key for key, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_depend_on_its_batch(name):
    encoder = build(name).eval()
    ecg = torch.randn(4, 12, 1000)
    with torch.no_grad():
        together, alone = encoder(ecg), torch.cat([encoder(row[None]) for row in ecg])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
