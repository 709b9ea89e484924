"""Training from stores: a study of 500 views beside one of a single view, and studies of which nothing can be used."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_world import make_world, quick_recipe

import ecgecho
from ecgecho.methods import echo2ecg
from ecgecho.train import train

MOST = 128


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Six training studies: of 500 cines, of one, and four that the store has nothing of (two failed, two absent)."""
    return make_world(
        tmp_path_factory.mktemp("uneven"),
        subjects=20,
        splits=["train"] * 12 + ["val"] * 8,
        cines={0: 500, 2: 1},
        failed=(4, 6),
        absent=(8, 10),
    )


@pytest.mark.parametrize("method", ["echo2ecg", "prob_echo2ecg"])
def test_a_study_of_500_views_trains_beside_one_of_1_and_studies_of_none_are_counted(method, uneven, tmp_path, monkeypatch):
    shown: list[list[int]] = []
    pooled = echo2ecg.start_of

    def counting(echo):
        start = pooled(echo)
        assert start[-1] == len(echo.values)
        shown.append(start.diff().tolist())
        return start

    monkeypatch.setattr(echo2ecg, "start_of", counting)
    said: list[str] = []
    recipe = quick_recipe(method, "optim.steps=2", "data.batch_size=4", f"data.max_views={MOST}")
    result = train(recipe, **uneven.paths(), out=tmp_path / "run", progress=False, say=said.append)
    assert result["steps"] == 2
    assert np.isfinite(result["val_loss"])
    assert {count for counts in shown for count in counts} == {1, 2, MOST}  # 2: of the validation split
    assert result["train_echo_pairs"] == 4
    assert "4 of 10 paired echo studies have no usable cine in the stores" in said
    assert "8 of 20 ECGs paired with echo studies are left without any" in said
    assert any(line.startswith(f"1 of 6 echo studies have more than data.max_views={MOST} views") for line in said)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["counts"]["train_echo_studies"] == 2
    student = ecgecho.load(tmp_path / "run")
    table = student.open_echo([uneven.echo])
    long, short = ([row for name, row in sorted(table.rows.items()) if name.startswith(who)] for who in ("p0000-", "p0002-"))
    assert [len(long), len(short)] == [500, 1]
    mean, _ = student.embed_studies(table, [np.array(long), np.array(short)])
    assert np.isfinite(mean).all()


def test_a_split_without_validation_pairs_is_told_once(tmp_path):
    world = make_world(tmp_path, subjects=12, splits=["train"] * 12)
    said: list[str] = []
    result = train(
        quick_recipe("echo2ecg", "optim.steps=1"), **world.paths(), out=tmp_path / "run", progress=False, say=said.append
    )
    assert result["val_loss"] is None
    assert len([line for line in said if "there is no val loss" in line]) == 1
