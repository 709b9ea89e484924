"""What every method obeys, and what each promises of its loss."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from ecgecho import config, plugins
from ecgecho.losses.pcme import pcme_loss
from ecgecho.methods import ecg_clip, echo2ecg, echoing_ecg, prob_echo2ecg, supervised
from ecgecho.nn.moments import gaussian_of_moments
from ecgecho.types import Batch, Block, MethodSizes, UserError

torch.set_num_threads(1)
DIM, WORDS, LABELS = 8, 20, 2
SIZES = MethodSizes(echo_dim=DIM, vocabulary_size=WORDS, num_labels=LABELS, max_tokens=16)


class TinyEncoder(nn.Module):
    """(B, C, L) -> (B, 5, 16), no batch statistics."""

    width = 16

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(12, 16, 10, stride=10)

    def forward(self, ecg):
        return torch.tanh(self.conv(ecg)).transpose(1, 2)


SMALL = {
    "supervised": {"dropout": 0.0},
    "echo2ecg": {"projection_dim": 16, "dim": 12, "temperature": 0.2},
    "prob_echo2ecg": {"dim": 12},
}
OF_VIEWS = ("echo2ecg", "prob_echo2ecg")


def make(name: str, **settings):
    torch.manual_seed(0)
    module = plugins.load("methods", name)
    small = SMALL.get(name, {"text_width": 16})
    return module.build(config.from_json(module.Config, small | settings), TinyEncoder(), SIZES)


def batch_for(name: str, severity: torch.Tensor, seed: int = 0) -> Batch:
    """`batch_of`, with studies of one to three views for a method that pools them."""
    batch = batch_of(severity, seed)
    if name not in OF_VIEWS:
        return batch
    moments, random = batch.echo.values, torch.Generator().manual_seed(seed)
    counts = 1 + torch.arange(len(moments)) % 3
    views = moments.repeat_interleave(counts, 0)
    views[:, 0] += 0.05 * torch.randn(views[:, 0].shape, generator=random)
    start = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return dataclasses.replace(batch, echo=dataclasses.replace(batch.echo, values=views, start=start))


def batch_of(severity: torch.Tensor, seed: int = 0) -> Batch:
    """B ECGs with texts; the second half with echo; everything tells `severity` (B,) in [0, 1]."""
    random = torch.Generator().manual_seed(seed)
    count = len(severity)
    wave = torch.sin(torch.arange(50) / 3.0)
    ecg = severity[:, None, None] * 2 * wave + 0.1 * torch.randn((count, 12, 50), generator=random)
    row = torch.arange(count)
    words = 1 + (severity * (WORDS - 2)).long()[:, None].expand(count, 4)
    half = row[count // 2 :]
    direction = torch.randn((2, DIM), generator=random)
    mean = 0.9 * nn.functional.normalize(direction[0] * (2 * severity[half, None] - 1) + 0.2 * direction[1], dim=1)
    moments = torch.stack([mean, torch.full_like(mean, ((1 - 0.81) / DIM) ** 0.5)], dim=1)
    return Batch(
        ecg=ecg[None],
        ecg_lead_valid=torch.ones(count, 12, dtype=torch.bool),
        subject=row,
        study=torch.where(row >= count // 2, row, -1),
        text_key=row,
        echo=Block(values=moments, row=half),
        text=Block(values=words, row=row, valid=torch.ones_like(words, dtype=torch.bool)),
        labels=torch.stack([severity > 0.5, severity > 0.8], dim=1).float(),
        labels_valid=torch.ones(count, LABELS, dtype=torch.bool),
    )


def permuted(batch: Batch, order: torch.Tensor) -> Batch:
    place = torch.argsort(order)

    def block(old: Block) -> Block:
        return dataclasses.replace(old, row=place[old.row])

    by_row = ("ecg_lead_valid", "subject", "study", "text_key", "labels", "labels_valid")
    moved = {name: getattr(batch, name)[order] for name in by_row}
    return dataclasses.replace(batch, ecg=batch.ecg[:, order], echo=block(batch.echo), text=block(batch.text), **moved)


@pytest.mark.parametrize("name", plugins.names("methods"))
def test_the_loss_falls_on_what_can_be_learned(name):
    model = make(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for step in range(60):
        batch = batch_for(name, torch.rand(24, generator=torch.Generator().manual_seed(step % 6)), seed=0)
        loss = model(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step(step)
        losses.append(float(loss.detach()))
    assert sum(losses[-6:]) < 0.85 * sum(losses[:6])


@pytest.mark.parametrize("name", plugins.names("methods"))
def test_the_order_of_a_batch_does_not_change_the_loss(name):
    model, batch = make(name).eval(), batch_for(name, torch.rand(12))
    other = permuted(batch, torch.randperm(12))
    one, two = model(batch), model(other)
    for part in one:
        torch.testing.assert_close(one[part], two[part], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", plugins.names("methods"))
def test_every_parameter_gets_a_gradient_and_embeddings_have_the_dimension(name):
    settings = {"on": "both"} if name in ("echoing_ecg", "ecg_clip") else {}
    model, batch = make(name, **settings), batch_for(name, torch.rand(12))
    model(batch)["loss"].backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not [n for n in silent if "gru" not in n]
    embedding = model.embed_ecg(batch.ecg[0], batch.ecg_lead_valid)
    assert embedding.mean.shape == (12, model.dim)
    assert model.needs <= {"text", "echo", "labels"}


@pytest.mark.parametrize("name", [n for n in plugins.names("methods") if n != "supervised"])
def test_a_study_is_embedded_where_its_ecg_is_and_batches_of_studies_do_not_matter(name):
    settings = {"on": "both"} if name in ("echoing_ecg", "ecg_clip") else {}
    model, batch = make(name, **settings).eval(), batch_for(name, torch.rand(12))
    echo = batch.echo
    start = torch.arange(len(echo.values) + 1) if echo.start is None else echo.start
    assert model.takes_views == (name in OF_VIEWS)
    whole = model.embed_study(dataclasses.replace(echo, start=start))
    ecg = model.embed_ecg(batch.ecg[0], batch.ecg_lead_valid)
    assert whole.mean.shape == (len(echo.row), ecg.mean.shape[1])
    assert (whole.logvar is None) == (ecg.logvar is None)
    torch.testing.assert_close(whole.mean.norm(dim=1), torch.ones(len(echo.row)))
    last = Block(values=echo.values[start[-2] :], row=torch.tensor([0]), start=torch.tensor([0, int(start[-1] - start[-2])]))
    torch.testing.assert_close(model.embed_study(last).mean, whole.mean[-1:])
    if not model.takes_views:
        with pytest.raises(ValueError, match="merge the moments"):
            model.embed_study(dataclasses.replace(echo, start=torch.tensor([0, len(echo.values)])))


@pytest.mark.parametrize("name", plugins.names("methods"))
def test_the_loss_is_finite_under_bf16_autocast(name):
    model, batch = make(name), batch_for(name, torch.rand(12))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch)["loss"]
    assert loss.dtype == torch.float32
    assert loss.isfinite()


@pytest.mark.parametrize("name", ["echoing_ecg", "ecg_clip", *OF_VIEWS])
@pytest.mark.parametrize("subjects", ["one entry", "one subject"])
def test_a_block_of_one_entry_or_of_one_subject_has_a_finite_loss(name, subjects):
    settings = {} if name in OF_VIEWS else {"on": "both"}
    model, batch = make(name, **settings), batch_for(name, torch.rand(2 if subjects == "one entry" else 6))
    if subjects == "one subject":
        batch = dataclasses.replace(batch, subject=torch.zeros_like(batch.subject))
    else:
        batch = dataclasses.replace(
            batch, text=Block(values=batch.text.values[:1], row=batch.text.row[:1], valid=batch.text.valid[:1])
        )
    loss = model(batch)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["echoing_ecg", "ecg_clip"])
def test_lambda_weighs_the_terms_and_an_absent_one_is_skipped(name):
    model, batch = make(name, on="both", text_weight=0.7).eval(), batch_of(torch.rand(8))
    parts = model(batch)
    torch.testing.assert_close(parts["loss"], 0.7 * parts["text"] + 0.3 * parts["echo"])
    alone = model(dataclasses.replace(batch, echo=None))
    assert "echo" not in alone
    torch.testing.assert_close(alone["loss"], 0.7 * parts["text"])


@pytest.mark.parametrize("name", ["echoing_ecg", "ecg_clip"])
def test_a_repeated_subject_or_text_is_no_negative(name):
    """A row that repeats another's subject changes what the others see of it, and nothing more."""
    model, batch = make(name, on="text").eval(), batch_of(torch.rand(8))
    same = dataclasses.replace(batch, text_key=torch.tensor([0, 0, 2, 3, 4, 5, 6, 7]))
    also = dataclasses.replace(batch, subject=torch.tensor([0, 0, 2, 3, 4, 5, 6, 7]))
    torch.testing.assert_close(model(same)["loss"], model(also)["loss"])
    assert not torch.isclose(model(same)["loss"], model(batch)["loss"])
    parity = make(name, on="text", parity=True).eval()
    torch.testing.assert_close(parity(same)["loss"], parity(batch)["loss"])


def test_parity_is_the_reference_loss_on_the_teachers_own_gaussian():
    model, batch = make("echoing_ecg", parity=True).eval(), batch_of(torch.rand(8))
    assert list(model.scale) == list(model.shift) == ["all"]
    ecg = model.embed_ecg(batch.ecg[0], batch.ecg_lead_valid).rows(batch.echo.row)
    teacher = gaussian_of_moments(batch.echo.values)
    torch.testing.assert_close(teacher.mean.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(teacher.logvar, (batch.echo.values[:, 1] ** 2 + 1e-8).log())
    expected = pcme_loss(ecg, teacher, torch.tensor([5.0]), torch.tensor([5.0]), parity=True)["loss"]
    torch.testing.assert_close(model(batch)["echo"], expected.squeeze())
    assert abs(ecg.logvar.mean()) < 1


def test_the_log_variance_starts_where_the_setting_says():
    model, batch = make("echoing_ecg", logvar_start=-5.0), batch_of(torch.rand(8))
    assert abs(model.embed_ecg(batch.ecg[0], batch.ecg_lead_valid).logvar.mean() + 5) < 0.5


def test_one_scale_a_pair_of_modalities_or_one_for_all():
    assert sorted(make("echoing_ecg").scale) == ["echo", "text"]
    assert sorted(make("echoing_ecg", shared_scale=True).scale) == ["all"]


def test_a_dimension_other_than_the_teachers_is_refused_and_without_echo_it_is_free():
    with pytest.raises(UserError, match="8 dimensions"):
        make("echoing_ecg", dim=16)
    with pytest.raises(UserError, match="--echo STORE"):
        echoing_ecg.build(echoing_ecg.Config(), TinyEncoder(), dataclasses.replace(SIZES, echo_dim=0))
    assert make("echoing_ecg", on="text", dim=16).dim == 16
    assert make("ecg_clip").dim == DIM


def test_an_unknown_label_has_no_effect():
    model, batch = make("supervised").eval(), batch_of(torch.rand(8))
    known = torch.rand(8, LABELS) > 0.4
    one = dataclasses.replace(batch, labels_valid=known)
    two = dataclasses.replace(batch, labels=torch.where(known, batch.labels, 1 - batch.labels), labels_valid=known)
    torch.testing.assert_close(model(one)["loss"], model(two)["loss"])
    chance = model.predict(batch.ecg[0], batch.ecg_lead_valid)
    assert chance.shape == (8, LABELS)
    with pytest.raises(UserError, match=r"data\.tasks"):
        supervised.build(supervised.Config(), TinyEncoder(), dataclasses.replace(SIZES, num_labels=0))


@pytest.mark.parametrize("module", [echoing_ecg, ecg_clip, supervised, echo2ecg, prob_echo2ecg])
@pytest.mark.parametrize("name", ["paper", "small"])
def test_recipes_fit_their_method_and_survive_json(module, name):
    recipe = module.recipe(name)
    config.from_json(module.Config, recipe.method)
    assert config.from_json(config.Recipe, config.to_json(recipe)) == recipe
    wanted = "otis" if name == "paper" and module in (echo2ecg, prob_echo2ecg) else "echoing_ecg"
    assert plugins.load("encoders", recipe.encoder_name).CONTRACT.name == wanted
