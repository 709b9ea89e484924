"""echo2ecg: equal to the reference where it should be, and what is promised of studies, repeats and published weights."""

from __future__ import annotations

import dataclasses
import math

import golden_rules as golden
import pytest
import torch
from torch import nn

from ecgecho import config
from ecgecho.encoders import otis
from ecgecho.losses.clip import clip_loss
from ecgecho.methods import echo2ecg
from ecgecho.types import Batch, Block, MethodSizes, UsageError, UserError

TOPIC = "echo2ecg_aggregator"
torch.set_num_threads(1)


class Tokens(nn.Module):
    """An encoder that is handed its tokens."""

    width = 192

    def forward(self, ecg):
        return ecg


class Linear(nn.Module):
    """(B, 12, L) -> one token of 8."""

    width = 8

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 8)

    def forward(self, ecg):
        return self.linear(ecg.mean(2))[:, None]


def make(echo_dim: int = 6, **settings) -> echo2ecg.Echo2Ecg:
    torch.manual_seed(0)
    small = {"projection_dim": 8, "dim": 5, "heads": 2}
    return echo2ecg.build(config.from_json(echo2ecg.Config, small | settings), Linear(), MethodSizes(echo_dim=echo_dim))


def block_of(counts: list[int], dim: int = 6, seed: int = 0) -> Block:
    moments = torch.randn((sum(counts), 2, dim), generator=torch.Generator().manual_seed(seed)).abs()
    return Block(values=moments, row=torch.arange(len(counts)), start=torch.tensor([0, *counts]).cumsum(0))


def batch_of(counts: list[int], subject: list[int] | None = None, study: list[int] | None = None) -> Batch:
    count = len(counts)
    here = torch.arange(count)
    return Batch(
        ecg=torch.randn((1, count, 12, 20), generator=torch.Generator().manual_seed(1)),
        ecg_lead_valid=torch.ones(count, 12, dtype=torch.bool),
        subject=here if subject is None else torch.tensor(subject),
        study=here if study is None else torch.tensor(study),
        text_key=torch.full((count,), -1),
        echo=block_of(counts),
    )


@pytest.mark.parametrize(("name", "aggregation"), [("att", "attention"), ("cls", "cls")])
def test_both_sides_equal_the_reference(name, aggregation):
    case, rules = golden.case(TOPIC, f"chain_{name}_fillB"), golden.keys(TOPIC)[f"chain_{name}"]
    settings = echo2ecg.Config(aggregation=aggregation, projection_dim=512, parity=True)
    model = echo2ecg.build(settings, Tokens(), MethodSizes(echo_dim=512)).eval()
    ours = dict(echo2ecg.PREFIXES, **{"ecg_layernorm_global.": "ecg_norm."})

    def rename(key: str) -> str:
        old = next(prefix for prefix in ours if key.startswith(prefix))
        return ours[old] + key.removeprefix(old)

    kept = model.scale.clone()
    del model.scale
    golden.load_filled(model, rules, "B", rename)
    model.register_buffer("scale", kept)
    assert sum(p.numel() for p in model.parameters()) == case["n_params"]

    tokens = torch.from_numpy(golden.series((3, 505, 192), 999))[:, 1:]
    golden.assert_matches(case, "ecg_aligned", model.ecg_head(model.features(tokens)))
    views = torch.from_numpy(golden.series((3, 7, 512)))
    for mask in ("none", "ragged", "only_first", "every_other", "row0_all_masked"):
        valid = torch.from_numpy(golden.case(TOPIC, "pool_att_D16_fillB").get(f"{mask}/mask", torch.zeros(3, 7).numpy()) == 0)
        kept_rows = valid.any(1)
        values = torch.stack([views[valid], torch.rand_like(views[valid])], 1)  # the deviations have no effect
        start = torch.cat([torch.zeros(1, dtype=torch.int64), valid.sum(1)[kept_rows].cumsum(0)])
        expected = {"aligned": case[f"{mask}/aligned"][kept_rows.numpy()]}
        golden.assert_matches(expected, "aligned", model._study(values, start))


def test_parity_has_the_published_parameters_part_by_part():
    """Echo2ECG's README settings: the paper says 12.5 M, of which 7.1 M are the encoder's."""
    recipe = echo2ecg.recipe("paper")
    encoder = otis.build(config.from_json(otis.Config, recipe.encoder))
    model = echo2ecg.build(
        config.from_json(echo2ecg.Config, {**recipe.method, "parity": True}), encoder, MethodSizes(echo_dim=512)
    )
    parts = {"encoder": 7_123_680, "ecg_norm": 384, "ecg_head": 98_304}
    parts |= {"project_views": 525_312, "pool": 4_198_400, "echo_head": 524_288}
    for name, count in parts.items():
        assert sum(p.numel() for p in getattr(model, name).parameters() if p.requires_grad) == count, name
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == sum(parts.values()) == 12_470_368
    assert not model.ecg_head.bias
    assert model.ecg_norm.eps == 1e-5


def test_repeats_are_negatives_ignored_or_positives():
    batch = batch_of([1, 2, 3, 1, 2, 2], subject=[0, 0, 0, 1, 2, 3], study=[5, 5, 6, 7, 8, 9])
    study, subject = batch.study[:, None] == batch.study, batch.subject[:, None] == batch.subject

    def expected(model, **masks):
        ecgs = model.embed_ecg(batch.ecg[0], batch.ecg_lead_valid).mean
        return clip_loss(ecgs, model.embed_study(batch.echo).mean, torch.tensor([math.log(2)]), ecg_weight=0.3, **masks)

    for repeats, masks in {
        "negatives": {},
        "ignore": {"ignore": subject},
        "positives": {"positive": study, "ignore": subject},
    }.items():
        model = make(repeats=repeats, ecg_weight=0.3).eval()
        torch.testing.assert_close(model(batch)["loss"], expected(model, **masks))
    model = make(parity=True, ecg_weight=0.3).eval()
    torch.testing.assert_close(model(batch)["loss"], expected(model))


@pytest.mark.parametrize("aggregation", ["attention", "learnable", "mean", "max", "cls"])
def test_a_study_of_one_view_is_the_same_ragged_or_not(aggregation):
    model, batch = make(aggregation=aggregation).eval(), batch_of([1, 1, 1])
    plain = dataclasses.replace(batch, echo=dataclasses.replace(batch.echo, start=None))
    torch.testing.assert_close(model(batch)["loss"], model(plain)["loss"])


def test_a_single_view_is_aligned_without_projection_and_a_study_of_several_is_their_mean():
    model = make(aggregation="single").eval()
    assert not model.takes_views
    assert model.echo_head.weight.shape == (5, 6)
    with pytest.raises(ValueError, match="a single view a study"):
        model(batch_of([2, 1, 1]))
    views = block_of([3])
    mean = views.values[:, 0].mean(0) @ model.echo_head.weight.T
    torch.testing.assert_close(model.embed_study(views).mean[0], mean / mean.norm())


def test_the_mean_pools_a_projection_that_learns_unless_parity_freezes_it():
    batch = batch_of([1, 2, 3])
    learns, frozen = make(aggregation="mean"), make(aggregation="mean", parity=True)
    learns(batch)["loss"].backward()
    frozen(batch)["loss"].backward()
    assert learns.project_views.weight.grad.abs().sum() > 0
    assert frozen.project_views.weight.grad is None
    assert make(parity=True).project_views.weight.requires_grad


def test_the_temperature_is_learned_only_where_asked_and_stays_within_its_bounds():
    assert "scale" not in dict(make().named_parameters())
    model, batch = make(learnable_temperature=True, temperature=0.02), batch_of([1, 2, 3])
    model(batch)["loss"].backward()
    assert model.scale.grad.abs() > 0
    with torch.no_grad():
        model.scale.fill_(9.0)
    model.after_step(0)
    assert float(model(batch)["temperature"]) == pytest.approx(0.01, rel=1e-4)
    assert make()(batch)["temperature"] == 0.5


def test_view_dropout_acts_in_training_alone():
    model, batch = make(view_dropout=0.9), batch_of([1, 40, 30])
    assert len({float(model(batch)["loss"].detach()) for _ in range(4)}) > 1
    model.eval()
    assert len({float(model(batch)["loss"].detach()) for _ in range(4)}) == 1


def test_settings_that_cannot_be_are_refused():
    for settings in (
        {"temperature": 0.001},
        {"ecg_weight": 1.5},
        {"view_dropout": 1.0},
        {"projection_dim": 10, "heads": 4},
        {"parity": True, "learnable_temperature": True},
    ):
        with pytest.raises(UsageError, match=f"method.{next(iter(settings))}|must divide"):
            echo2ecg.Config(**settings)
    with pytest.raises(UserError, match="--echo STORE"):
        make(echo_dim=0)


def published(model: echo2ecg.Echo2Ecg, shift: int = 1) -> dict[str, torch.Tensor]:
    """A whole checkpoint as the reference would have saved this model, every number moved."""
    named = {echo2ecg._published(name): value + shift for name, value in model.state_dict().items() if name != "scale"}
    teacher = {"echo_encoder.conv_proj.weight": torch.zeros(2), "echo_encoder.head.1.weight": torch.zeros(3)}
    return {**named, **teacher, "clip_loss.logit_scale": torch.zeros(()), "ecg_alignment_global_token.logit_bias": torch.zeros(1)}


@pytest.mark.parametrize("form", ["whole", "components"])
@pytest.mark.parametrize(
    "settings", [{}, {"aggregation": "cls"}, {"aggregation": "single"}, {"alignment": "star"}, {"alignment": "simclr"}], ids=str
)
def test_published_weights_are_imported_whole(tmp_path, form, settings):
    model = make(**settings)
    state = published(model)
    path = tmp_path / "last.ckpt"
    if form == "whole":
        torch.save({"state_dict": state, "epoch": 49}, path)
    else:
        path = tmp_path
        for file, part in echo2ecg.COMPONENTS.items():
            own = {name.removeprefix(part): value for name, value in state.items() if name.startswith(part)}
            if own:
                torch.save({"model": own, "epoch": 49}, tmp_path / file)
        torch.save({"model": {"conv_proj.weight": torch.zeros(2)}}, tmp_path / "echo_multimodal.ckpt")
    lines = echo2ecg.import_weights(model, path)
    for name, value in make(**settings).state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value if name == "scale" else value + 1)
    assert f"{len(model.state_dict()) - 1} tensors" in lines[0]
    assert ("echo_encoder.conv_proj.weight" in " ".join(lines)) == (form == "whole")


def test_the_parts_have_the_names_of_the_published_checkpoint():
    names = {name for name in published(make(projection_dim=8)) if not name.startswith(("ecg_encoder", "echo_encoder", "clip"))}
    assert names - {"ecg_alignment_global_token.logit_bias"} == {
        "token_aggregator.ecg_layernorm_global.weight",
        "token_aggregator.ecg_layernorm_global.bias",
        "echo_projection_for_agg.weight",
        "echo_projection_for_agg.bias",
        "echo_view_aggregator.aggregator.mha.in_proj_weight",
        "echo_view_aggregator.aggregator.mha.in_proj_bias",
        "echo_view_aggregator.aggregator.mha.out_proj.weight",
        "echo_view_aggregator.aggregator.mha.out_proj.bias",
        "ecg_alignment_global_token.weight",
        "echo_alignment_global_token.weight",
    }


def test_weights_that_do_not_fit_are_refused_by_name_and_change_nothing(tmp_path):
    model, path = make(), tmp_path / "last.ckpt"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = published(model)
    missing = {name: value for name, value in state.items() if name != "echo_projection_for_agg.bias"}
    for wrong, word in (
        (missing, "missing echo_projection_for_agg.bias; foreign nothing"),
        (state | {"echo_projection_for_agg.gain": torch.zeros(2)}, "missing nothing; foreign echo_projection_for_agg.gain"),
        (state | {"simclr.weight": torch.zeros(2)}, "foreign simclr.weight"),
        (state | {"echo_alignment_global_token.weight": torch.zeros(5, 9)}, r"echo_head.weight is \(5, 9\)"),
    ):
        torch.save({"state_dict": wrong}, path)
        with pytest.raises(UserError, match=word):
            echo2ecg.import_weights(model, path)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save({"model": {}}, folder / "token_aggregator.ckpt")
    with pytest.raises(UserError, match=r"lacks ecg_multimodal\.ckpt, ecg_alignment_global_token\.ckpt"):
        echo2ecg.import_weights(model, folder)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_an_encoder_may_bring_published_tensors_to_its_shapes(tmp_path):
    """The reference keeps a longer table of positions than it uses."""
    torch.manual_seed(0)
    encoder = otis.build(otis.Config(dim=8, depth=1, heads=2))
    model = echo2ecg.build(echo2ecg.Config(projection_dim=8, dim=5, heads=2), encoder, MethodSizes(echo_dim=6))
    state = published(model)
    assert "ecg_encoder.blocks.0.attn.mha.in_proj_weight" in state
    state["ecg_encoder.pos_embed_x"] = torch.rand(1, 1 + 250, 4)
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    echo2ecg.import_weights(model, tmp_path / "last.ckpt")
    torch.testing.assert_close(model.encoder.pos_embed_x, state["ecg_encoder.pos_embed_x"][:, :43])
    torch.testing.assert_close(model.encoder.cls_token.detach(), state["ecg_encoder.cls_token"])


def test_a_file_of_an_encoder_alone_is_left_to_the_encoder(tmp_path):
    torch.save({"model": {"cls_token": torch.zeros(1, 1, 192)}}, tmp_path / "otis.pth")
    assert echo2ecg.import_weights(make(), tmp_path / "otis.pth") == []
