"""The encoder of Echo2ECG: the reference's numbers, windows that cover an ECG, folded projections, layers for the rates."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ecgecho.encoders.otis import AT_ONCE, CONTRACT, Block, Config, build, time_positions
from ecgecho.types import UsageError, UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
from golden_rules import assert_matches, case, filled_state, keys, series

TOPIC = "otis_encoder"
SMALL = Config(dim=24, depth=2, heads=3, num_leads=4, window=96, drop_path=0.0)
TINY = Config(dim=24, depth=1, heads=3, window=48)


def small(config=SMALL, seed=0):
    torch.manual_seed(seed)
    return build(config).eval()


def filled(config, rules, fill):
    """The encoder with the reference's fill; its `head`, which no token passes, is the only thing it has beyond ours."""
    encoder = build(config).eval()
    table = {"pos_embed_y.weight": {**rules["pos_embed_y.weight"], "rule": "v"}}  # then its row of padding is set to zero
    state = {name: value for name, value in filled_state({**rules, **table}, fill).items() if not name.startswith("head.")}
    state["pos_embed_y.weight"][0] = 0
    expected = encoder.state_dict()
    assert {name: value.shape for name, value in expected.items()} == {
        name: torch.Size(entry["shape"]) for name, entry in rules.items() if not name.startswith("head.")
    }
    encoder.load_state_dict({**state, "pos_embed_x": expected["pos_embed_x"]})
    return encoder


def assert_tokens_match(golden, encoder, x):
    with torch.no_grad():
        patches, tokens = encoder.patch_embed(x), encoder.window_tokens(x)
    assert_matches(golden, "pos_embed_x", encoder.pos_embed_x)
    assert_matches(golden, "patch_embed_out", patches.permute(0, 3, 1, 2).contiguous())
    assert_matches(golden, "tokens", tokens)
    assert_matches(golden, "cls_token", tokens[:, 0])
    assert_matches(golden, "mean_token", tokens[:, 1:].mean(1))
    assert_matches(golden, "mean_token", encoder.pooled(x))
    assert_matches(golden, "max_token", tokens[:, 1:].amax(1))


@pytest.mark.parametrize("fill", ["A", "B"])
def test_a_small_encoder_equals_the_reference(fill):
    encoder = filled(SMALL, keys(TOPIC)["small_4x96_d24_l2"], fill)
    x = torch.from_numpy(series((2, 1, 4, 96)))[:, 0]
    assert_tokens_match(case(TOPIC, f"small_4x96_d24_l2_fill{fill}"), encoder, x)


def test_gradients_through_the_folded_projections_equal_the_reference():
    golden = case(TOPIC, "small_grads_fillB")
    encoder = filled(SMALL, keys(TOPIC)["small_4x96_d24_l2"], "B")
    x = torch.from_numpy(series((2, 1, 4, 96)))[:, 0].requires_grad_()
    mean = encoder.window_tokens(x)[:, 1:].mean(1)
    (mean * torch.from_numpy(series(tuple(mean.shape), 31))).sum().backward()
    assert_matches(golden, "g_x", x.grad[:, None])
    for name, parameter in encoder.named_parameters():
        length = golden[f"gl2_{name}"]
        assert abs(parameter.grad.double().norm() - length) <= 1e-5 * length, name
        # Of a sum that cancels nothing but the size of what cancelled can be asked.
        assert abs(parameter.grad.double().sum() - golden[f"gsum_{name}"]) <= 1e-5 * length * parameter.numel() ** 0.5, name


def test_the_published_size_equals_the_reference():
    golden = case(TOPIC, "tiny_1_12_1008_p24_fillB")
    encoder = filled(Config(), keys(TOPIC)["tiny_1_12_1008_p24"], "B")
    assert_tokens_match(golden, encoder, torch.from_numpy(series((2, 1, 12, 1008)))[:, 0])
    # The reference counts the frozen positions and a head of 1000 classes that it never uses.
    assert count(encoder) + encoder.pos_embed_x.numel() + 193_000 == golden["n_params_all"]
    assert count(encoder) + 193_000 == golden["n_params_requires_grad"]


@pytest.mark.parametrize(("name", "num_times"), [("ckpt_longer_60", 60), ("ckpt_shorter_20", 20)])
def test_time_positions_of_other_lengths_are_taken_as_the_reference_takes_them(name, num_times):
    golden = case(TOPIC, "pos_embed_handling")
    encoder = filled(Config(), keys(TOPIC)["tiny_1_12_1008_p24"], "B")
    table = torch.from_numpy(series((1, num_times + 1, 96)))
    state = encoder.adapted({**encoder.state_dict(), "pos_embed_x": table})
    if num_times > 42:
        assert torch.equal(state["pos_embed_x"], table[:, :43])
    else:
        assert_matches(golden, f"{name}/pos_embed_x", state["pos_embed_x"])
    encoder.load_state_dict(state)
    with torch.no_grad():
        mean = encoder.window_tokens(torch.from_numpy(series((2, 1, 12, 1008)))[:, 0])[:, 1:].mean(1)
    assert_matches(golden, f"{name}/mean_token", mean)


def test_the_sines_are_the_references():
    assert_matches(case(TOPIC, "pos_embed_handling"), "sincos_96_42_cls", time_positions(96, 42).double())


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_published_number_of_parameters():
    with torch.device("meta"):
        encoder, swiglu = build(Config()), build(Config(mlp="swiglu"))
        large, huge = build(Config(size="large")), build(Config(size="huge"))
    assert count(encoder) == 7_123_680
    assert count(encoder) + encoder.pos_embed_x.numel() == 7_127_808
    assert [count(block) for block in encoder.blocks] == [593_088] * 12
    assert count(encoder.patch_embed) == 5_184
    assert (count(encoder.pos_embed_y), encoder.cls_token.numel()) == (1_248, 192)
    assert count(swiglu) == 8_902_368
    assert (large.width, large.num_layers, large.blocks[0].attn.heads) == (384, 18, 6)
    assert (huge.width, huge.num_layers, huge.blocks[0].attn.heads) == (576, 24, 8)


class Unfolded(nn.Module):
    """The reference's attention, word for word in its formula: two projections, then PyTorch's own attention, which projects."""

    def __init__(self, dim, heads):
        super().__init__()
        self.mha = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(self.mha(q, k, v, need_weights=False)[0])


def assert_follows(block, unfolded, x):
    unfolded.load_state_dict(block.attn.state_dict())
    with torch.no_grad():
        expected, found = unfolded(x), block.attn(x)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_folded_projections_equal_the_two_in_a_row_and_follow_every_change_of_the_weights():
    torch.manual_seed(0)
    block, unfolded, x = Block(48, 3, "gelu", 0.0).eval(), Unfolded(48, 3).eval(), torch.randn(2, 30, 48)
    for parameter in block.attn.parameters():
        nn.init.normal_(parameter, std=0.2)
    assert_follows(block, unfolded, x)
    optimiser = torch.optim.SGD(block.attn.parameters(), lr=0.1)
    block.attn(x).square().mean().backward()
    before = block.attn.mha.in_proj_weight.detach().clone()
    optimiser.step()
    assert not torch.equal(before, block.attn.mha.in_proj_weight)
    assert_follows(block, unfolded, x)
    block.attn.load_state_dict({name: torch.randn_like(value) * 0.1 for name, value in block.attn.state_dict().items()})
    assert_follows(block, unfolded, x)
    with torch.no_grad():
        block.attn.qkv.weight.mul_(2)
    assert_follows(block, unfolded, x)


@pytest.mark.parametrize("length", [1008, 1009, 1500, 2016, 2017, 5000, 10_000])
def test_windows_cover_every_sample_with_as_few_as_can_be(length):
    starts = build(Config(dim=4, depth=1, heads=1)).starts(length)
    seen = {sample for start in starts for sample in range(start, start + 1008)}
    assert seen == set(range(length))
    assert (len(starts) - 1) * 1008 < length
    steps = [b - a for a, b in zip(starts, starts[1:], strict=False)]
    assert not steps or max(steps) - min(steps) <= 1


def test_the_published_recording_has_five_windows_and_the_first_is_the_references():
    encoder = build(Config(depth=1)).eval()
    ecg = torch.randn(2, 12, CONTRACT.num_samples)
    with torch.no_grad():
        tokens, first = encoder(ecg), encoder.window_tokens(ecg[:, :, :1008])
    assert tokens.shape == (2, 5 * 504, 192)
    torch.testing.assert_close(tokens[:, :504], first[:, 1:])
    alone = build(Config(depth=1, windows="first")).eval()
    alone.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(alone(ecg), first[:, 1:])


def test_tokens_stand_window_by_window_and_lead_by_lead():
    encoder, ecg = small(), torch.randn(1, 4, 150)
    with torch.no_grad():
        tokens = encoder(ecg).unflatten(1, (2, 4, 4))
        patches = encoder.patch_embed(ecg[:, :, 54:])
        torch.testing.assert_close(tokens[0, 1].flatten(0, 1), encoder.window_tokens(ecg[:, :, 54:])[0, 1:])
    assert patches.shape == (1, 4, 4, 24)
    torch.testing.assert_close(patches[0, 2, 3], encoder.patch_embed(ecg[:, 2:3, 126:150])[0, 0, 0])


def test_padding_does_not_dilute():
    encoder, ecg = small(), torch.randn(5, 4, 400)
    ecg[1, :, 150:] = 0  # windows at 0, 76, 152, 228, 304: the first is whole, the second up to its 74th sample
    ecg[2] = 0
    ecg[3, :, 77:] = 0  # one sample of the second window
    ecg[4, :, :200] = 0  # turned round: of the third window the last two patches, and all of those behind it
    with torch.no_grad():
        every = torch.stack([encoder.window_tokens(ecg[:, :, s : s + 96])[:, 1:] for s in (0, 76, 152, 228, 304)], 1)
        every = every.unflatten(2, (4, 4))  # (B, W, C, T, width)
        tokens, pooled = encoder(ecg).unflatten(1, (5, 4, 4)), encoder.pooled(ecg)
    recorded = torch.zeros(5, 5, 4, dtype=torch.bool)
    recorded[0] = recorded[1, :2] = recorded[2, 0] = recorded[3, 0] = recorded[4, 3:] = True
    recorded[3, 1, 0] = recorded[4, 2, 2:] = True
    for row in range(5):
        held = every[row].transpose(1, 2)[recorded[row]]  # (patches, C, width)
        found = tokens[row].transpose(1, 2)
        torch.testing.assert_close(found[recorded[row]], held)
        torch.testing.assert_close(found[~recorded[row]], held.mean(0).expand_as(found[~recorded[row]]))
        torch.testing.assert_close(found.mean((0, 1, 2)), held.mean((0, 1)))
        torch.testing.assert_close(pooled[row], held.mean((0, 1)))


def test_a_window_with_a_few_samples_of_the_recording_does_not_weigh_as_much_as_a_whole_one():
    """The first 1,010 of 5,000 samples: 12 of them are in the second window, in one of its 42 patches."""
    encoder, ecg = small(Config(dim=24, depth=1, heads=3)), torch.zeros(1, 12, 5000)
    ecg[:, :, :1010] = torch.randn(1, 12, 1010)
    with torch.no_grad():
        first = encoder.window_tokens(ecg[:, :, :1008])[0, 1:]
        second = encoder.window_tokens(ecg[:, :, 998:2006])[0, 1:].unflatten(0, (12, 42))[:, 0]
        expected = torch.cat([first, second]).mean(0)
        torch.testing.assert_close(encoder.pooled(ecg)[0], expected)
        torch.testing.assert_close(encoder(ecg)[0].mean(0), expected)


def test_a_recording_without_padding_has_every_token_to_the_bit_whatever_stands_beside_it():
    encoder, ecg = small(), torch.randn(2, 4, 400)
    ecg[1, :, 110:] = 0
    with torch.no_grad():
        windows = encoder.window_tokens(ecg[0].unfold(1, 96, 76).transpose(0, 1))[:, 1:]
        assert torch.equal(encoder(ecg[:1])[0], windows.flatten(0, 1))
        assert torch.equal(encoder.pooled(ecg[:1])[0], windows.mean(1).sum(0) / 5)
        torch.testing.assert_close(encoder.pooled(ecg)[0], encoder.pooled(ecg[:1])[0])


def test_padding_gives_the_parameters_the_gradient_of_the_recording_alone():
    ecg = torch.randn(1, 4, 192)
    gradients = []
    for padded in (ecg, F.pad(ecg, (0, 192))):
        for pool in (lambda encoder, x: encoder(x).mean(1), lambda encoder, x: encoder.pooled(x)):
            encoder = small()
            pool(encoder, padded).square().sum().backward()
            gradients.append({name: p.grad for name, p in encoder.named_parameters()})
    # 384 samples: windows at 0, 96, 192, 288, of which the first two are those of the recording
    for other in gradients[1:]:
        torch.testing.assert_close(gradients[0], other, atol=1e-6, rtol=1e-4)


def test_what_cannot_be_looked_at_is_refused_with_its_numbers():
    with pytest.raises(UserError, match="has 1000 samples, but encoder otis looks at 1008"):
        build(Config(dim=4, depth=1, heads=1))(torch.zeros(1, 12, 1000))
    with pytest.raises(UserError, match=r"12 leads, samples\), not \(1, 8, 1008\)"):
        build(Config(dim=4, depth=1, heads=1))(torch.zeros(1, 8, 1008))
    for wrong in ({"dim": 10, "heads": 2}, {"dim": 32}, {"window": 1000}, {"drop_path": 1.0}, {"depth": -1}, {"patch": 0}):
        with pytest.raises(UsageError, match="encoder"):
            Config(**wrong)


def test_many_windows_without_gradients_give_what_they_give_with():
    encoder = small(TINY)
    ecg = torch.randn(AT_ONCE // 2 + 1, 12, 96)
    with_gradients = encoder(ecg).detach()
    with torch.no_grad():
        torch.testing.assert_close(encoder(ecg), with_gradients)


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_checkpointing_changes_no_gradient(mlp):
    import dataclasses

    gradients = []
    for checkpointing in (False, True):
        encoder = small(dataclasses.replace(TINY, mlp=mlp, depth=2, drop_path=0.5, checkpointing=checkpointing)).train()
        torch.manual_seed(1)
        encoder(torch.randn(4, 12, 48)).square().mean().backward()
        gradients.append([p.grad for p in encoder.parameters()])
    torch.testing.assert_close(*gradients)


def test_branches_fall_out_in_training_alone_and_as_often_as_said():
    torch.manual_seed(0)
    block = Block(8, 2, "gelu", 0.25).train()
    x = torch.ones(4000, 1, 1)
    dropped = block._dropped(x)
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (dropped == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(block.eval()._dropped(x), x)
    encoder = build(Config(dim=8, depth=3, heads=2))
    assert [b.drop_path for b in encoder.blocks] == pytest.approx([0, 0.05, 0.1])


def test_layers_are_those_of_the_published_rates():
    with torch.device("meta"):
        encoder = build(Config())
    rates = {name: 5e-4 * 0.75 ** (encoder.num_layers - 1 - encoder.layer_of(name)) for name, _ in encoder.named_parameters()}
    assert rates["blocks.11.mlp.fc2.weight"] == 5e-4
    assert rates["blocks.3.attn.mha.in_proj_weight"] == pytest.approx(5e-4 * 0.75**8)
    for name in ("cls_token", "pos_embed_y.weight", "patch_embed.proj.weight", "blocks.0.norm1.bias"):
        assert rates[name] == pytest.approx(2.1e-5, rel=0.01)  # spec 1.6


def test_bf16_stays_near_fp32():
    encoder, ecg = small(), torch.randn(2, 4, 200)
    with torch.no_grad():
        exact = encoder.pooled(ecg)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = encoder.pooled(ecg)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().max() <= 0.03 * exact.abs().max()
