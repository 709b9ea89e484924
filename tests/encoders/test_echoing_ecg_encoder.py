"""The paper's encoder equals the reference (golden), and its published checkpoints load by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_rules import assert_matches, case, filled_state, keys, load_filled, series

from ecgecho.encoders import echoing_ecg, resnet_small
from ecgecho.nn.heads import GaussianHead
from ecgecho.types import UserError

TOPIC = "echoingecg_ecg_encoder"
FILES = [
    "ecg_preprocess",
    "echo_mean_logvar",
    "full_model_yaml_fillA",
    "full_model_yaml_fillB",
    "gpo_backward_fillB",
    "gpo_fillB",
    "small_1121_dim8_fillA",
    "small_1121_dim8_fillB",
    "small_1121_dim8_nomeannorm_varnorm_fillA",
    "text_tinybert_default_fillA",
    "text_tinybert_default_fillB",
    "text_tinybert_varnorm_nomean_fillA",
]


def test_every_golden_file_of_the_topic_is_there():
    found = sorted(path.stem.removeprefix("case_") for path in (Path(__file__).parents[1] / "golden" / TOPIC).glob("*.npz"))
    assert found == sorted(FILES)


def build_filled(rules: dict, fill: str, config: echoing_ecg.Config, dim: int, normalise_mean: bool):
    encoder, head = (
        echoing_ecg.build(config),
        GaussianHead(config.stem_width * 16, dim, logvar_start=None, normalise_mean=normalise_mean),
    )
    state = {f"ecg_encoder.{name}": value for name, value in filled_state(rules, fill).items()}
    untouched = {f"ecg_encoder.{name}": torch.tensor(0) for name, entry in rules.items() if entry["rule"] == "untouched"}
    assert len(state) + len(untouched) == len(rules)
    echoing_ecg.import_state_dict({**state, **untouched}, encoder=encoder, ecg_head=head)
    return encoder.eval(), head.eval()


def run_by_stage(encoder: echoing_ecg.EchoingEcg, ecg: torch.Tensor) -> dict[str, torch.Tensor]:
    outputs = {"stem": torch.relu(encoder.bn1(encoder.conv1(ecg)))}
    x = outputs["stem"]
    for name in ("layer1", "layer2", "layer3", "layer4"):
        x = getattr(encoder, name)(x)
        outputs[name] = x.clone()
    return outputs


@pytest.mark.parametrize(
    ("rules", "name", "fill", "normalise_mean"),
    [
        ("small_1121_dim8", "small_1121_dim8_fillA", "A", True),
        ("small_1121_dim8", "small_1121_dim8_fillB", "B", True),
        ("small_1121_dim8_nomeannorm_varnorm", "small_1121_dim8_nomeannorm_varnorm_fillA", "A", False),
        ("full_model_yaml", "full_model_yaml_fillB", "B", True),
        ("full_model_yaml", "full_model_yaml_fillA", "A", True),
    ],
)
@torch.no_grad()
def test_every_stage_and_both_heads_equal_the_reference(rules, name, fill, normalise_mean):
    reference = case(TOPIC, name)
    small = rules.startswith("small")
    config = echoing_ecg.Config(stem_width=8, num_blocks=(1, 1, 2, 1)) if small else echoing_ecg.Config()
    encoder, head = build_filled(keys(TOPIC)[rules], fill, config, 32 if small else 512, normalise_mean)
    assert sum(p.numel() for m in (encoder, head) for p in m.parameters()) == int(reference["n_params"])
    ecg = torch.from_numpy(series((2, 12, 1000)))
    for stage, value in run_by_stage(encoder, ecg).items():
        assert tuple(reference[f"{stage}__shape"]) == tuple(value.shape)
        if f"{stage}__sample" in reference:
            assert_matches(reference, stage, value)
    if "mean" in reference:
        embedding = head(encoder(ecg))
        assert_matches(reference, "mean", embedding.mean)
        assert_matches(reference, "std_logvar", embedding.logvar)
        assert_matches(reference, "gpool_weights", head.mean_pool.weights(63)[None, :, None])
        assert_matches(reference, "std_gpool_weights", head.logvar_pool.weights(63)[None, :, None])


def test_the_published_sizes_are_126_million_parameters_and_448_keys():
    with torch.device("meta"):
        encoder = echoing_ecg.build(echoing_ecg.Config())
        head = GaussianHead(encoder.width, 512)
    assert sum(p.numel() for m in (encoder, head) for p in m.parameters()) == 126_642_944
    assert len(encoder.state_dict()) + len(head.state_dict()) == 448


def test_a_checkpoint_that_does_not_fit_is_refused_by_name():
    config = echoing_ecg.Config(stem_width=8, num_blocks=(1, 1, 2, 1))
    rules = keys(TOPIC)["small_1121_dim8"]
    state = {f"ecg_encoder.{n}": torch.zeros(e["shape"]) for n, e in rules.items()}
    encoder, head = echoing_ecg.build(config), GaussianHead(128, 32)
    before = encoder.conv1.weight.clone()
    del state["ecg_encoder.std_linear.bias"]
    state["ecg_encoder.layer9.weight"] = torch.zeros(1)
    state["ecg_encoder.conv1.weight"] = torch.zeros(9, 12, 7)
    state["audio.weight"] = torch.zeros(1)
    with pytest.raises(UserError) as caught:
        echoing_ecg.import_state_dict(state, encoder=encoder, ecg_head=head)
    for words in ("missing key logvar_linear.bias", "unexpected key layer9.weight", "(9, 12, 7), not (8, 12, 7)", "audio.weight"):
        assert words in str(caught.value)
    assert torch.equal(encoder.conv1.weight, before)


SMALL = echoing_ecg.Config(stem_width=8, num_blocks=(1, 1, 1, 1))
ENCODERS = [
    (echoing_ecg, SMALL, 16),
    (resnet_small, resnet_small.Config(), 32),
]


@pytest.mark.parametrize(("module", "config", "stride"), ENCODERS)
@pytest.mark.parametrize("length", [250, 999, 1000, 5000])
@torch.no_grad()
def test_an_encoder_takes_any_length(module, config, stride, length):
    encoder = module.build(config).eval()
    assert encoder(torch.zeros(2, 12, length)).shape == (2, -(-length // stride), encoder.width)


@pytest.mark.parametrize(("module", "config", "stride"), ENCODERS)
def test_gradients_reach_every_parameter_of_an_encoder(module, config, stride):
    torch.manual_seed(0)
    encoder = module.build(config)
    encoder(torch.randn(4, 12, 500)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize(("module", "config", "stride"), ENCODERS)
@torch.no_grad()
def test_an_ecg_is_encoded_alike_alone_and_in_a_batch(module, config, stride):
    torch.manual_seed(0)
    encoder = module.build(config).eval()
    ecg = torch.randn(5, 12, 1000)
    torch.testing.assert_close(encoder(ecg)[3:4], encoder(ecg[3:4]), rtol=1e-4, atol=1e-5)


def test_the_small_encoder_keeps_to_its_budget():
    from torch.utils.flop_counter import FlopCounterMode

    encoder = resnet_small.build(resnet_small.Config()).eval()
    with FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(1, 12, 1000))
    assert counter.get_total_flops() <= 10e6
    assert sum(p.numel() for p in encoder.parameters()) <= 1_000_000
    assert resnet_small.CONTRACT == echoing_ecg.CONTRACT
    assert np.isclose(resnet_small.CONTRACT.fs_hz * 10, resnet_small.CONTRACT.num_samples)


def test_both_filled_modules_have_the_keys_of_the_reference():
    rules = {n: e for n, e in keys(TOPIC)["small_1121_dim8"].items() if n.split(".")[0] not in echoing_ecg.HEAD_NAMES}
    load_filled(echoing_ecg.build(echoing_ecg.Config(stem_width=8, num_blocks=(1, 1, 2, 1))), rules, "B")
