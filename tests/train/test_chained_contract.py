"""A contract with a chain from the file to the embedding: rows by either route, no z-scores on top, crops, one recording."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from tiny_world import make_world, quick_recipe

import ecgecho
import embed_cache
from ecgecho import cache, catalog, plugins
from ecgecho.data.batches import Batches
from ecgecho.data.tables import check_contract
from ecgecho.ecg.contract import apply_contract
from ecgecho.ecg.quantise import from_int16
from ecgecho.train import train
from ecgecho.types import STANDARD_LEADS, EcgRecord, UserError

ENCODER = """
from dataclasses import dataclass, replace

from ecgecho.encoders import resnet_small
from ecgecho.encoders.resnet_small import build

CONTRACT = replace(resnet_small.CONTRACT, name="chained", band_hz=None, chain="otis", least_samples=200)

@dataclass(frozen=True)
class Config(resnet_small.Config):
    stem_width: int = 8
    widths: tuple[int, int, int] = (8, 12, 16)
"""
LENGTHS = {"e0": 1200, "e1": 700, "e2": 150, "e3": 1500, "e4": 500}  # at 100 Hz


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "chained.py"
    path.write_text(ENCODER)
    return path


@pytest.fixture(scope="module")
def world(encoder, tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), subjects=40, contract=plugins.load("encoders", str(encoder)).CONTRACT)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Folder with a catalog of arrays in mV, and the arrays (L, 12); one lead of e3 holds a NaN, e4 no voltage."""
    folder, rng = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    signals = {}
    for item, length in LENGTHS.items():
        wave = np.sin(np.arange(length)[:, None] / rng.uniform(2, 9, 12)) + rng.normal(0, 0.1, (length, 12))
        signals[item] = (wave + np.linspace(0, 2, length)[:, None]).astype(np.float32)
    signals["e3"][40, 8] = np.nan
    signals["e4"][:] = 0
    for item, signal in signals.items():
        np.save(folder / f"{item}.npy", signal)
    ids = list(signals)
    ecgs = {"ecg_id": ids, "subject_id": ids, "path": [f"{item}.npy" for item in ids]}
    told = {"fs_hz": [100.0] * len(ids), "unit": ["mv"] * len(ids), "leads": [",".join(STANDARD_LEADS)] * len(ids)}
    tables = {"subjects": pa.table({"subject_id": ids, "split": ["train"] * len(ids)}), "ecgs": pa.table(ecgs | told)}
    catalog.write(folder / "catalog", root=folder, dataset="test", family="test", tables=tables)
    return folder, signals


@pytest.fixture(scope="module")
def stores(encoder, recordings):
    """Made from the files, and from a raw store."""
    folder, contract = recordings[0], plugins.load("encoders", str(encoder)).CONTRACT
    listed = catalog.read(folder / "catalog")
    cache.ecg_job(listed, contract, folder / "files.zarr", workers=0).run()
    cache.ecg_job(listed, None, folder / "raw.zarr", workers=0).run()
    cache.contract_job(folder / "raw.zarr", contract, folder / "by_raw.zarr", workers=1).run()
    return embed_cache.open(folder / "files.zarr"), embed_cache.open(folder / "by_raw.zarr")


@pytest.fixture(scope="module")
def run(encoder, world, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "r"
    recipe = quick_recipe(
        "echoing_ecg", f"encoder_name={encoder}", "data.augment=echo2ecg", "data.crop_samples=320", "optim.steps=2"
    )
    train(recipe, **world.paths(), out=out)
    return out


def row_of(store, item):
    return int(store.rows([item])[0])


def test_files_and_a_raw_store_give_equal_rows_and_refuse_the_same(stores):
    for item in LENGTHS:
        rows = [row_of(store, item) for store in stores]
        facts = [{name: store.index[name][row].as_py() for name in ("status", "reason")} for store, row in zip(stores, rows)]
        assert facts[0] == facts[1]
        refused = {"e2": ("excluded", "too_short"), "e4": ("failed", "all_flat")}
        if item in refused:
            assert tuple(facts[0].values()) == refused[item]
        for name in ("signal", "scale", "lead_valid"):
            np.testing.assert_array_equal(*(store.read(name, np.array([row])) for store, row in zip(stores, rows)))


def test_a_stored_row_is_the_chain_within_half_a_step_and_what_the_recording_was_rounded_by(stores, recordings, encoder):
    contract, store = plugins.load("encoders", str(encoder)).CONTRACT, stores[0]
    for item in ("e0", "e1", "e3"):
        signal = recordings[1][item].T
        record = EcgRecord(signal=signal, leads=STANDARD_LEADS, lead_valid=np.isfinite(signal).all(1), unit="mv", fs_hz=100.0)
        values, lead_valid = apply_contract(record, contract)
        row = np.array([row_of(store, item)])
        scale = store.read("scale", row)[0]
        stored = from_int16(store.read("signal", row)[0], scale)
        # Half of the 0.08 uV that a recording within 5 mV is rounded by moves a value of a group with 0.5 mV by 2e-4.
        assert (np.abs(stored - values) <= scale[:, None] / 2 + 4e-4).all()
        assert scale[lead_valid].max() <= 2**-11
        np.testing.assert_array_equal(store.read("lead_valid", row)[0], lead_valid)
        assert (stored[~lead_valid] == 0).all()
        assert (stored[:, LENGTHS[item] :] == 0).all()


def test_a_store_without_the_chain_and_one_with_it_are_kept_apart(stores, world, encoder):
    chained = plugins.load("encoders", str(encoder)).CONTRACT
    plain = replace(chained, chain="")
    with pytest.raises(UserError, match="its chain is 'otis', not None"):
        check_contract(stores[0], "files.zarr", plain)
    check_contract(embed_cache.open(world.ecg), "world", chained)


def test_no_z_scores_are_fitted_on_chained_signals(run):
    fitted = json.loads((run / "run.json").read_text())["normaliser"]
    assert fitted == {"mean_mv": [0.0] * 12, "std_mv": [1.0] * 12}


def test_a_recording_is_embedded_as_its_row_is(run, stores, recordings):
    student = ecgecho.load(run)
    for item in ("e0", "e1", "e3"):
        signal = recordings[1][item].T
        one = student.embed(signal, 100.0, STANDARD_LEADS).mean.numpy()
        row, _ = student.embed_rows(stores[0], np.array([row_of(stores[0], item)]))
        other, _ = student.embed_rows(stores[0], np.array([row_of(stores[0], "e1" if item != "e1" else "e0")]))
        assert np.abs(one - row).max() < 0.1 * np.abs(one - other).max()  # int16 alone lies between them


def test_a_step_sees_crops_and_validation_the_whole(encoder, world, tmp_path, monkeypatch):
    seen = {"train": set(), "val": set()}
    for kind, name in (("train", "train"), ("val", "validation")):
        made = getattr(Batches, name)

        def spy(self, *args, made=made, kind=kind):
            result = made(self, *args)
            if kind == "train":
                seen[kind].add(result.ecg.shape[-1])
                return result
            batches = list(result)
            seen[kind].update(batch.ecg.shape[-1] for batch in batches)
            return iter(batches)

        monkeypatch.setattr(Batches, name, spy)
    words = (f"encoder_name={encoder}", "data.augment=otis", "data.crop_samples=320", "optim.steps=2")
    train(quick_recipe("echoing_ecg", *words), **world.paths(), out=tmp_path / "run")
    assert seen == {"train": {320}, "val": {1000}}


def test_a_crop_longer_than_the_ecgs_is_refused(encoder, world, tmp_path):
    recipe = quick_recipe("echoing_ecg", f"encoder_name={encoder}", "data.crop_samples=1001")
    with pytest.raises(UserError, match=r"data\.crop_samples is 1001.*1000 samples"):
        train(recipe, **world.paths(), out=tmp_path / "run")
