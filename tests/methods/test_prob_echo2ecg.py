"""prob_echo2ecg: what must hold of a study's Gaussian."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from ecgecho import config
from ecgecho.losses.pcme import pcme_loss
from ecgecho.methods import prob_echo2ecg
from ecgecho.methods.prob_echo2ecg import pool_gaussians, unit_gaussian
from ecgecho.nn.views import Studies
from ecgecho.types import Batch, Block, Embedding, MethodSizes, UsageError, UserError

DIM = 6
BETWEEN = torch.full((DIM,), 0.05, dtype=torch.float64)
torch.set_num_threads(1)


class Linear(nn.Module):
    """(B, 12, L) -> one token of 8."""

    width = 8

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 8)

    def forward(self, ecg):
        return self.linear(ecg.mean(2))[:, None]


def make(**settings) -> prob_echo2ecg.ProbEcho2Ecg:
    torch.manual_seed(0)
    return prob_echo2ecg.build(config.from_json(prob_echo2ecg.Config, {"dim": 5} | settings), Linear(), MethodSizes(echo_dim=DIM))


def views(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    mean = torch.randn((count, DIM), generator=random, dtype=torch.float64)
    return mean, torch.rand((count, DIM), generator=random, dtype=torch.float64)


def pooled(mean: torch.Tensor, var: torch.Tensor, counts: list[int], between: torch.Tensor = BETWEEN):
    return pool_gaussians(mean, var, between, Studies.of(torch.tensor([0, *counts]).cumsum(0), len(mean)))


def block_of(counts: list[int], seed: int = 0) -> Block:
    moments = torch.randn((sum(counts), 2, DIM), generator=torch.Generator().manual_seed(seed))
    moments[:, 1] = 0.1 * moments[:, 1].abs()
    return Block(values=moments, row=torch.arange(len(counts)), start=torch.tensor([0, *counts]).cumsum(0))


def test_the_pooled_gaussian_is_the_posterior_of_random_effects():
    """The product of the views' densities around a common mean, in plain loops."""
    (mean, var), counts = views(6), [1, 3, 2]
    ours_mean, ours_var = pooled(mean, var, counts)
    at = 0
    for study, count in enumerate(counts):
        for d in range(DIM):
            weight = [1 / (float(var[v, d]) + 0.05) for v in range(at, at + count)]
            total = sum(weight)
            expected = sum(w * float(mean[v, d]) for w, v in zip(weight, range(at, at + count), strict=True)) / total
            assert float(ours_mean[study, d]) == pytest.approx(expected)
            assert float(ours_var[study, d]) == pytest.approx(1 / total)
        at += count


def test_another_view_never_makes_a_study_less_certain():
    mean, var = views(9)
    sizes = [pooled(mean[:n], var[:n], [n])[1] for n in range(1, 10)]
    for fewer, more in zip(sizes, sizes[1:], strict=False):
        assert (more < fewer).all()


def test_a_view_of_no_certainty_has_no_weight():
    mean, var = views(3)
    loud = torch.cat([mean, torch.full((1, DIM), 1e3, dtype=torch.float64)])
    vague = torch.cat([var, torch.full((1, DIM), 1e20, dtype=torch.float64)])
    for with_it, without in zip(pooled(loud, vague, [4]), pooled(mean, var, [3]), strict=True):
        torch.testing.assert_close(with_it, without)


def test_one_view_is_itself_and_what_views_differ_by():
    mean, var = views(2)
    own_mean, own_var = pooled(mean, var, [1, 1])
    torch.testing.assert_close(own_mean, mean)
    torch.testing.assert_close(own_var, var + 0.05)


def test_views_without_a_deviation_weigh_alike():
    mean, _ = views(4)
    own_mean, own_var = pooled(mean, torch.zeros_like(mean), [4])
    torch.testing.assert_close(own_mean[0], mean.mean(0))
    torch.testing.assert_close(own_var[0], BETWEEN / 4)
    frozen = make()
    with torch.no_grad():
        frozen.between_logvar.fill_(-100.0)  # learned away
    block = block_of([1, 3])
    block.values[:, 1] = 0
    out = frozen.embed_study(block)
    assert out.mean.isfinite().all()
    assert out.logvar.isfinite().all()


def test_a_studys_gaussian_depends_on_neither_order_nor_neighbours_nor_the_teachers_scale():
    model, block = make().eval(), block_of([1, 3, 40])
    whole = model.embed_study(block)
    turned = torch.cat([study.flip(0) for study in block.values.split([1, 3, 40])])
    alone = model.embed_study(block_of_values(block.values[1:4]))
    sizes = torch.rand((44, 1, 1)) + 0.1  # each view's vector and its deviation in a unit of their own
    for other in (model.embed_study(dataclasses.replace(block, values=turned)), scaled(model, block, sizes)):
        torch.testing.assert_close(other.mean, whole.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other.logvar, whole.logvar, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone.mean[0], whole.mean[1])
    torch.testing.assert_close(alone.logvar[0], whole.logvar[1])


def block_of_values(values: torch.Tensor) -> Block:
    return Block(values=values, row=torch.tensor([0]), start=torch.tensor([0, len(values)]))


def scaled(model: prob_echo2ecg.ProbEcho2Ecg, block: Block, sizes: torch.Tensor) -> Embedding:
    return model.embed_study(dataclasses.replace(block, values=block.values * sizes))


def test_a_linear_map_takes_the_samples_where_it_takes_the_gaussian():
    model, block = make(), block_of([1])
    with torch.no_grad():
        model.between_logvar.fill_(-100.0)  # one view, nothing between: the view's own Gaussian
    out = model.embed_study(block)
    mean, std = block.values[0]
    samples = (mean + std * torch.randn((400_000, DIM), generator=torch.Generator().manual_seed(3))) @ model.echo_head.weight.T
    length = (mean @ model.echo_head.weight.T).norm()
    torch.testing.assert_close(samples.mean(0) / length, out.mean[0], atol=2e-3, rtol=0)
    torch.testing.assert_close((samples.var(0) / length.square()), out.logvar[0].exp(), atol=0, rtol=0.02)


def test_views_that_disagree_make_a_wider_gaussian():
    model = make().eval()
    agree, differ = block_of([1]).values.expand(2, -1, -1).clone(), block_of([1]).values.expand(2, -1, -1).clone()
    differ[1, 0] = differ[1, 0].roll(1)
    one, two = (model.embed_study(block_of_values(x)).logvar.exp().sum() for x in (agree, differ))
    assert two > one


def test_a_unit_gaussian_keeps_the_share_of_the_variance_and_zero_stays_zero():
    mean, var = views(3)
    unit_mean, unit_var = unit_gaussian(mean, var)
    torch.testing.assert_close(unit_mean.norm(dim=1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(unit_var.sum(1), var.sum(1) / mean.square().sum(1))
    assert torch.equal(unit_gaussian(torch.zeros(1, DIM), torch.ones(1, DIM))[0], torch.zeros(1, DIM))


def batch_of(counts: list[int], subject: list[int], study: list[int]) -> Batch:
    count = len(counts)
    return Batch(
        ecg=torch.randn((1, count, 12, 20), generator=torch.Generator().manual_seed(1)),
        ecg_lead_valid=torch.ones(count, 12, dtype=torch.bool),
        subject=torch.tensor(subject),
        study=torch.tensor(study),
        text_key=torch.full((count,), -1),
        echo=block_of(counts),
    )


def test_the_loss_is_pcme_without_the_repeats():
    model, batch = make().eval(), batch_of([1, 2, 3, 1], subject=[0, 0, 1, 2], study=[3, 4, 5, 5])
    ignore = torch.eye(4, dtype=torch.bool)
    ignore[0, 1] = ignore[1, 0] = ignore[2, 3] = ignore[3, 2] = True
    ecgs, studies = model.embed_ecg(batch.ecg[0], batch.ecg_lead_valid), model.embed_study(batch.echo)
    five = torch.tensor([5.0])
    torch.testing.assert_close(model(batch)["loss"], pcme_loss(ecgs, studies, five, five, ignore=ignore)["loss"].squeeze())
    assert not torch.isclose(model(batch)["loss"], pcme_loss(ecgs, studies, five, five)["loss"].squeeze())


def test_what_views_differ_by_is_learned_and_starts_where_the_setting_says():
    model, batch = make(between_start=0.6), batch_of([1, 2, 3, 1], subject=[0, 1, 2, 3], study=[0, 1, 2, 3])
    assert float(model.between_logvar.detach().exp().sum()) == pytest.approx(0.6)
    model(batch)["loss"].backward()
    assert (model.between_logvar.grad != 0).all()


def test_an_encoder_that_pools_by_itself_gives_the_same():
    class Pools(Linear):
        def pooled(self, ecg):
            return self(ecg).mean(1)

    model, ecg = make().eval(), torch.randn(3, 12, 20)
    plain = model.embed_ecg(ecg, torch.ones(3, 12, dtype=torch.bool))
    model.encoder.__class__ = Pools
    other = model.embed_ecg(ecg, torch.ones(3, 12, dtype=torch.bool))
    torch.testing.assert_close(other.mean, plain.mean)
    torch.testing.assert_close(other.logvar, plain.logvar)


def test_settings_that_cannot_be_are_refused():
    for settings in ({"dim": 0}, {"between_start": 0.0}, {"view_dropout": 1.0}):
        with pytest.raises(UsageError, match=f"method.{next(iter(settings))}"):
            prob_echo2ecg.Config(**settings)
    with pytest.raises(UserError, match="--echo STORE"):
        prob_echo2ecg.build(prob_echo2ecg.Config(), Linear(), MethodSizes())
