"""What Chapman-Shaoxing-Ningbo, CPSC2018 and Georgia share: WFDB headers whose comments hold age, sex and SNOMED-CT codes.

`#Age: 74`, `#Sex: Male`, `#Dx: 164889003,59118001`. Codes are compared as whole tokens, never as substrings: MERL's published
38-class csv files of Chapman were made with substrings, and 16.6 % of their records have a wrong label.

Family "cinc". Challenge 2021 holds all of PTB-XL 1.0.1 (HR00001.. = ecg_id), CPSC2018 (the same bytes), Chapman-Shaoxing-Ningbo
and Georgia, and Challenge 2020 a part of it. Subjects of all of them are named alike, so that nobody is in two splits:
a record's name where one record is one patient (A0001, JS00001, E00001), `ptbxl-<patient_id>` in PTB-XL. PTB-XL's official
folds go before the hash, so a catalog of Challenge records of one's own must name its HR records `ptbxl-<patient_id>` (by
ptbxl_database.csv) and take their split from strat_fold: `pairs.check_together` then refuses two catalogs that disagree, and
cannot see that HR00001 and a patient of PTB-XL are one.

Records whose signals have the same checksums (copies inside Chapman-Shaoxing-Ningbo are known) become one subject, named
after the first: they stay, but never in two splits.

A class has rows for the records of a cohort only where one of its records has that class: the cohorts were annotated with
different lists of codes, and the absence of a code that nobody there could give says nothing.

The date on some record lines (05-Feb-2020) is that of the conversion: records have no time.

Sources: header(5); the Challenge's evaluation-2021, dx_mapping_scored.csv (30 codes, 4 pairs scored as one).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgecho.datasets._indexing import Reading
from ecgecho.datasets._tables import label_rows
from ecgecho.io import wfdb
from ecgecho.io.files import read_bytes
from ecgecho.io.leads import canonical_lead
from ecgecho.types import STANDARD_LEADS, ItemError, Json

SCORED: dict[str, str] = {
    "164889003": "AF",
    "164890007": "AFL",
    "6374002": "BBB",
    "426627000": "Brady",
    "733534002": "CLBBB",
    "713427006": "CRBBB",
    "270492004": "IAVB",
    "713426002": "IRBBB",
    "39732003": "LAD",
    "445118002": "LAnFB",
    "164909002": "LBBB",
    "251146004": "LQRSV",
    "698252002": "NSIVCB",
    "426783006": "NSR",
    "284470004": "PAC",
    "10370003": "PR",
    "365413008": "PRWP",
    "427172004": "PVC",
    "164947007": "LPR",
    "111975006": "LQT",
    "164917005": "QAb",
    "47665007": "RAD",
    "59118001": "RBBB",
    "427393009": "SA",
    "426177001": "SB",
    "427084000": "STach",
    "63593006": "SVPB",
    "164934002": "TAb",
    "59931005": "TInv",
    "17338001": "VPB",
}
"""The codes that Challenge 2021 scored, with its abbreviations: AF is fibrillation here, in Chapman's own list it is flutter."""

SAME: dict[str, str] = {"733534002": "164909002", "713427006": "59118001", "63593006": "284470004", "17338001": "427172004"}
"""Scored as one: CLBBB as LBBB, CRBBB as RBBB, SVPB as PAC, VPB as PVC."""

MAPPING = {"scored codes": ("dx_mapping_scored.csv",), "unscored codes": ("dx_mapping_unscored.csv",)}
"""Parts that may be put into the root: the Challenge's tables; what they say goes before `SCORED`."""
MAPPING_MEANING = {
    "scored codes": "the built-in list of the 30 scored codes is used",
    "unscored codes": "further codes (LVH, MI, ...) have no name and no labels",
}

MAX_HEADER_BYTES = 1 << 16
MAX_CODES = 64
MAX_AGE = 120.0
MIN_CHECKSUMS = 4
"""Leads with a checksum that is not 0, from which on equal checksums mean the same recording; flat records have none."""
_NAMED_CODES = 60
_COMMENT = re.compile(r"^#\s*(Age|Sex|Dx)\s*:\s*(.*?)\s*$", re.IGNORECASE)
_CODE = re.compile(r"^\d{6,18}$")
_SEX = {"male": "male", "m": "male", "female": "female", "f": "female"}
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Records of one dataset, sorted by name. Arrays have N entries."""

    name: list[str]
    path: list[str]
    """Of the header without .hea, below the root."""
    subject: list[str]
    codes: list[tuple[str, ...]]
    """Tokens of #Dx without repeats."""
    age: pa.ChunkedArray
    """Years."""
    sex: list[str | None]

    @property
    def ecgs(self) -> pa.Table:
        return pa.table({"ecg_id": self.name, "subject_id": self.subject, "path": self.path})

    def ids(self, rows: npt.NDArray[np.int64]) -> dict[str, pa.Array]:
        """Whose and which the records `rows` are."""
        at = pa.array(rows)
        return {"subject_id": pa.array(self.subject, pa.string()).take(at), "ecg_id": pa.array(self.name, pa.string()).take(at)}

    def with_codes(self, codes: list[tuple[str, ...]]) -> Records:
        """The same records with other diagnoses."""
        return replace(self, codes=codes)

    @property
    def people(self) -> pa.Table:
        first: dict[str, str | None] = {}
        for subject, sex in zip(self.subject, self.sex, strict=True):
            first.setdefault(subject, sex)
        return pa.table({"subject_id": list(first), "sex": pa.array(first.values(), pa.string())})


def look(path: str) -> Json:
    """What a header says; refuses one that `io.read_ecg` would refuse too."""
    file = Path(path)
    text = read_bytes(file, most=MAX_HEADER_BYTES).decode("latin-1")
    try:
        header = wfdb.parse_header(text, file.name)
    except (ValueError, OverflowError) as error:
        if isinstance(error, ItemError):
            raise
        raise ItemError("damaged_header", f"{file.name}: {type(error).__name__} in a number") from error
    said: dict[str, str] = {}
    for line in text.splitlines():
        if match := _COMMENT.match(line.strip()):
            key = match[1].lower()
            if said.setdefault(key, match[2]) != match[2]:
                raise ItemError("damaged_header", f"{file.name} says {key} twice")
    codes = [token for token in (part.strip() for part in said.get("dx", "").split(",")) if token]
    if len(codes) > MAX_CODES or any(len(code) > 32 for code in codes):
        raise ItemError("damaged_header", f"{file.name}: a list of diagnoses that no record has")
    checksums = [signal.checksum or 0 for signal in header.signals]
    return {
        "files": sorted({signal.file for signal in header.signals}),
        "seconds": header.num_samples / header.fs_hz,
        "checksums": f"{header.num_samples}:{','.join(map(str, checksums))}"
        if sum(map(bool, checksums)) >= MIN_CHECKSUMS
        else "",
        "twelve": _are_standard(tuple(signal.name for signal in header.signals)),
        "named": (text.split(maxsplit=1) or [""])[0].removesuffix(".mat") == file.stem,
        "defects": list(header.defects),
        "age": said.get("age", "")[:16],
        "sex": _SEX.get(said.get("sex", "").lower(), ""),
        "codes": codes,
    }


def records(reading: Reading, parts: Sequence[str], name: re.Pattern[str], seconds: tuple[float, float]) -> Records:
    """The records of all headers below `parts` whose name, as a whole, matches; group 1 or all of it is the record's id."""
    walked = list(dict.fromkeys(path for part in parts for path in reading.walk(part, (".hea", ".mat"))))
    there = set(walked)
    headers: dict[str, str] = {}
    for path in walked:
        stem, dot, ending = PurePosixPath(path).name.rpartition(".")
        match = name.fullmatch(stem) if dot and ending.lower() == "hea" else None
        if match is None:
            continue
        record = canonical_name(stem)
        if record in headers:
            raise reading.refuse(f"the record {record} is there twice, {headers[record]} and {path}. Keep one copy.")
        headers[record] = path
    reading.defect("headers", "other_headers", "not of this dataset by their names", _count(walked, ".hea") - len(headers))
    seen = reading.scan("headers", [headers[record] for record in sorted(headers)], look)
    kept: list[tuple[str, str, Json]] = []
    absent = 0
    for record, path in sorted(headers.items()):
        if (found := seen.get(path)) is None:
            continue
        folder = path.rpartition("/")[0]
        if all((f"{folder}/{file}" if folder else file) in there for file in found["files"]):
            kept.append((record, path[: -len(".hea")], found))
        else:
            absent += 1
    reading.defect("signals", "missing_file", "header without its file of signals; left out", absent)
    _tell(reading, [found for _, _, found in kept], seconds)
    return Records(
        name=[record for record, _, _ in kept],
        path=[path for _, path, _ in kept],
        subject=_subjects(reading, kept),
        codes=[tuple(dict.fromkeys(found["codes"])) for _, _, found in kept],
        age=ages(reading, [found["age"] for _, _, found in kept]),
        sex=[found["sex"] or None for _, _, found in kept],
    )


def canonical_name(stem: str) -> str:
    """The record of a header: Challenge 2021 has S23074.hea where everyone else, and its own signal file, say JS23074."""
    return "JS23074" if stem == "S23074" else stem


def listed(parts: Sequence[str]) -> Callable[[Reading], list[str]]:
    """For `Spec.listed`: all headers and signal files below those of `parts` that are there."""

    def files(reading: Reading) -> list[str]:
        return sorted(
            {path for part in parts if part in reading.parts for path in reading.walk(part, (".hea", ".mat", ".csv", ".csv.gz"))}
        )

    return files


def ages(reading: Reading, texts: Sequence[str]) -> pa.ChunkedArray:
    """Years; NaN, an empty field and -1 are no age."""
    missing = [text.lower() in ("", "nan", "unknown") for text in texts]
    reading.defect("headers", "age_missing", "#Age is empty or NaN", sum(missing))
    words = pa.array([None if none else text for text, none in zip(texts, missing, strict=True)], pa.string())
    made = reading.numbers("headers", "#Age", pa.chunked_array([words]))
    return reading.within("headers", "#Age", made, 0, MAX_AGE, sentinels=(-1.0,))


def age_labels(found: Records, source: str) -> pa.Table:
    """`age_years` of every record that says it."""
    return label_rows(
        "age_years",
        found.age,
        unit="year",
        source=source,
        definition="#Age of the header",
        **found.ids(np.arange(len(found.name))),
    )


def assessed(reading: Reading, found: Records) -> Mask:
    """(N,) records with diagnoses, all of which are codes."""
    none = np.array([not codes for codes in found.codes], bool)
    odd = np.array([any(not _CODE.match(code) for code in codes) for codes in found.codes], bool)
    reading.defect("labels", "dx_empty", "#Dx is empty or missing; no labels", int(none.sum()))
    reading.defect("labels", "dx_not_a_code", "#Dx holds a word that is no SNOMED-CT code; no labels", int(odd.sum()))
    valid: Mask = ~(none | odd)
    return valid


def challenge_names(reading: Reading) -> dict[str, str]:
    """Code -> abbreviation of the Challenge: built in, and from its tables where they are in the root."""
    names = dict(SCORED)
    for part in MAPPING:
        if part in reading.parts:
            table = reading.table(part, ("SNOMEDCTCode", "Abbreviation"), ("Dx",))
            names.update(_codes(reading, part, table, "SNOMEDCTCode", "Abbreviation"))
    return names


def condition_names(reading: Reading, part: str) -> dict[str, str]:
    """Code -> acronyms of a dataset's own list, several joined by +, as they stand there."""
    table = reading.table(part, ("Snomed_CT", "Acronym Name"), ("Full Name",))
    return _codes(reading, part, table, "Snomed_CT", "Acronym Name")


def classes_of(names: Mapping[str, str], same: Mapping[str, str]) -> dict[str, list[str]]:
    """Class -> its codes; codes that count as the same go under the name of the one they count as."""
    made: dict[str, list[str]] = {}
    for code, name in names.items():
        made.setdefault(names.get(same.get(code, code), name), []).append(code)
    return made


def labels(
    found: Records, set_name: str, classes: Mapping[str, Sequence[str]], valid: Mask, cohort: Sequence[str], source: str
) -> list[pa.Table]:
    """`<set_name>.<class>`, 1 or 0, for the assessed records of every cohort in which the class occurs."""
    holders: dict[str, list[int]] = {}
    for row, codes in enumerate(found.codes):
        for code in codes:
            holders.setdefault(code, []).append(row)
    cohorts, of = np.unique(np.array(cohort, dtype=str), return_inverse=True) if len(cohort) else (np.zeros(0), np.zeros(0, int))
    made = []
    for name, meant in sorted(classes.items()):
        value = np.zeros(len(found.name), np.float64)
        for code in meant:
            value[holders.get(code, [])] = 1
        uses = np.bincount(of[(value == 1) & valid], minlength=len(cohorts)) > 0
        rows = np.flatnonzero(valid & uses[of]) if len(cohorts) else np.zeros(0, np.int64)
        if len(rows):
            definition = f"1 where #Dx holds SNOMED-CT {' or '.join(meant)}, else 0"
            made.append(
                label_rows(f"{set_name}.{name}", value[rows], unit=None, source=source, definition=definition, **found.ids(rows))
            )
    return made


def tell_unknown(reading: Reading, found: Records, known: Mapping[str, object]) -> None:
    """A row of defects for every code that has no name."""
    number = Counter(code for codes in found.codes for code in codes if _CODE.match(code) and code not in known)
    for code, count in number.most_common(_NAMED_CODES):
        reading.defect("labels", "code_unknown", f"SNOMED-CT {code} has no name here; no label of it", count)
    reading.defect(
        "labels", "code_unknown", "further codes", sum(number.values()) - sum(n for _, n in number.most_common(_NAMED_CODES))
    )


@lru_cache(maxsize=64)
def _are_standard(names: tuple[str, ...]) -> bool:
    return sorted(canonical_lead(name) for name in names) == sorted(STANDARD_LEADS)


def _codes(reading: Reading, part: str, table: pa.Table, code: str, name: str) -> dict[str, str]:
    made: dict[str, list[str]] = {}
    wrong = 0
    for text, word in zip(table[code].to_pylist(), table[name].to_pylist(), strict=True):
        number = (text or "").removesuffix(".0")
        if not _CODE.match(number) or not word or len(word) > 32 or not word.isprintable():
            wrong += 1
        elif word not in made.setdefault(number, []):
            made[number].append(word)
    reading.defect(part, "row_unreadable", f"no code or no {name}; left out", wrong)
    return {number: "+".join(words) for number, words in made.items()}


def _subjects(reading: Reading, kept: Sequence[tuple[str, str, Json]]) -> list[str]:
    first: dict[str, str] = {}
    made = [first.setdefault(found["checksums"] or record, record) for record, _, found in kept]
    copies = sum(subject != record for subject, (record, _, _) in zip(made, kept, strict=True))
    reading.defect("signals", "same_signal", "same checksums as an earlier record; one subject with it", copies)
    return made


def _tell(reading: Reading, found: Sequence[Json], seconds: tuple[float, float]) -> None:
    low, high = seconds
    odd = sum(not low - 0.01 <= one["seconds"] <= high + 0.01 for one in found)
    reading.defect("headers", "duration_unusual", f"not from {low:g} to {high:g} s", odd)
    reading.defect("headers", "leads_unexpected", "not the twelve standard leads", sum(not one["twelve"] for one in found))
    reading.defect(
        "headers",
        "record_name_differs",
        "the header names another record; its file's name is taken",
        sum(not one["named"] for one in found),
    )
    for code, count in sorted(Counter(code for one in found for code in one["defects"]).items()):
        reading.defect("headers", code, "mended", count)
    reading.defect("headers", "sex_missing", "#Sex is neither male nor female", sum(not one["sex"] for one in found))


def _count(paths: Sequence[str], suffix: str) -> int:
    return sum(path.lower().endswith(suffix) for path in paths)
