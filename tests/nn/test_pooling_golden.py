"""Pooling, text head and teacher moments equal the reference (golden), and the laws of pooling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_rules import assert_matches, case, filled_state, keys, load_filled, series

from ecgecho.data import texts
from ecgecho.encoders.echoing_ecg import import_state_dict
from ecgecho.methods import echoing_ecg
from ecgecho.nn.heads import LOGVAR_START, GaussianHead, PointHead, unit
from ecgecho.nn.moments import gaussian_of_moments
from ecgecho.nn.pooling import GPO, MeanPool, position_codes
from ecgecho.nn.text import BertText
from ecgecho.types import Embedding

TOPIC = "echoingecg_ecg_encoder"


def filled_gpo() -> GPO:
    gpo = GPO()
    load_filled(gpo, keys(TOPIC)["GPO_32_32"], "B")
    return gpo


def valid_of(lengths: np.ndarray, num_tokens: int) -> torch.Tensor:
    return torch.arange(num_tokens) < torch.from_numpy(lengths)[:, None]


@pytest.mark.parametrize("name", ["full", "ragged", "len1", "single"])
@torch.no_grad()
def test_gpo_equals_the_reference(name):
    reference, gpo = case(TOPIC, "gpo_fillB"), filled_gpo()
    features = torch.from_numpy(series(tuple(reference[f"{name}/feat_shape"])))
    lengths = reference[f"{name}/lengths"]
    longest = int(lengths.max())
    valid = valid_of(np.broadcast_to(lengths, len(features)).copy(), longest)
    own = {key.split("/")[1]: value for key, value in reference.items() if key.startswith(f"{name}/")}
    assert_matches(own, "out", gpo(features[:, :longest], valid))
    assert_matches(own, "weights", gpo.weights_of(torch.from_numpy(lengths), longest)[..., None])
    if len(set(lengths.tolist())) == 1:
        assert_matches(own, "out", gpo(features[:, :longest]))


def test_position_codes_equal_the_reference():
    assert_matches(case(TOPIC, "gpo_fillB"), "pe_len9_d32", position_codes(9, 32))


def test_the_gradients_of_gpo_equal_the_reference():
    reference, gpo = case(TOPIC, "gpo_backward_fillB"), filled_gpo()
    features = torch.from_numpy(series((3, 9, 16))).requires_grad_(True)
    out = gpo(features, valid_of(np.array([7, 3, 5]), 9))
    (out * torch.from_numpy(series(tuple(out.shape), 77))).sum().backward()
    assert_matches(reference, "g_features", features.grad)
    for name, parameter in gpo.named_parameters():
        assert_matches(reference, f"g_{name}", parameter.grad)


@torch.no_grad()
def test_gpo_lies_between_the_smallest_and_the_largest_token_and_ignores_order_and_padding():
    torch.manual_seed(0)
    gpo, tokens = GPO(), torch.randn(4, 11, 6)
    valid = torch.rand(4, 11) < 0.6
    valid[:, 0] = True
    pooled = gpo(tokens, valid)
    low = tokens.masked_fill(~valid[..., None], torch.inf).amin(1)
    high = tokens.masked_fill(~valid[..., None], -torch.inf).amax(1)
    assert bool(((pooled >= low - 1e-5) & (pooled <= high + 1e-5)).all())
    order = torch.randperm(11)
    torch.testing.assert_close(gpo(tokens[:, order], valid[:, order]), pooled)
    padded = torch.cat([tokens.masked_fill(~valid[..., None], 1e9), torch.full((4, 5, 6), -1e9)], 1)
    torch.testing.assert_close(gpo(padded, torch.cat([valid, torch.zeros(4, 5, dtype=torch.bool)], 1)), pooled)


@pytest.mark.parametrize("pool", [GPO(), MeanPool()])
@torch.no_grad()
def test_a_row_without_tokens_pools_to_zero_and_all_valid_equals_no_mask(pool):
    tokens = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    valid = torch.ones(3, 5, dtype=torch.bool)
    torch.testing.assert_close(pool(tokens, valid), pool(tokens))
    valid[1] = False
    assert torch.equal(pool(tokens, valid)[1], torch.zeros(4))


def test_pooling_under_autocast_is_finite_and_close():
    torch.manual_seed(0)
    head, tokens = GaussianHead(16, 8), torch.randn(3, 7, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = head(tokens)
    full = head(tokens)
    assert low.mean.dtype == low.logvar.dtype == torch.float32
    torch.testing.assert_close(low.mean, full.mean, atol=0.03, rtol=0.03)


def test_the_head_starts_where_it_says_and_its_mean_has_length_one():
    torch.manual_seed(0)
    tokens = torch.randn(8, 9, 32)
    embedding = GaussianHead(32, 64)(tokens)
    assert abs(float(embedding.logvar.detach().mean()) - LOGVAR_START) < 0.5
    torch.testing.assert_close(embedding.mean.norm(dim=-1), torch.ones(8))
    assert abs(float(GaussianHead(32, 64, logvar_start=None)(tokens).logvar.detach().mean())) < 0.5
    point: Embedding = PointHead(32, 64, pooling="mean")(tokens)
    assert point.logvar is None
    torch.testing.assert_close(point.mean.norm(dim=-1), torch.ones(8))


def tiny_bert() -> BertText:
    from transformers import BertConfig

    sizes = {"vocab_size": 120, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    return BertText.from_config(BertConfig(**sizes, max_position_embeddings=64, attn_implementation="eager"))


@pytest.mark.parametrize(
    ("name", "fill", "parity"),
    [("default_fillA", "A", True), ("default_fillB", "B", True), ("varnorm_nomean_fillA", "A", False)],
)
@torch.no_grad()
def test_the_text_tower_and_its_head_equal_the_reference(name, fill, parity):
    reference = case(TOPIC, f"text_tinybert_{name}")
    tower, head = tiny_bert(), GaussianHead(48, 32, logvar_start=None, normalise_mean=parity)
    state = {f"text_encoder.{n}": v for n, v in filled_state(keys(TOPIC)["ProbEncoderTextBert_tiny"], fill).items()}
    ecg, ecg_head = torch.nn.Identity(), torch.nn.Identity()
    import_state_dict(state, encoder=ecg, ecg_head=ecg_head, text_tower=tower, text_head=head)
    tower.eval()
    valid = torch.from_numpy(reference["attention_mask"]).bool()
    tokens = tower(torch.from_numpy(reference["ids"]), valid)
    assert_matches(reference, "bert_out", tokens)
    embedding = head(tokens, valid)
    assert_matches(reference, "mean", embedding.mean)
    if parity:
        assert_matches(reference, "std", embedding.logvar)
    else:  # the ablation var_norm, which we do not offer: log-variances of unit length a token, before pooling
        assert_matches(reference, "std", head.logvar_pool(unit(head.logvar_linear(tokens)), valid))


@pytest.mark.parametrize("eps", [1e-8, 1e-6])
@pytest.mark.parametrize("name", ["n16_d512", "n16_d512_unitrows", "n1_d32", "zeros", "n3_d8"])
def test_teacher_moments_equal_the_reference(eps, name):
    frames = {
        "n16_d512": series((16, 512)),
        "n16_d512_unitrows": series((16, 512)),
        "n1_d32": series((1, 32)),
        "zeros": np.zeros((4, 8), np.float32),
        "n3_d8": series((3, 8)),
    }[name]
    if name.endswith("unitrows"):
        frames = frames / np.linalg.norm(frames, axis=-1, keepdims=True)
    reference = {
        k.rsplit("/", 1)[1]: v for k, v in case(TOPIC, "echo_mean_logvar").items() if k.startswith(f"eps{eps:g}/{name}/")
    }
    wide = frames.astype(np.float64)
    moments = torch.from_numpy(np.stack([wide.mean(0), wide.std(0)])[None].astype(np.float32))
    gaussian = gaussian_of_moments(moments, eps=eps)
    assert_matches(reference, "mean", gaussian.mean[0])
    assert_matches(reference, "logvar", gaussian.logvar[0])


def test_moments_kept_in_fp16_leave_the_log_variance_within_two_thousandths():
    rng = np.random.default_rng(0)
    frames = rng.normal(size=512) + 0.15 * rng.normal(size=(24, 512))
    frames /= np.linalg.norm(frames, axis=-1, keepdims=True)
    moments = np.stack([frames.mean(0), frames.std(0)])[None]
    full = gaussian_of_moments(torch.from_numpy(moments.astype(np.float32)))
    stored = gaussian_of_moments(torch.from_numpy(moments.astype(np.float16)))
    assert float((full.logvar - stored.logvar).abs().max()) < 2e-3


def test_the_rescaled_variance_belongs_to_the_unit_mean():
    moments = torch.rand(3, 2, 8, generator=torch.Generator().manual_seed(0))
    twice = gaussian_of_moments(2 * moments, eps=0.0, rescale_var=True)
    torch.testing.assert_close(twice.logvar, gaussian_of_moments(moments, eps=0.0, rescale_var=True).logvar)


def test_a_report_is_wrapped_as_the_reference_does():
    options = echoing_ecg.recipe("paper").data
    assert texts.prepared("Sinus rhythm", options) == str(case(TOPIC, "ecg_preprocess")["convert_text_ECG"])
