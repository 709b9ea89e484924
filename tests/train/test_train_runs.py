"""What a run takes, refuses, writes and says."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from tiny_world import make_world, quick_recipe

import ecgecho
import embed_cache
from ecgecho import config, plugins
from ecgecho.data.batches import Batches
from ecgecho.data.tables import first_difference
from ecgecho.data.texts import MIN_SUBJECTS, SPECIAL
from ecgecho.train import make_recipe, train
from ecgecho.types import EcgContract, UsageError, UserError

QUICK = "optim.steps=2"


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    said: list[str] = []
    train(quick_recipe("echoing_ecg"), **world.paths(), out=out, say=said.append)
    return out, said


def test_on_a_cpu_it_says_the_estimated_hours_before_it_starts(finished):
    assert any(re.search(r"about .* hours .* on this CPU", line) for line in finished[1])


def test_a_finished_run_says_done_in_one_line(world, finished):
    said: list[str] = []
    again = train(quick_recipe("echoing_ecg"), **world.paths(), out=finished[0], say=said.append)
    assert len(said) == 1
    assert "done" in said[0]
    assert again["steps"] == 12


def test_another_recipe_or_store_is_refused_with_the_field_that_differs(world, finished, tmp_path):
    with pytest.raises(UserError, match=r"recipe.optim.learning_rate was 0.002 and is 0.1"):
        train(quick_recipe("echoing_ecg", "optim.learning_rate=0.1"), **world.paths(), out=finished[0])
    other = make_world(tmp_path, seed=1)
    with pytest.raises(UserError, match="ecgs was"):
        train(quick_recipe("echoing_ecg"), catalogs=[world.catalog], ecgs=[other.ecg], echos=[world.echo], out=finished[0])


def test_a_folder_with_other_things_is_no_place_for_a_run(world, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no run"):
        train(quick_recipe("echoing_ecg"), **world.paths(), out=tmp_path)


def test_the_run_records_what_it_read_and_how(finished, world):
    run = json.loads((finished[0] / "run.json").read_text())
    assert run["identity"]["recipe"]["seed"] == run["seed"] == 0
    assert run["identity"]["ecgs"] == [embed_cache.open(world.ecg).content_hash()]
    assert run["identity"]["split_version"] >= 1
    assert run["teacher"]["weights_sha256"] == "0" * 64
    assert run["device"].startswith("cpu")
    assert len(run["normaliser"]["mean_mv"]) == 12
    assert set(run["versions"]) == {"ecgecho", "python", "torch", "numpy"}
    assert (finished[0] / run["paths"]["catalogs"][0]).resolve() == world.catalog.resolve()
    kinds = [json.loads(line)["kind"] for line in (finished[0] / "metrics.jsonl").read_text().splitlines()]
    assert {"train", "val"} == set(kinds)


def test_no_text_and_no_identifier_is_in_the_run(finished):
    for path in finished[0].rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for secret in (b"amplitude severely reduced", b"s4821", b"p0001name", b"dr p00", b"p0001-e0"):
            assert secret not in content, path


def test_the_vocabulary_holds_what_five_training_subjects_say_and_no_numbers(finished):
    tokens = json.loads((finished[0] / "vocabulary.json").read_text())["tokens"]
    assert tokens[: len(SPECIAL)] == list(SPECIAL)
    assert MIN_SUBJECTS == 5
    assert "reduced" in tokens
    assert not [t for t in tokens if re.search(r"\d", t)]
    assert not [t for t in tokens if "name" in t]


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_ids(world, tmp_path):
    with pytest.raises(UserError, match=r"not finite at step \d+; ECGs of the batch: p\d+-e\d") as caught:
        train(quick_recipe("supervised", "optim.learning_rate=1e30"), **world.paths(), out=tmp_path / "run")
    report = json.loads((tmp_path / "run" / "not_finite.json").read_text())
    assert f"step {report['step']};" in str(caught.value)
    assert len(report["ecg_ids"]) == 16
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_an_ecg_store_of_another_contract_is_refused(tmp_path):
    world = make_world(tmp_path, contract=EcgContract(name="echoing_ecg", fs_hz=100, num_samples=1000))
    with pytest.raises(UserError, match=r"its band_hz is None, not \[0.5, 40.0\]") as refused:
        train(quick_recipe("echoing_ecg"), **world.paths(), out=tmp_path / "run")
    lines = str(refused.value).replace(str(tmp_path), "").splitlines()
    assert "`ecgecho cache-ecg CATALOG --contract echoing_ecg --out STORE`" in lines[2]
    assert max(len(line) for line in lines) <= 120
    with pytest.raises(UserError, match="kind 'echo'"):
        train(quick_recipe("echoing_ecg"), catalogs=[world.catalog], ecgs=[world.echo], out=tmp_path / "run")


def test_two_catalogs_of_two_keys_train_together_and_that_is_said(tmp_path):
    one, two = (make_world(tmp_path / k, seed=i, family=f"private:{k}", prefix=k, subjects=30) for i, k in enumerate("ab"))
    both = {"catalogs": [one.catalog, two.catalog], "ecgs": [one.ecg, two.ecg], "echos": [one.echo, two.echo]}
    said: list[str] = []
    train(quick_recipe("echoing_ecg", QUICK), **both, out=tmp_path / "run", say=said.append)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["counts"]["train_subjects"] > 30
    assert len(run["identity"]["echos"]) == 2
    assert any("different keys" in line for line in said)


def test_an_ecg_cannot_have_two_teachers(world, tmp_path):
    other = make_world(tmp_path / "b", seed=2, prefix="r", subjects=20, mask="none")
    both = {"catalogs": [world.catalog, other.catalog], "ecgs": [world.ecg, other.ecg], "echos": [world.echo, other.echo]}
    with pytest.raises(UserError, match="differ in mask"):
        train(quick_recipe("echoing_ecg", QUICK), **both, out=tmp_path / "run")


def test_of_all_that_two_teachers_differ_in_the_name_is_told():
    one = {"teacher": {"arch": "a" * 500, "name": "one", "dim": 16}, "teacher_sha256": "a", "mask": "none"}
    two = {"teacher": {"arch": "b" * 500, "name": "two", "dim": 8}, "teacher_sha256": "b", "mask": "sector"}
    assert first_difference(two, one) == ("teacher.name", "'two'", "'one'")
    two["teacher"]["name"] = "one"
    assert first_difference(two, one) == ("teacher.dim", "8", "16")
    two["teacher"]["dim"] = 16
    field, *values = first_difference(two, one)
    assert (field, [len(value) for value in values]) == ("mask", [8, 6])
    assert first_difference(one, one) is None


def test_a_subject_in_two_splits_and_a_subject_in_none_are_refused(tmp_path):
    train_only = make_world(tmp_path / "a", subjects=20, splits=["train"] * 20)
    test_only = make_world(tmp_path / "b", subjects=20, splits=["test"] * 20)
    both = {"catalogs": [train_only.catalog, test_only.catalog], "ecgs": [train_only.ecg], "echos": [train_only.echo]}
    with pytest.raises(UserError, match=r"different splits.*#[0-9a-f]{8}") as caught:
        train(quick_recipe("echoing_ecg"), **both, out=tmp_path / "run")
    assert "p0000" not in str(caught.value)
    unknown = make_world(tmp_path / "c", subjects=20, splits=["train"] * 19 + ["none"])
    with pytest.raises(UserError, match=r"1 subjects .* split 'none' \(first #"):
        train(quick_recipe("echoing_ecg"), **unknown.paths(), out=tmp_path / "run")


def test_without_an_echo_store_it_learns_from_text_when_told_to(world, tmp_path):
    stores = {"catalogs": [world.catalog], "ecgs": [world.ecg]}
    with pytest.raises(UserError, match="add --echo STORE, or --set method.on=text"):
        train(quick_recipe("echoing_ecg"), **stores, out=tmp_path / "no")
    train(quick_recipe("echoing_ecg", "method.on=text", QUICK), **stores, out=tmp_path / "run")
    assert ecgecho.load(tmp_path / "run").has_text


@pytest.mark.parametrize(
    "words", [("data.views=merge",), ("data.views=PLAX",), ("method.parity=true", "data.batches=single", "method.pooling=gpo")]
)
def test_other_views_and_parity_train(words, world, tmp_path):
    assert train(quick_recipe("echoing_ecg", QUICK, *words), **world.paths(), out=tmp_path / "run")["steps"] == 2


def test_all_views_are_for_methods_that_take_them_and_others_are_told_what_they_take(world, tmp_path):
    with pytest.raises(UsageError, match=r"echoing_ecg takes one echo a study; set data\.views=merge .* or draw"):
        train(quick_recipe("echoing_ecg", "data.views=all", QUICK), **world.paths(), out=tmp_path / "run")
    said: list[str] = []
    words = (QUICK, "data.views=all", "data.max_views=1")
    train(quick_recipe("echo2ecg", *words), **world.paths(), out=tmp_path / "run", say=said.append)
    assert any("echo studies have more than data.max_views=1 views" in line for line in said)
    with pytest.raises(UsageError, match=r"aggregation=single takes one view a study; .*draw, merge or a .* or drop method\."):
        train(quick_recipe("echo2ecg", "method.aggregation=single", *words), **world.paths(), out=tmp_path / "single")
    train(quick_recipe("echoing_ecg", "data.views=all", "method.on=text", QUICK), **world.paths(), out=tmp_path / "text")


def test_a_view_that_no_cine_has_is_refused_with_what_there_is(world, tmp_path):
    with pytest.raises(UsageError, match="A4C, PLAX"):
        train(quick_recipe("echoing_ecg", "data.views=A2C"), **world.paths(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError, match="Did you mean 'PLAX'"):
        train(quick_recipe("echoing_ecg", "data.views=plaxx"), **world.paths(), out=tmp_path / "run")
    assert (tmp_path / "run").exists()


def test_echo_alone_passes_the_echo_pairs(world, tmp_path):
    train(quick_recipe("ecg_clip", "method.on=echo", QUICK), **world.paths(), out=tmp_path / "run")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["counts"]["train_ecgs"] == run["counts"]["train_echo_pairs"]
    assert run["steps_per_epoch"] == run["counts"]["train_echo_pairs"] / 16


def test_validation_counts_every_row_once(world, tmp_path, monkeypatch):
    seen: list[int] = []
    real = Batches._batch

    def counting(self, examples, ecgs, *rest, **options):
        if examples is self.held_out:
            seen.extend(ecgs.tolist())
        return real(self, examples, ecgs, *rest, **options)

    monkeypatch.setattr(Batches, "_batch", counting)
    train(quick_recipe("echoing_ecg", "optim.steps=1", "data.batch_size=5"), **world.paths(), out=tmp_path / "run")
    count = json.loads((tmp_path / "run" / "run.json").read_text())["counts"]["val_ecgs"]
    assert count % 5
    assert sorted(seen[:count]) == list(range(count))


def test_recipes_take_words_files_and_other_encoders(tmp_path):
    small = make_recipe("echoing-ecg", "small", ["encoder_name=echoing_ecg", "encoder.stem_width=8", "optim.learning_rate=0.01"])
    assert small.encoder_name == "echoing_ecg"
    assert small.encoder["stem_width"] == 8
    assert small.optim.learning_rate == 0.01
    (tmp_path / "mine.json").write_text(json.dumps(config.to_json(small)))
    assert make_recipe("echoing_ecg", str(tmp_path / "mine.json")) == small
    with pytest.raises(UsageError, match="text_wieght"):
        make_recipe("echoing_ecg", "small", ["method.text_wieght=0.1"])
    with pytest.raises(UsageError, match="Did you mean 'small'"):
        make_recipe("echoing_ecg", "smal")


@pytest.mark.parametrize("method", plugins.names("methods"))
def test_the_paper_recipe_says_what_it_wants_of_a_user(method, world, tmp_path):
    published = make_recipe(method, "paper").encoder_name
    small = ["encoder.stem_width=2", "encoder.num_blocks=[1,1,1,1]"] if published == "echoing_ecg" else []
    recipe = make_recipe(method, "paper", ["optim.steps=1", "data.batch_size=4", *small])
    if method == "supervised":
        assert train(recipe, **world.paths(), out=tmp_path / "run")["steps"] == 1
    elif published == "otis":
        with pytest.raises(UserError, match="not made by the contract 'otis'"):
            train(recipe, **world.paths(), out=tmp_path / "run")
    else:
        with pytest.raises(UserError, match="data.text=FOLDER"):
            train(recipe, **world.paths(), out=tmp_path / "run")


def test_a_local_bert_is_trained_and_the_run_needs_its_folder_no_more(world, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "bert"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "amplitude", "reduced", "normal", "severely", "mildly"]
    (folder / "vocab.txt").write_text("\n".join(words))
    settings = {
        "vocab_size": len(words),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    bert = transformers.BertModel(transformers.BertConfig(**settings))
    bert.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
    out = tmp_path / "run"
    train(quick_recipe("echoing_ecg", QUICK, f"data.text={folder}"), **world.paths(), out=out)
    folder.rename(tmp_path / "gone")
    mean, _ = ecgecho.load(out).embed_texts(["amplitude severely reduced", "normal"])
    assert mean.shape == (2, 16)
    assert not np.allclose(mean[0], mean[1])
