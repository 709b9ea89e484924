"""PTB-XL 1.0.1 to 1.0.3: 21,799 (before 1.0.3: 21,837) twelve-lead ECGs of 10 s with 71 statements and reports; no echo.

On disk: ptbxl_database.csv (28 columns), scp_statements.csv, records500/NNNNN/NNNNN_hr.{hea,dat}, records100/.../NNNNN_lr.*.
The leads are named in capitals there (AVR). Which version it is, is told by the number of rows of ptbxl_database.csv, by the
number of records in RECORDS and by ptbxl_v103_changelog.txt, as far as they are there; where they disagree, two versions are
mixed and the root is refused. 1.0.2 is told from 1.0.1 by its own changelog. 1.0.3 left out 38 copies and changed some labels.

Labels, 1 and 0: `ptbxl.<set>.<code>` for the sets all (71 statements), diagnostic (44), form (19), rhythm (12), and
`ptbxl.subclass.<name>` (23), `ptbxl.superclass.<name>` (5) by scp_statements.csv. A statement counts with any likelihood; 0
means that none was given, not that it is absent (most of form and rhythm have 0). With `--set min_likelihood=50` a
statement that was graded below 50 is neither 1 nor 0: no row. A record has rows in a set when it has any statement of that
set (in `all`: any statement), as in the literature (superclass: 21,388 records of 1.0.3); one without is not known to be
healthy there. `ptbxl.quality.<column>`: 1 where the technical annotator noted anything, 0 where nothing.
`ptbxl.validated_by_human`. `age_years`.

An ECG is named as the Challenges name it, HR00001 for ecg_id 1: a bare number would also be a recording of other datasets.

Reports are texts of source `report` as devices and cardiologists wrote them: mostly German, many English, few Swedish; some
end in the middle of a word.

Split: official, strat_fold 1-8 train, 9 val, 10 test, by patient; folds 9 and 10 were validated by humans. A patient in two
folds is refused. Leakage: Challenge 2020 and 2021 hold all of 1.0.1 as HR00001.. (= ecg_id) without its patients and folds
(family "cinc", see _snomed.py), so what was trained on them has seen the test fold. ESI was pretrained on folds 1-8.

Sex 0 is male, 1 female. Age 300 means above 89: no age. Dates are shifted by patient, so only differences mean anything.

Access: open, PhysioNet ptb-xl 1.0.3, CC BY 4.0. Never run on the real files; the layout of the cells is that of public
extracts of ptbxl_database.csv, and scp_statements.csv that of a public copy. UNVERIFIED: that the folds are the same in all
versions; whether a report holds a line break (read either way); from which age on 300 stands (one extract has 92).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgecho.catalog import subject_tag
from ecgecho.datasets._columns import people, yes_or_no
from ecgecho.datasets._indexing import Indexed, Reading, Spec, Tables
from ecgecho.datasets._tables import label_rows, require, stream_table
from ecgecho.types import UsageError

DATASET = "ptb_xl"
QUALITY = ("baseline_drift", "static_noise", "burst_noise", "electrodes_problems", "extra_beats", "pacemaker")
COLUMNS = (
    "ecg_id", "patient_id", "age", "sex", "recording_date", "report", "scp_codes", "validated_by_human", *QUALITY, "strat_fold",
    "filename_lr", "filename_hr",
)  # fmt: skip
STATEMENTS = ("", "diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass")
ROWS = {21_837: "1.0.1 or 1.0.2", 21_799: "1.0.3"}
"""Records of a version; 1.0.3 left out 38 copies."""
OLD = ROWS[21_837]
CHANGELOG = "ptbxl_v103_changelog.txt"
OLD_CHANGELOG = "ptbxl_v102_changelog.txt"
"""In 1.0.2 and 1.0.3."""
COPIES = 38
FILES = {500: "filename_hr", 100: "filename_lr"}
SETS = ("all", "diagnostic", "form", "rhythm", "subclass", "superclass")
SPLIT_OF_FOLD = {**{str(fold): "train" for fold in range(1, 9)}, "9": "val", "10": "test"}
ABOVE_89 = 300.0
MAX_AGE = 120.0
MAX_CELL = 2_000
_NAMED_CODES = 60
_WHOLE = r"^\d+(\.0+)?$"
_ENTRY = r"(?:'([^'\\]{1,16})'|\"([^\"\\]{1,16})\")\s*:\s*(\d{1,3}(?:\.\d{1,6})?)"
_DICT = re.compile(r"^\{\s*(?:" + _ENTRY + r"(?:\s*,\s*(?!\})|\s*(?=\})))*\}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the index."""

    rate: Literal[500, 100] = 500
    """Hz: records500 or records100."""
    min_likelihood: float = 0.0
    """A statement graded below this is neither 1 nor 0; one without a grade (0.0) counts always."""

    def __post_init__(self) -> None:
        if self.rate not in FILES:
            raise UsageError(f"rate is {self.rate}; PTB-XL has 500 and 100.")
        if not 0 <= self.min_likelihood <= 100:
            raise UsageError(f"min_likelihood is {self.min_likelihood}; it is a percentage from 0 to 100.")


def build(config: Config) -> Indexed:
    """The dataset for these settings."""
    return Indexed(spec=SPEC, config=config)


def read(reading: Reading) -> Tables:
    """All records of ptbxl_database.csv."""
    place = reading.parts["records"]
    rows = pa.concat_tables(list(stream_table(place, COLUMNS)))
    rows = reading.once("records", require(rows, ("ecg_id", "patient_id", "strat_fold"), place), "ecg_id")
    version = _version(reading, rows.num_rows)
    source = f"PTB-XL {version}"
    number, patient = (_whole(reading, rows, column) for column in ("ecg_id", "patient_id"))
    ecg_id = pc.binary_join_element_wise("HR", pc.utf8_lpad(number, 5, "0"), "")
    subject = pc.binary_join_element_wise("ptbxl", patient, "-")
    time = reading.times("records", "recording_date", rows["recording_date"])
    paths = _paths(reading, rows)
    report = pa.table(
        {
            "text_id": pc.binary_join_element_wise("report", ecg_id, "-"),
            "subject_id": subject,
            "ecg_id": ecg_id,
            "time": time,
            "source": pa.repeat("report", rows.num_rows),
            "text": rows["report"],
        }
    )
    reading.defect("records", "report_empty", "no text", rows["report"].null_count)
    age = _ages(reading, rows["age"])
    ids = {"subject_id": subject, "ecg_id": ecg_id, "time": time}
    labels = [
        label_rows("age_years", age, unit="year", source=source, definition="column age; above 89 not known", **ids),
        *_statements(reading, rows["scp_codes"], ids, source),
        *_quality(reading, rows, ids, source),
    ]
    return Tables(
        ecgs=pa.table({"ecg_id": ecg_id, "subject_id": subject, "path": paths, "time": time}),
        texts=report.filter(pc.is_valid(report["text"])),
        labels=labels,
        people=_people(reading, rows["sex"], subject, time, age),
        official=_official(reading, rows, subject),
    )


def parse_codes(cell: str | None) -> dict[str, float] | None:
    """`{'NORM': 100.0, 'SR': 0.0}` -> statement -> likelihood; None where it is anything else, or a likelihood is above 100.

    Our own grammar, a part of Python's: names of at most 16 characters and plain numbers.
    """
    if cell is None or len(cell) > MAX_CELL or not _DICT.match(cell.strip()):
        return None
    made: dict[str, float] = {}
    for single, double, number in re.findall(_ENTRY, cell):
        if (single or double) in made or float(number) > 100:
            return None
        made[single or double] = float(number)
    return made


def _statements(reading: Reading, cells: pa.ChunkedArray, ids: Mapping[str, pa.ChunkedArray], source: str) -> list[pa.Table]:
    """Labels of the six sets."""
    groups = _groups(reading)
    parsed = [parse_codes(cell) for cell in cells.to_pylist()]
    bad = sum(codes is None for codes in parsed)
    reading.defect("scp_codes", "scp_codes_unreadable", "no list of statements; no labels", bad)
    reading.defect("scp_codes", "scp_codes_empty", "no statement; no labels", sum(codes == {} for codes in parsed))
    unknown = Counter(code for codes in parsed for code in codes or () if code not in groups["all"])
    for code, count in unknown.most_common(_NAMED_CODES):
        reading.defect("scp_codes", "code_unknown", f"{code!r} is not in scp_statements.csv; no label of it", count)
    least = reading.config.min_likelihood
    doubted = sum(0 < likelihood < least for codes in parsed for likelihood in (codes or {}).values())
    reading.defect("scp_codes", "below_min_likelihood", f"graded below {least:g}; neither 1 nor 0", doubted)
    made = []
    for name in SETS:
        class_of = groups[name]
        classes = sorted(set(class_of.values()))
        place = {word: k for k, word in enumerate(classes)}
        value = np.zeros((len(parsed), len(classes)))
        known = np.zeros(len(parsed), bool)
        for row, codes in enumerate(parsed):
            known[row] = bool(codes) if name == "all" else any(code in class_of for code in codes or ())
            for code, likelihood in (codes or {}).items():
                if (word := class_of.get(code)) is None:
                    continue
                if likelihood == 0 or likelihood >= least:
                    value[row, place[word]] = 1
                elif value[row, place[word]] == 0:
                    value[row, place[word]] = np.nan  # a surer statement of the same class goes before it
        rows = pa.array(np.flatnonzero(known))
        whose = {key: column.combine_chunks().take(rows) for key, column in ids.items()}
        for word in classes:
            column = pa.array(value[known, place[word]], from_pandas=True)  # NaN becomes null: no row
            made.append(
                label_rows(
                    f"ptbxl.{name}.{word}",
                    column,
                    unit=None,
                    source=source,
                    definition=_definition(name, word, class_of, least),
                    **whose,
                )
            )
        reading.defect("scp_codes", "not_assessed", f"no statement of the set {name}", len(parsed) - int(known.sum()))
    return made


def _definition(name: str, word: str, class_of: Mapping[str, str], least: float) -> str:
    codes = sorted(code for code, of in class_of.items() if of == word)
    of = "" if codes == [word] else f" ({', '.join(codes[:20])}{', ...' if len(codes) > 20 else ''})"
    graded = "any likelihood" if least == 0 else f"likelihood 0 (not graded) or from {least:g} on"
    return f"1 where scp_codes has {word}{of} with {graded}, 0 where it has other statements of the set {name}"


def _groups(reading: Reading) -> dict[str, dict[str, str]]:
    """Set -> statement -> class."""
    place = reading.parts["statements"]
    rows = reading.once("statements", require(reading.table("statements", STATEMENTS), ("",), place), "")
    made: dict[str, dict[str, str]] = {name: {} for name in SETS}
    columns = [rows[name].to_pylist() for name in STATEMENTS]
    for code, diagnostic, form, rhythm, superclass, subclass in zip(*columns, strict=True):
        made["all"][code] = code
        for name, flag in (("diagnostic", diagnostic), ("form", form), ("rhythm", rhythm)):
            if flag in ("1", "1.0"):
                made[name][code] = code
            elif flag not in (None, "0", "0.0"):
                raise reading.refuse(f"{place.name} has {name} = {flag!r}; it must be 1.0 or empty. Fetch it again.")
        if diagnostic in ("1", "1.0"):
            if superclass is None:
                raise reading.refuse(f"{place.name}: the diagnostic statement {code} has no diagnostic_class. Fetch it again.")
            made["superclass"][code] = superclass
            if subclass is not None:
                made["subclass"][code] = subclass
    return made


def _quality(reading: Reading, rows: pa.Table, ids: Mapping[str, pa.ChunkedArray], source: str) -> list[pa.Table]:
    human = yes_or_no(reading, "records", "validated_by_human", rows["validated_by_human"])
    name = "ptbxl.validated_by_human"
    made = [label_rows(name, human, unit=None, source=source, definition="column validated_by_human", **ids)]
    for column in QUALITY:
        noted = pc.is_valid(rows[column])
        reading.defect("signals", column, "noted by the annotator", pc.sum(noted).as_py() or 0)
        definition = f"1 where the column {column} holds a note, 0 where it is empty"
        made.append(
            label_rows(f"ptbxl.quality.{column}", noted.cast(pa.int8()), unit=None, source=source, definition=definition, **ids)
        )
    return made


def _version(reading: Reading, num_rows: int) -> str:
    """What the table, RECORDS and the changelog say of the version; a contradiction is refused."""
    folder = reading.parts["records"].parent
    said: dict[str, str] = {}
    if num_rows in ROWS:
        said[f"{reading.parts['records'].name} with {num_rows:,} rows"] = ROWS[num_rows]
    listed = _listed_records(folder / "RECORDS")
    if listed in ROWS:
        said[f"RECORDS with {listed:,} records"] = ROWS[listed]
    if (folder / CHANGELOG).is_file():
        said[CHANGELOG] = "1.0.3"
    versions = set(said.values())
    if len(versions) > 1:
        raise reading.refuse(
            f"two versions of PTB-XL are mixed: {'; '.join(f'{what} is of {of}' for what, of in said.items())}. Keep one."
        )
    version = next(iter(versions), "of an unknown version")
    if num_rows not in ROWS:
        reading.defect("records", "part_of_a_version", f"{num_rows:,} rows are those of no version", 1)
    if version == OLD:
        reading.defect("records", "copies", "records that 1.0.3 left out as copies of others, in here", COPIES)
        version = "1.0.2" if (folder / OLD_CHANGELOG).is_file() else version
    reading.about["dataset_version"] = version
    return version


def _listed_records(path: Path) -> int:
    """Distinct records that RECORDS names; each stands there at 100 and at 500 Hz."""
    try:
        if path.stat().st_size > 1 << 24:
            return 0
        lines = path.read_text(encoding="latin-1").split()
    except OSError:
        return 0
    return len({re.sub(r"_[lh]r$", "", line.rpartition("/")[2]) for line in lines})


def _whole(reading: Reading, rows: pa.Table, column: str) -> pa.ChunkedArray:
    """Whole numbers as text; 15709.0, as the file writes them, is 15709."""
    good = pc.match_substring_regex(rows[column], _WHOLE)
    if (row := int(pc.index(good, False).as_py())) >= 0:
        raise reading.refuse(
            f"{reading.parts['records'].name}: {column} in data row {row + 1} is no whole number. Fetch it again."
        )
    return pc.replace_substring_regex(rows[column], r"\.0+$", "")


def _paths(reading: Reading, rows: pa.Table) -> pa.ChunkedArray:
    column, folder = FILES[reading.config.rate], reading.parts["records"].parent
    require(rows, (column,), reading.parts["records"])
    other = 100 if reading.config.rate == 500 else 500
    if not (folder / f"records{reading.config.rate}").is_dir() and (folder / f"records{other}").is_dir():
        raise reading.refuse(f"there are records{other} and no records{reading.config.rate}; index with --set rate={other}.")
    paths = reading.below("records", rows[column])
    for suffix in (".hea", ".dat"):
        reading.sample(f"signals {suffix}", paths, suffix)
    return paths


def _ages(reading: Reading, text: pa.ChunkedArray) -> pa.ChunkedArray:
    made = reading.numbers("records", "age", text)
    old = pc.fill_null(pc.equal(made, ABOVE_89), False)
    reading.defect("records", "age_above_89", "written as 300; no age", pc.sum(old).as_py() or 0)
    reading.defect("records", "age_missing", "age is empty", text.null_count)
    return reading.within("records", "age", pc.if_else(old, pa.scalar(None, pa.float64()), made), 0, MAX_AGE)


def _people(
    reading: Reading, sex: pa.ChunkedArray, subject: pa.ChunkedArray, time: pa.ChunkedArray, age: pa.ChunkedArray
) -> pa.Table:
    """Sex, and the year of birth in the shifted calendar of the patient: the earliest that one of the records allows."""
    words = {"0": "male", "0.0": "male", "1": "female", "1.0": "female"}
    found = people(reading, "records", subject, sex, words)
    born = pc.subtract(pc.year(time).cast(pa.float64()), pc.floor(age))
    first = pa.table({"subject_id": subject, "born": born}).group_by("subject_id", use_threads=False).aggregate([("born", "min")])
    row = pc.index_in(found["subject_id"].combine_chunks(), value_set=first["subject_id"].combine_chunks())
    return found.append_column("birth_year", first["born_min"].combine_chunks().take(row).cast(pa.int32()))


def _official(reading: Reading, rows: pa.Table, subject: pa.ChunkedArray) -> pa.Table:
    """The split of every patient by strat_fold."""
    folds = _whole(reading, rows, "strat_fold").to_pylist()
    seen: dict[str, str] = {}
    for patient, fold in zip(subject.to_pylist(), folds, strict=True):
        if fold not in SPLIT_OF_FOLD:
            raise reading.refuse(f"strat_fold is {fold}; it must be 1 to 10. Fetch {reading.parts['records'].name} again.")
        if seen.setdefault(patient, fold) != fold:
            raise reading.refuse(
                f"patient {subject_tag(patient)} is in the folds {seen[patient]} and {fold}; that leaks. "
                f"Fetch {reading.parts['records'].name} again."
            )
    return pa.table({"subject_id": subject, "split": _splits(folds)})


def _splits(folds: Sequence[str]) -> pa.Array:
    return pa.array([SPLIT_OF_FOLD[fold] for fold in folds], pa.string())


def _witnesses(reading: Reading) -> list[str]:
    folder = reading.parts["records"].parent.relative_to(reading.root)
    return [(folder / name).as_posix() for name in ("RECORDS", CHANGELOG, OLD_CHANGELOG)]


SPEC = Spec(
    name=DATASET,
    version=1,
    parts={"records": ("ptbxl_database.csv",), "statements": ("scp_statements.csv",)},
    needs=("records", "statements"),
    read=read,
    listed=_witnesses,
)
