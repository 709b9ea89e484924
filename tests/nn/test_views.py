"""Pooling of ragged views: equal to the padded reference, and what must hold of any study."""

from __future__ import annotations

import math

import golden_rules as golden
import numpy as np
import pytest
import torch
from torch import nn

from ecgecho.nn import views
from ecgecho.nn.views import Studies, view_pool

TOPIC = "echo2ecg_aggregator"
NAMES = {"attention": "att", "cls": "cls", "mean": "mean", "max": "max"}
POOLED = ("attention", "learnable", "mean", "max", "cls")
DIM = 16
COUNTS = [1, 3, 500, 2, 1]


def starts(counts: list[int]) -> torch.Tensor:
    return torch.tensor([0, *counts]).cumsum(0)


def make(aggregation: str, dim: int = DIM, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    pool = view_pool(aggregation, dim).eval()
    for name, parameter in pool.named_parameters():
        if name.endswith("bias") or name in ("query", "cls_token"):
            nn.init.normal_(parameter)  # not the zeros they start from
    return pool.double()


def drawn(counts: list[int], seed: int = 1) -> torch.Tensor:
    return torch.randn((sum(counts), DIM), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention_of_one(mha: nn.MultiheadAttention, query: torch.Tensor, study: torch.Tensor) -> torch.Tensor:
    """One query over one study in plain loops over the heads."""
    w_q, w_k, w_v = mha.in_proj_weight.chunk(3)
    b_q, b_k, b_v = mha.in_proj_bias.chunk(3)
    heads = []
    for head in torch.arange(mha.embed_dim).chunk(mha.num_heads):
        q, k, v = w_q[head] @ query + b_q[head], study @ w_k[head].T + b_k[head], study @ w_v[head].T + b_v[head]
        heads.append((k @ q / math.sqrt(len(head))).softmax(0) @ v)
    return mha.out_proj.weight @ torch.cat(heads) + mha.out_proj.bias


def by_loop(pool: nn.Module, aggregation: str, study: torch.Tensor) -> torch.Tensor:
    """What a study alone gives, written as the specification says it."""
    if aggregation in ("mean", "max"):
        return study.mean(0) if aggregation == "mean" else study.max(0).values
    if aggregation != "cls":
        return attention_of_one(pool.mha, study.mean(0) if pool.query is None else pool.query, study)
    token = pool.cls_token[0, 0]
    for layer in pool.layers:
        token = layer.ln1(token + attention_of_one(layer.mha, token, study))
        token = layer.ln2(token + layer.ffn(token))
    return token


@pytest.mark.parametrize(("aggregation", "dim"), [("attention", 16), ("attention", 512), ("cls", 16), ("mean", 16), ("max", 16)])
def test_ragged_views_equal_the_padded_reference(aggregation, dim):
    name = NAMES[aggregation]
    case, rules = golden.case(TOPIC, f"pool_{name}_D{dim}_fillB"), golden.keys(TOPIC)[f"{name}_D{dim}"]
    pool = views.ClsPool(dim, 4, num_layers=2).eval() if aggregation == "cls" else view_pool(aggregation, dim)
    golden.load_filled(pool, rules, "B")
    assert sum(p.numel() for p in pool.parameters()) == case["n_params"]
    for mask in ("none", "all_valid", "ragged", "only_first", "every_other", "row0_all_masked"):
        padded = torch.from_numpy(golden.series((3, 7, dim))).requires_grad_()
        valid = torch.from_numpy(case.get(f"{mask}/mask", np.zeros((3, 7))) == 0)
        kept = valid.any(1)  # the reference gives NaN for a study without views; here there is none
        out = pool(padded[valid], starts(valid.sum(1)[kept].tolist()))
        golden.assert_matches({"out": case[f"{mask}/out"][kept.numpy()]}, "out", out)
        if kept.all():
            (out * torch.from_numpy(golden.series(tuple(out.shape), 13))).sum().backward()
            golden.assert_matches(case, f"{mask}/g_x", padded.grad)


@pytest.mark.parametrize("aggregation", POOLED)
def test_many_views_beside_one_equal_a_loop_and_so_do_all_gradients(aggregation):
    pool, values, start = make(aggregation), drawn(COUNTS).requires_grad_(), starts(COUNTS)
    weigh = drawn([len(COUNTS)], seed=2)
    out = pool(values, start)
    ours = torch.autograd.grad((out * weigh).sum(), [values, *pool.parameters()])
    loop = torch.stack([by_loop(pool, aggregation, study) for study in values.split(COUNTS)])
    theirs = torch.autograd.grad((loop * weigh).sum(), [values, *pool.parameters()])
    torch.testing.assert_close(out, loop)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("aggregation", POOLED)
def test_the_order_of_a_studys_views_and_the_other_studies_do_not_matter(aggregation):
    pool, values, start = make(aggregation), drawn(COUNTS), starts(COUNTS)
    out = pool(values, start)
    turned = torch.cat([study.flip(0) for study in values.split(COUNTS)])
    torch.testing.assert_close(pool(turned, start), out)
    parts = values.split(COUNTS)
    torch.testing.assert_close(pool(torch.cat(parts[::-1]), starts(COUNTS[::-1])), out.flip(0))
    torch.testing.assert_close(pool(parts[1], starts([3])), out[1:2])


@pytest.mark.parametrize("aggregation", ["attention", "learnable"])
def test_one_view_is_its_value_projection(aggregation):
    pool, values = make(aggregation), drawn([1, 1, 1])
    _, _, weight = pool.mha.in_proj_weight.chunk(3)
    value = values @ weight.T + pool.mha.in_proj_bias[2 * DIM :]
    torch.testing.assert_close(pool(values, starts([1, 1, 1])), pool.mha.out_proj(value))


@pytest.mark.parametrize("aggregation", ["mean", "max", "single"])
def test_one_view_is_itself_where_nothing_is_projected(aggregation):
    values = drawn([1, 1, 1])
    torch.testing.assert_close(make(aggregation)(values, starts([1, 1, 1])).double(), values)


def test_a_view_repeated_weighs_as_the_views_are_counted():
    pool, values = make("attention"), drawn([2])
    doubled = torch.cat([values, values])
    torch.testing.assert_close(pool(doubled, starts([4])), pool(values, starts([2])))
    assert not torch.allclose(pool(doubled[:3], starts([3])), pool(values, starts([2])))


def test_sum_and_spread_are_adjoint_and_can_be_derived_twice():
    studies, values, weigh = Studies.of(starts([2, 3]), 5), drawn([2, 3]), drawn([1, 1], seed=3)
    torch.testing.assert_close((studies.sum(values) * weigh).sum(), (values * studies.spread(weigh)).sum())
    assert torch.autograd.gradcheck(studies.softmax, (values.requires_grad_(),))
    assert torch.autograd.gradgradcheck(studies.softmax, (values[:, :2],))


def test_scores_of_any_size_make_shares_that_sum_to_one():
    studies = Studies.of(starts([3, 1, 2]), 6)
    scores = torch.tensor([[1e4], [-1e4], [1e4], [-1e30], [0.0], [5.0]])
    shares = studies.softmax(scores)
    torch.testing.assert_close(studies.sum(shares), torch.ones(3, 1))
    torch.testing.assert_close(shares[:3, 0], torch.tensor([0.5, 0.0, 0.5]))


@pytest.mark.parametrize("start", [[0, 0, 3], [0, 2], [1, 3], [0, 4], [0, 2, 1, 3]])
def test_studies_without_a_view_or_that_do_not_fit_are_refused(start):
    with pytest.raises(ValueError, match="cut 3 views into studies of at least one"):
        view_pool("mean", DIM)(torch.zeros(3, DIM), torch.tensor(start))


def test_a_single_view_refuses_several():
    with pytest.raises(ValueError, match="3 views of 1 studies"):
        view_pool("single", DIM)(torch.zeros(3, DIM), torch.tensor([0, 3]))


def test_the_softmax_stays_full_under_autocast():
    pool, values, start = make("attention").float(), drawn(COUNTS).float(), starts(COUNTS)
    with torch.autocast("cpu", torch.bfloat16):
        out = pool(values, start)
        shares = Studies.of(start, len(values)).softmax(values.bfloat16())
    assert shares.dtype == torch.float32
    torch.testing.assert_close(out.float(), pool(values, start), rtol=0.05, atol=0.05)


def test_dropped_views_are_whole_leave_at_least_one_and_keep_their_study():
    torch.manual_seed(0)
    values = torch.repeat_interleave(torch.arange(5), torch.tensor(COUNTS))[:, None, None].expand(-1, 2, 3).float()
    kept, start = views.drop_views(values, starts(COUNTS), 0.9)
    assert start.diff().min() >= 1
    assert 20 < start.diff()[2] < 100
    for study, part in enumerate(kept.split(start.diff().tolist())):
        assert (part == study).all()
    assert torch.equal(views.drop_views(values, starts(COUNTS), 0.0)[0], values)
    _, least = views.drop_views(values, starts(COUNTS), 1.0)
    assert least.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("aggregation", POOLED)
def test_what_is_kept_for_the_gradient_grows_with_the_views_and_not_with_the_longest_study(aggregation):
    pool, counts = make(aggregation), [1] * 60 + [500]
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        out = pool(drawn(counts).requires_grad_(), starts(counts))
    assert out.shape == (61, DIM)
    parameters = sum(p.numel() for p in pool.parameters())
    assert sum(kept.values()) - parameters < 8 * sum(counts) * DIM  # padded, one such tensor is as large as 54 of these
