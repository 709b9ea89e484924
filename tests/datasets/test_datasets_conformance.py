"""What every dataset module must do. A new module adds its tree here and meets all of it."""

import dataclasses

import pytest
from code15_tree import write_code15
from echo_trees import write_camus, write_dynamic, write_lvh, write_pediatric
from echonext_tree import write_echonext
from folder_tree import write_folder
from mimic_tree import write_tree
from music_tree import write_music
from ptb_xl_tree import write_ptb_xl
from snomed_tree import write_chapman, write_cpsc, write_georgia
from tables_tree import write_tables
from uk_biobank_tree import write_uk_biobank

from ecgecho import catalog, pairs, plugins

TREES = {
    "camus": write_camus,
    "chapman": write_chapman,
    "code15": write_code15,
    "cpsc2018": write_cpsc,
    "echonet_dynamic": write_dynamic,
    "echonet_lvh": write_lvh,
    "echonet_pediatric": write_pediatric,
    "echonext": write_echonext,
    "folder": write_folder,
    "georgia": write_georgia,
    "mimic_iv": write_tree,
    "music": write_music,
    "ptb_xl": write_ptb_xl,
    "tables": write_tables,
    "uk_biobank": write_uk_biobank,
}
OFFICIAL = {"camus", "echonet_dynamic", "echonet_lvh", "echonet_pediatric", "echonext", "ptb_xl", "tables"}
"""Datasets whose publisher made the splits."""


def test_every_module_has_a_tree_to_be_tried_on():
    assert set(TREES) == set(plugins.names("datasets"))


@pytest.fixture(scope="module", params=sorted(TREES))
def tried(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("tried")
    module = plugins.load("datasets", request.param)
    dataset = module.build(module.Config())
    TREES[request.param](place / "root")
    before = sorted(path.relative_to(place) for path in place.rglob("*"))
    report = dataset.inspect(place / "root", place / "cat")
    assert sorted(path.relative_to(place) for path in place.rglob("*")) == before
    return module, dataset, place, report, dataset.index(place / "root", place / "cat")


def test_a_config_is_frozen_and_has_defaults(tried):
    config = tried[0].Config()
    assert dataclasses.is_dataclass(config)
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, 1)


def test_no_subject_is_in_two_splits(tried):
    made = tried[4]
    split = dict(zip(made.subjects["subject_id"].to_pylist(), made.subjects["split"].to_pylist(), strict=True))
    assert len(split) == made.subjects.num_rows
    owner = dict(zip(made.ecgs["ecg_id"].to_pylist(), made.ecgs["subject_id"].to_pylist(), strict=True))
    for pair in made.pairs.to_pylist():
        assert pair["split"] == split[pair["subject_id"]] == split[owner[pair["ecg_id"]]]


def test_a_split_is_the_publishers_that_of_the_family_or_none(tried):
    made = tried[4]
    if made.dataset in OFFICIAL:
        assert set(made.subjects["split"].to_pylist()) >= {"train", "val", "test"}
        return
    for row in made.subjects.to_pylist():
        assert row["split"] in ("none", pairs.split_of(made.family, row["subject_id"]))


def test_ids_resolve(tried):
    made = tried[4]
    ids = {
        name: set(made.table(name)[column].to_pylist())
        for name, column in (("subjects", "subject_id"), ("ecgs", "ecg_id"), ("clips", "study_id"), ("texts", "text_id"))
    }
    for name in catalog.SCHEMAS:
        for column, home in (("subject_id", "subjects"), ("ecg_id", "ecgs"), ("study_id", "clips"), ("text_id", "texts")):
            if column in catalog.SCHEMAS[name].names and name != home:
                assert set(made.table(name)[column].to_pylist()) - {None} <= ids[home], (name, column)


def test_every_ecg_has_one_pair(tried):
    made = tried[4]
    assert made.pairs["ecg_id"].to_pylist() == made.ecgs["ecg_id"].to_pylist()


def test_what_was_written_reads_as_the_same(tried):
    made = tried[4]
    again = catalog.read(made.path)
    for name in catalog.SCHEMAS:
        assert again.table(name).equals(made.table(name))
        assert again.table(name).schema == catalog.SCHEMAS[name]


def test_a_second_index_is_done_at_once(tried):
    _, dataset, place, _, made = tried
    stamp = (made.path / "catalog.json").stat().st_mtime_ns
    assert dataset.index(place / "root", place / "cat").unchanged
    assert dataset.inspect(place / "root", place / "cat")["unchanged"]
    assert (made.path / "catalog.json").stat().st_mtime_ns == stamp


def test_paths_are_relative_and_none_is_absolute_in_any_file(tried):
    place, made = tried[2], tried[4]
    for file in made.path.iterdir():
        assert str(place).encode() not in file.read_bytes()
    for path in (*made.ecgs["path"].to_pylist(), *made.clips["path"].to_pylist()):
        assert made.file(path).is_relative_to(made.root)


def test_counts_and_defects_are_recorded(tried):
    report, made = tried[3], tried[4]
    assert made.meta["counts"]["ecgs"]["all"] == made.ecgs.num_rows
    assert made.meta["split_version"] == pairs.SPLIT_VERSION
    assert made.defects.num_rows > 0
    assert all(row["count"] > 0 for row in made.defects.to_pylist())
    assert report["missing"] == made.meta["missing"]
    assert made.dataset in catalog.render(catalog.describe(made))
