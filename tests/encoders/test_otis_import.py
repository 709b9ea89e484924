"""Published OTiS and Echo2ECG files, written here in their true formats: all of the encoder comes in, or nothing does."""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ecgecho.encoders.otis import Config, build, import_weights
from ecgecho.types import UserError

SMALL = Config(dim=24, depth=2, heads=3)
PRETRAINING = {
    "mask_token": torch.zeros(1, 1, 16),
    "decoder_embed.weight": torch.zeros(16, 24),
    "decoder_pos_embed_x": torch.zeros(1, 61, 8),
    "decoder_pos_embed_y.weight": torch.zeros(39, 8),
    "decoder_blocks.0.norm1.weight": torch.ones(16),
    "norm.weight": torch.ones(24),
    "norm.bias": torch.zeros(24),
    "projector.0.weight": torch.ones(2, 24),
    "predictor.0.weight": torch.ones(2, 24),
    "head.weight": torch.zeros(5, 24),
}


class ListConfig(list):
    """As OmegaConf's: an object that is not of torch."""


class DictConfig(dict):
    """As OmegaConf's."""


def encoder(seed, **change):
    torch.manual_seed(seed)
    built = build(dataclasses.replace(SMALL, **change)).eval()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        built.pos_embed_y.weight[0] = 0
    return built


def otis_file(path, published, **change):
    """As OTiS writes it: every domain's leads in one table, those of ECGs from row 5 on; positions for 60 patches."""
    state = {name: value.clone() for name, value in published.state_dict().items()}
    table = torch.randn(39, 12)
    table[0], table[5:17] = 0, state["pos_embed_y.weight"][1:]
    state |= {"pos_embed_y.weight": table, **PRETRAINING}
    state["pos_embed_x"] = build(dataclasses.replace(SMALL, window=60 * 24)).pos_embed_x
    content = {
        "model": {name: value for name, value in {**state, **change.pop("state", {})}.items() if value is not None},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3}]},
        "epoch": 99,
        "scaler": {"scale": 65536.0, "growth_factor": 2.0},
        "args": argparse.Namespace(blr=1e-5, output_dir=Path("out"), best=np.float64(0.3), domains={"ecg": (1, 12, 1008)}),
        "domains": {"eeg": (1, 4, 250), "ecg": (1, 12, 1008)},
        "domain_offsets": {"eeg": 0, "ecg": 4, "other": 16},
        **change,
    }
    torch.save({name: value for name, value in content.items() if value is not None}, path)
    return path


def assert_same_function(a, b):
    ecg = torch.randn(2, 12, 1500)
    with torch.no_grad():
        assert torch.equal(a(ecg), b(ecg))


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_an_otis_file_gives_the_encoder_that_was_published(tmp_path, mlp):
    published, ours = encoder(0, mlp=mlp), encoder(1, mlp=mlp)
    lines = import_weights(ours, otis_file(tmp_path / "otis.pth", published))
    assert_same_function(ours, published)
    text = "\n".join(lines)
    assert f"{len(published.state_dict())} tensors of the encoder otis" in text
    assert "rows 5 to 16 of 39, domain ecg" in text
    assert "time positions: 42, the first of the file's 60" in text
    assert "left out by rule: 10 tensors of decoder_blocks, decoder_embed" in text
    assert "mask_token, norm, predictor, projector" in text


def test_the_files_of_echo2ecg_give_it_too(tmp_path):
    published = encoder(0)
    config = DictConfig(model=DictConfig(name="vit_baseDeep_patchX"), layers=ListConfig([1, 2]))
    component = {"model": published.state_dict(), "cfg": config, "epoch": 49}
    torch.save(component, tmp_path / "ecg_multimodal.ckpt")
    others = {"token_aggregator.ecg_layernorm_global.weight": torch.ones(24), "echo_encoder.head.1.bias": torch.ones(3)}
    lightning = {
        "epoch": 49,
        "global_step": 2350,
        "pytorch-lightning_version": "2.2",
        "state_dict": {**{f"ecg_encoder.{name}": value for name, value in published.state_dict().items()}, **others},
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "hyper_parameters": DictConfig(cfg=config),
    }
    torch.save(lightning, tmp_path / "last.ckpt")
    for name in ("ecg_multimodal.ckpt", "last.ckpt"):
        ours = encoder(1)
        lines = import_weights(ours, tmp_path / name)
        assert_same_function(ours, published)
        assert ("left out by rule: 2 tensors of echo_encoder, token_aggregator" in lines) == (name == "last.ckpt")


def assert_refused(ours, path, words):
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(UserError, match=words) as info:
        import_weights(ours, path)
    assert str(path) in str(info.value)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_what_is_missing_foreign_or_of_another_kind_is_named_and_nothing_is_loaded(tmp_path):
    published, ours = encoder(0), encoder(1)

    def refused(words, ours=ours, published=published, **change):
        assert_refused(ours, otis_file(tmp_path / "otis.pth", published, **change), words)

    refused("missing blocks.1.attn.mha.in_proj_bias; unexpected nothing", state={"blocks.1.attn.mha.in_proj_bias": None})
    refused("unexpected blocks.0.adapter1.up_proj.bias;", state={"blocks.0.adapter1.up_proj.bias": torch.zeros(2)})
    refused(r"cls_token is \(1, 1, 20\), not \(1, 1, 24\)", state={"cls_token": torch.zeros(1, 1, 20)})
    refused("MLPs of the kind swiglu, the encoder gelu; pass --set encoder.mlp=swiglu", published=encoder(0, mlp="swiglu"))
    refused("MLPs of the kind gelu, the encoder swiglu; pass --set encoder.mlp=gelu", ours=encoder(1, mlp="swiglu"))
    refused("width 384, the encoder 24; pass --set encoder.size=large", state={"cls_token": torch.zeros(1, 1, 384)})
    refused("39 lead embeddings but no domain_offsets", domain_offsets=None)
    refused("39 lead embeddings but only eeg, nirs", domain_offsets={"nirs": 1, "eeg": 0})
    for offset in (30, -1, 1 << 40):
        refused("begins at", domain_offsets={"ecg": offset})
    refused("other shapes: pos_embed_x", state={"pos_embed_x": torch.zeros(1, 61, 10)})
    refused("no finite numbers in patch_embed.proj.bias", state={"patch_embed.proj.bias": torch.full((24,), torch.inf)})


def test_shorter_time_positions_are_interpolated(tmp_path):
    table = build(dataclasses.replace(SMALL, window=20 * 24)).pos_embed_x
    ours = encoder(1)
    lines = import_weights(ours, otis_file(tmp_path / "otis.pth", encoder(0), state={"pos_embed_x": table}))
    assert "time positions: 42, interpolated from the file's 20" in lines
    assert torch.equal(ours.pos_embed_x[:, 0], table[:, 0])
    assert ours.pos_embed_x.shape == (1, 43, 12)
