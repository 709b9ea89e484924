"""A private folder -> a catalog whose ids only the holder of the key can make, and that names nobody."""

import contextlib
import os
import re
import stat

import pyarrow.parquet as pq
import pytest
from ecg_forms import FORMS, write_forms
from folder_tree import MARK, write_dicom, write_ecg, write_folder, write_video

from ecgecho import catalog, keys, pairs, plugins
from ecgecho.catalog import IndexOptions
from ecgecho.datasets import _private
from ecgecho.types import ItemError, UsageError, UserError

folder = plugins.load("datasets", "folder")


def index(root, out, progress=None, *, options=IndexOptions(workers=0), **settings):
    return folder.build(folder.Config(**settings)).index(root, out, progress, options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("private")
    return index(write_folder(place / "root"), place / "cat")


def by_path(made, name="clips"):
    return {row["path"]: row for row in getattr(made, name).to_pylist()}


def defects(made):
    return {(row["item"], row["code"]): row["count"] for row in made.defects.to_pylist()}


def splits(made):
    return {row["subject_id"]: row["split"] for row in made.subjects.to_pylist()}


def test_cines_and_ecgs_are_found_by_what_they_are(made):
    assert sorted(by_path(made)) == [
        "p1/a.dcm",
        "p1/fake.dcm",
        "p1/more/IM_0002",
        "p1/still.dcm",
        "p2/b.dcm",
        "p3/c.dcm",
        "p4/loop.avi",
    ]
    assert sorted(by_path(made, "ecgs")) == ["p1/ecg1", "p2/ecg2"]
    assert defects(made)["files", "not_indexed"] == 2  # report.txt, DICOMDIR
    assert defects(made)["files", "not_ecg"] == 1


def test_headers_tell_kind_frames_and_time(made):
    clips = by_path(made)
    assert (clips["p1/a.dcm"]["kind"], clips["p1/a.dcm"]["num_frames"]) == ("b_mode", 3)
    assert str(clips["p1/a.dcm"]["time"]) == "2020-01-02 10:15:00"
    assert (clips["p4/loop.avi"]["kind"], clips["p4/loop.avi"]["num_frames"], clips["p4/loop.avi"]["time"]) == ("b_mode", 4, None)
    assert clips["p1/still.dcm"]["kind"] == "still"
    assert defects(made)["clips", "still"] == 1


def test_a_text_file_named_like_a_dicom_is_a_clip_to_fail_with_a_reason(made):
    clip = by_path(made)["p1/fake.dcm"]
    assert (clip["kind"], splits(made)[clip["subject_id"]]) == (None, "none")
    assert defects(made)["clips", "not_dicom"] == 1


def test_a_study_is_its_uid_wherever_its_files_lie_and_a_video_s_its_folder(made):
    clips = by_path(made)
    assert clips["p1/a.dcm"]["study_id"] == clips["p1/more/IM_0002"]["study_id"]
    assert len({clip["study_id"] for clip in clips.values()}) == 5


def test_the_patient_id_makes_the_subject_and_no_or_a_common_word_none(made):
    clips = by_path(made)
    assert clips["p1/a.dcm"]["subject_id"] != clips["p2/b.dcm"]["subject_id"]
    known = {clips[path]["subject_id"] for path in ("p1/a.dcm", "p2/b.dcm")}
    for subject, split in splits(made).items():
        assert split == (pairs.split_of(made.family, subject) if subject in known else "none")
    assert splits(made)[clips["p3/c.dcm"]["subject_id"]] == "none"
    assert splits(made)[clips["p4/loop.avi"]["subject_id"]] == "none"
    assert set(made.pairs["split"].to_pylist()) == {"none"}  # a WFDB file does not say whose it is


def test_no_identifier_is_in_any_file_of_the_catalog(made):
    words = (MARK, "1.2.826.777", "ANONYMOUS", str(made.root))
    for file in (*made.path.iterdir(), made.path.with_name("cat.key")):
        text = repr(pq.read_table(file).to_pylist()) if file.suffix == ".parquet" else file.read_text()
        raw = file.read_bytes()
        for word in words:
            assert word not in text
            assert word.encode() not in raw


def test_ids_are_keyed_hashes(made):
    for clip in made.clips.to_pylist():
        for name in ("clip_id", "study_id", "subject_id"):
            assert len(clip[name]) == 32
            assert set(clip[name]) <= set("0123456789abcdef")
    assert made.family == f"private:{made.key_id}"
    assert made.key_id not in made.path.with_name("cat.key").read_text()


def test_the_key_lies_beside_the_catalog_for_its_owner_alone(made):
    key = made.path.with_name("cat.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_text().strip()) == 64
    assert not list(made.path.glob("*key*"))


@pytest.fixture
def small(tmp_path):
    write_dicom(tmp_path / "root" / "p1" / "a.dcm")
    return tmp_path / "root"


def test_the_same_key_makes_the_same_ids_and_another_key_others(small, tmp_path):
    one, other = index(small, tmp_path / "one"), index(small, tmp_path / "other")
    same = index(small, tmp_path / "same", key=str(tmp_path / "one.key"))
    assert same.clips.equals(one.clips)
    assert same.family == one.family
    assert same.subjects.equals(one.subjects)
    assert not set(one.clips["clip_id"].to_pylist()) & set(other.clips["clip_id"].to_pylist())
    assert pairs.check_together([one, same]) == []
    assert len(pairs.check_together([one, other])) == 1


def test_a_key_that_others_can_read_is_refused_with_the_command_that_mends_it(small, tmp_path):
    index(small, tmp_path / "cat")
    (tmp_path / "cat.key").chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        index(small, tmp_path / "cat")


def test_a_key_that_is_not_there_is_refused(small, tmp_path):
    with pytest.raises(UserError, match="there is no key"):
        index(small, tmp_path / "cat", key=str(tmp_path / "typo.key"))
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_a_catalog_whose_key_is_gone_is_not_given_other_ids(small, tmp_path):
    index(small, tmp_path / "cat")
    (tmp_path / "cat.key").unlink()
    with pytest.raises(UserError, match="is gone"):
        index(small, tmp_path / "cat")
    assert not (tmp_path / "cat.key").exists()


@pytest.mark.parametrize("content", ["", "short", "x" * 5000])
def test_a_key_of_a_wrong_size_is_refused(small, tmp_path, content):
    (tmp_path / "k").write_text(content)
    (tmp_path / "k").chmod(0o600)
    with pytest.raises(UserError, match="shorter than 16 or longer than 4096"):
        index(small, tmp_path / "cat", key=str(tmp_path / "k"))


def test_two_patients_under_one_study_are_two_studies(tmp_path):
    write_dicom(tmp_path / "root" / "a.dcm")
    write_dicom(tmp_path / "root" / "b.dcm", patient="Q")
    made = index(tmp_path / "root", tmp_path / "cat")
    assert len(set(made.clips["study_id"].to_pylist())) == 2
    assert defects(made)["clips", "study_of_two_subjects"] == 1


def test_when_the_first_folder_is_the_subject_ecgs_meet_their_echo(tmp_path):
    made = index(write_folder(tmp_path / "root"), tmp_path / "cat", subject="top_folder")
    ecgs = by_path(made, "ecgs")
    rows = {row["ecg_id"]: row for row in made.pairs.to_pylist()}
    pair = rows[ecgs["p1/ecg1"]["ecg_id"]]
    assert pair["study_id"] == by_path(made)["p1/a.dcm"]["study_id"]
    assert pair["gap_days"] == pytest.approx(1 + 15 / 1440)
    assert pair["split"] == pairs.split_of(made.family, pair["subject_id"])
    assert rows[ecgs["p2/ecg2"]["ecg_id"]]["study_id"] is None  # it has no time


def test_the_same_call_again_says_done_and_a_new_file_is_seen(small, tmp_path):
    assert not index(small, small / "cat").unchanged  # the catalog and its key inside the root are not indexed
    assert index(small, small / "cat").unchanged
    write_video(small / "new" / "v.avi")
    again = index(small, small / "cat")
    assert (again.unchanged, again.clips.num_rows) == (False, 2)


def test_a_file_that_did_not_change_is_not_opened_again(small, tmp_path):
    first = index(small, tmp_path / "cat")
    path = small / "p1" / "a.dcm"
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    write_ecg(small / "p1" / "e.hea")  # so that there is something to do
    again = index(small, tmp_path / "cat")
    assert not again.unchanged
    assert again.clips.equals(first.clips)


def test_a_stopped_scan_goes_on_where_it_was(tmp_path):
    root = write_folder(tmp_path / "root")

    def stop(what, done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index(root, tmp_path / "cat", stop)
    assert not (tmp_path / "cat").exists()
    seen = []
    made = index(root, tmp_path / "cat", lambda what, done, total: seen.append(total))
    assert seen == [6] * 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat", "cat.key", "root"]
    whole = index(root, tmp_path / "whole", key=str(tmp_path / "cat.key"))
    for name in catalog.SCHEMAS:
        assert made.table(name).equals(whole.table(name)), name


def test_bounded_workers_read_the_same_headers(made):
    again = index(
        made.root, made.path.with_name("again"), key=str(made.path.with_name("cat.key")), options=IndexOptions(workers=1)
    )
    assert again.clips.equals(made.clips)


def test_a_folder_without_any_such_file_is_refused(tmp_path):
    (tmp_path / "root").mkdir()
    with pytest.raises(UserError, match="holds no DICOM, AVI, MP4 or WFDB"):
        index(tmp_path / "root", tmp_path / "cat")
    with pytest.raises(UserError, match="is not a folder"):
        index(tmp_path / "nowhere", tmp_path / "cat")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_a_look_before_writes_nothing_not_even_a_key(small, tmp_path):
    report = folder.build(folder.Config()).inspect(small, tmp_path / "cat")
    assert (report["parts"], report["unchanged"]) == ({"echo files": 1, "ECG files": 0}, False)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    place = tmp_path_factory.mktemp("forms")
    write_forms(place / "root")
    write_dicom(place / "root" / "echo" / "a.dcm", patient=f"{MARK}-P1", time="20200102101500")
    return index(place / "root", place / "cat")


@pytest.mark.parametrize("name", FORMS)
def test_an_ecg_file_belongs_to_the_patient_that_it_names(forms, name):
    """As the echo's PatientID does: all of these meet it under one subject, and are paired with it by their time."""
    ecg = by_path(forms, "ecgs")[f"ecgs/{name}"]
    clip = by_path(forms)["echo/a.dcm"]
    assert ecg["subject_id"] == clip["subject_id"]
    assert str(ecg["time"]) == "2020-01-01 10:15:30"
    pair = next(row for row in forms.pairs.to_pylist() if row["ecg_id"] == ecg["ecg_id"])
    assert pair["study_id"] == clip["study_id"]
    assert pair["split"] == pairs.split_of(forms.family, ecg["subject_id"])


def test_arrays_are_ecgs_when_a_file_beside_them_says_what_they_hold(forms):
    assert "ecgs/told.npy" in by_path(forms, "ecgs")
    assert splits(forms)[by_path(forms, "ecgs")["ecgs/told.npy"]["subject_id"]] == "none"
    assert "ecgs/untold.npy" not in by_path(forms, "ecgs")


def test_xml_that_is_no_ecg_is_counted_and_left_out(forms):
    assert defects(forms)["files", "not_ecg"] == 1
    assert not any("invoice" in path for path in by_path(forms, "ecgs"))


def test_what_ecg_files_say_of_a_person_is_in_no_file_of_the_catalog(forms):
    for file in forms.path.iterdir():
        text = repr(pq.read_table(file).to_pylist()) if file.suffix == ".parquet" else file.read_text()
        assert MARK not in text
        assert MARK.encode() not in file.read_bytes()


def test_headers_are_told_apart_and_counted(made):
    about = made.meta["headers"]
    assert about["transfer_syntax"] == {"1.2.840.10008.1.2.1 Explicit VR Little Endian": 5, "avi": 1}
    assert about["photometric"] == {"RGB": 5, "-": 1}
    assert about["kind"] == {"b_mode": 5, "still": 1}
    assert "Explicit VR Little Endian 5" in catalog.render(catalog.describe(made))


def test_a_colour_tag_of_no_standard_is_not_repeated(tmp_path):
    write_dicom(tmp_path / "root" / "a.dcm", PhotometricInterpretation=f"{MARK}", StationName=MARK)
    made = index(tmp_path / "root", tmp_path / "cat")
    assert MARK not in (made.path / "catalog.json").read_text()


def test_pseudonymise_names_the_key_and_shifts_the_dates_by_subject(tmp_path):
    root = write_folder(tmp_path / "root")
    plain = index(root, tmp_path / "plain")
    key = str(tmp_path / "plain.key")
    shifted = index(root, tmp_path / "cat", options=IndexOptions(workers=0, pseudonymise=key))
    assert shifted.subjects.equals(plain.subjects)
    one, other = by_path(plain), by_path(shifted)
    shift = other["p1/a.dcm"]["time"] - one["p1/a.dcm"]["time"]
    assert shift.days % 7 == 0
    assert shift.days
    assert other["p1/still.dcm"]["time"] - one["p1/still.dcm"]["time"] == shift
    assert "20200102" not in "".join(path.read_text() for path in shifted.path.glob("*.json*"))
    with pytest.raises(UsageError, match="one key makes all ids"):
        index(root, tmp_path / "two", key=str(tmp_path / "other.key"), options=IndexOptions(workers=0, pseudonymise=key))


def test_another_key_is_refused_in_the_same_place_and_makes_other_ids_in_another(small, tmp_path):
    one = set(index(small, tmp_path / "cat").subjects["subject_id"].to_pylist())
    index(small, tmp_path / "other")
    with pytest.raises(UserError, match="holds pseudonyms of the key"):
        index(small, tmp_path / "cat", key=str(tmp_path / "other.key"))
    again = index(small, tmp_path / "third", key=str(tmp_path / "other.key"))
    assert not one & set(again.subjects["subject_id"].to_pylist())


def test_views_come_from_a_table(small, tmp_path):
    (small / "views.csv").write_text("path,view\np1/a.dcm,A4C\np1/none.dcm,PLAX\n")
    made = index(small, tmp_path / "cat", views="views.csv")
    assert made.clips["view"].to_pylist() == ["A4C"]
    assert defects(made)["views", "not_there"] == 1
    assert index(small, tmp_path / "cat", views="views.csv").unchanged
    (small / "views.csv").write_text("path,view\np1/a.dcm,A2C\n")
    assert index(small, tmp_path / "cat", views="views.csv").clips["view"].to_pylist() == ["A2C"]


@pytest.mark.parametrize("name", [*FORMS, "ecg1.hea"])
def test_a_cut_or_damaged_ecg_file_is_a_defect_and_no_stop(tmp_path, name, recwarn):
    """Without a warning of a library's, which would quote what stands there."""
    write_forms(tmp_path)
    write_ecg(tmp_path / "ecgs" / "ecg1.hea")
    path = tmp_path / "ecgs" / name
    data = path.read_bytes()
    for number in range(40):
        cut, at = len(data) * number // 40, len(data) * number // 41
        path.write_bytes(data[:cut] if number % 2 else data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :])
        with contextlib.suppress(ItemError):
            found = folder.look(str(path))
            assert found["what"] in ("ecg", "echo", "dicomdir")
            assert len(found["patient"]) <= 128
    assert not recwarn.list


def test_folders_behind_links_are_read_once_and_under_their_own_name(tmp_path):
    write_dicom(tmp_path / "disk" / "x" / "b.dcm", patient=f"{MARK}-P2")
    write_dicom(tmp_path / "root" / "p1" / "a.dcm")
    for link, target in (("far", tmp_path / "disk"), ("again", tmp_path / "disk"), ("latest", tmp_path / "root" / "p1")):
        (tmp_path / "root" / link).symlink_to(target)
    (tmp_path / "root" / "p1" / "loop").symlink_to(tmp_path / "root")
    (tmp_path / "disk" / "x" / "loop").symlink_to(tmp_path / "disk")
    (tmp_path / "root" / "gone").symlink_to(tmp_path / "nowhere")
    made = index(tmp_path / "root", tmp_path / "cat")
    assert sorted(by_path(made)) == ["again/x/b.dcm", "p1/a.dcm"]  # not latest/a.dcm: clip ids are of paths
    assert all(made.file(path).is_file() for path in by_path(made))
    assert index(tmp_path / "root", tmp_path / "cat").unchanged


@pytest.mark.parametrize("how", ["access", "scandir"])
def test_a_folder_that_may_not_be_read_is_counted_and_the_others_go_on(tmp_path, monkeypatch, how):
    """Told by access, or (file systems that know more than the modes do) by the listing itself; root may read everything."""
    root = tmp_path / "root"
    for name in ("p1", "p2"):
        write_dicom(root / name / "a.dcm", patient=f"{MARK}-{name}")
    write_dicom(root / ".hidden" / "a.dcm")
    real, closed = getattr(os, how), (str(root / "p1"), str(root / ".hidden"))

    def refuses(place, *more):
        if str(place) in closed:
            if how == "access":
                return False
            raise PermissionError(13, "Permission denied", str(place))
        return real(place, *more)

    with monkeypatch.context() as patched:
        patched.setattr(os, how, refuses)
        made = index(root, tmp_path / "cat")
        assert list(by_path(made)) == ["p2/a.dcm"]
        assert defects(made)["files", "unreadable_folder"] == 1
        assert index(root, tmp_path / "cat").unchanged
        closed = (str(root / "p1"), str(root / "p2"))
        with pytest.raises(UserError, match="holds no DICOM.* 2 of its folders may not be read"):
            index(root, tmp_path / "two")
    again = index(root, tmp_path / "cat")
    assert sorted(by_path(again)) == ["p1/a.dcm", "p2/a.dcm"]
    assert ("files", "unreadable_folder") not in defects(again)


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
def test_a_folder_closed_by_its_mode_is_counted(tmp_path, mode):
    for name in ("p1", "p2"):
        write_dicom(tmp_path / "root" / name / "a.dcm", patient=f"{MARK}-{name}")
    (tmp_path / "root" / "p1").chmod(mode)
    try:
        if os.access(tmp_path / "root" / "p1", os.R_OK | os.X_OK):
            pytest.skip("root may read everything")
        assert defects(index(tmp_path / "root", tmp_path / "cat"))["files", "unreadable_folder"] == 1
    finally:
        (tmp_path / "root" / "p1").chmod(0o755)


def test_a_catalog_behind_a_link_is_not_indexed(tmp_path):
    write_dicom(tmp_path / "root" / "a.dcm")
    (tmp_path / "root" / "up").symlink_to(tmp_path)
    made = index(tmp_path / "root", tmp_path / "cat")
    assert index(tmp_path / "root", tmp_path / "cat").unchanged
    assert list(by_path(made)) == ["a.dcm"]
    assert ("files", "not_indexed") not in defects(made)  # the key is the catalog's own


@pytest.mark.parametrize(
    ("given", "meant", "code"),
    [
        ({"time": "20200101143000.25-0500"}, "2020-01-01 14:30:00", None),
        ({"time": "20200101143000-0500"}, "2020-01-01 14:30:00", None),
        ({"time": "202001011430"}, "2020-01-01 14:30:00", None),
        ({"time": "202001011430+0100"}, "2020-01-01 14:30:00", None),
        ({"time": "2020123114"}, "2020-12-31 14:00:00", None),
        ({"time": "", "StudyDate": "20200101", "StudyTime": "1430"}, "2020-01-01 14:30:00", None),
        ({"time": "", "StudyDate": "20200101", "StudyTime": "143015.5"}, "2020-01-01 14:30:15", None),
        ({"time": "", "StudyDate": "20200101", "StudyTime": ""}, "2020-01-01 00:00:00", "time_of_day_missing"),
        ({"time": "20200101256100"}, "2020-01-01 00:00:00", "time_of_day_missing"),
        ({"time": "", "StudyDate": "20201301", "StudyTime": "1430"}, "None", "time_unreadable"),
        ({"time": "", "StudyDate": "00010101", "StudyTime": "1430"}, "None", "time_unreadable"),
        ({"time": "", "StudyDate": "", "StudyTime": ""}, "None", "time_missing"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_the_time_of_day_is_kept_or_its_loss_counted(tmp_path, given, meant, code):
    write_dicom(tmp_path / "root" / "a.dcm", **given)
    made = index(tmp_path / "root", tmp_path / "cat")
    assert str(by_path(made)["a.dcm"]["time"]) == meant
    assert {what for _, what in defects(made) if what.startswith("time_")} == ({code} if code else set())


@pytest.mark.parametrize(
    ("value", "meant"), [("202012311430", "20201231143000"), ("20201231", "20201231"), ("2020123114", "20201231140000")]
)
def test_a_short_time_of_an_aecg_is_no_other_time(tmp_path, value, meant):
    """strptime alone reads the minutes 30 as 3 and the seconds 0."""
    write_forms(tmp_path)
    path = next((tmp_path / "ecgs").glob("*aecg*"))
    text = path.read_text()
    assert "20200101101530" in text
    path.write_text(re.sub(r"20200101101530[^\"]*", value, text))
    assert folder.look(str(path))["time"] == meant


NOBODY = ["00000000", "DEIDENTIFIED", "de-identified", "ANONYMOUS^", "anonymized^^", "REMOVED", "XXXX", "9999999", "0", "--"]
SOMEBODY = ["7", "Q", "AB", "11", "ANON0017", "test-2", "patient01", "100", "0000012", "Anna"]


@pytest.mark.parametrize("word", [*NOBODY, "No ID", " Not available ", ""])
def test_a_word_for_everyone_is_no_subject(word):
    assert _private.subject_of(keys.Key(key=b"k" * 16), word) == ""


def test_whoever_has_a_number_is_somebody():
    key = keys.Key(key=b"k" * 16)
    assert len({_private.subject_of(key, word) for word in SOMEBODY} - {""}) == len(SOMEBODY)


def test_a_table_of_views_is_one_s_own(small, tmp_path):
    path = tmp_path / "views.csv"
    for text, words in (("path;view\nx;y\n", "Save it separated by ','"), ("path,view\na\\b.dcm,A4C\n", "write / in paths")):
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            index(small, tmp_path / "cat", views=str(path))
    path.write_text("path,view\n")
    assert defects(index(small, tmp_path / "cat", views=str(path)))["views", "no_rows"] == 1


def test_placeholders_are_unknown_subjects_of_their_own(tmp_path):
    for row, word in enumerate(NOBODY):
        write_dicom(tmp_path / "root" / f"{row}.dcm", patient=word, study=f"1.2.826.{row + 1}")
    made = index(tmp_path / "root", tmp_path / "cat")
    assert len(splits(made)) == len(NOBODY)
    assert set(splits(made).values()) == {"none"}


@pytest.mark.parametrize("settings", [{}, {"subject": "top_folder"}])
def test_a_number_with_zeros_before_it_is_the_same_person(tmp_path, settings):
    for word in ("000012345", "12345", "0A1", "A1"):
        write_dicom(tmp_path / "root" / word / "x.dcm", patient=word, study=f"1.2.826.{word.strip('0A')}{len(word)}")
    made = index(tmp_path / "root", tmp_path / "cat", **settings)
    assert made.subjects.num_rows == 3
    assert defects(made)["subjects", "leading_zeros"] == 1


def test_an_id_with_more_studies_than_a_patient_has_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(_private, "MANY_STUDIES", 2)
    for row in range(3):
        write_dicom(tmp_path / "root" / f"{row}.dcm", patient="SEQ-1", study=f"1.2.826.{row + 1}")
    write_dicom(tmp_path / "root" / "other.dcm", patient="SEQ-2", study="1.2.826.9")
    assert defects(index(tmp_path / "root", tmp_path / "cat"))["subjects", "crowded_id"] == 1


def test_two_views_of_one_path_are_refused_and_a_repeat_is_counted(small, tmp_path):
    (small / "views.csv").write_text("path,view\np1/a.dcm,A4C\np1/b.dcm,A4C\np1/a.dcm,A2C\n")
    with pytest.raises(UserError, match=r"views.csv: data rows 1 and 3 give one path two views; keep the right one"):
        index(small, tmp_path / "cat", views="views.csv")
    (small / "views.csv").write_text("path,view\np1/a.dcm,A4C\np1/a.dcm,A4C\n")
    assert defects(index(small, tmp_path / "cat", views="views.csv"))["views", "row_twice"] == 1
