"""Diagnoses in ICD codes -> 0/1 labels of ECGs, by code or grouped as HCUP's CCSR or the EEE paper's table groups them.

A label is 1 where one of the codes of a stay is in the group, and 0 where the stay has codes, all of them ICD-10-CM and none in
the group. A stay without codes says nothing; a code of ICD-9, or one that cannot be read, may mean any, so there is no 0. The
codes of a stay are written at its end and for the bill: an ECG's label may tell what was found after it. The layout of HCUP's
DXCCSR table is that of public code that reads it, never of the file itself: names and cells between apostrophes, 19 columns;
what does not look like it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgecho.catalog import nearest
from ecgecho.datasets import _tables
from ecgecho.datasets._indexing import Reading
from ecgecho.types import I64, Bool, UsageError, UserError

EEE_TABLE_2: dict[str, tuple[str, ...]] = {
    "CIR001": ("I078", "I348", "I350", "I359"),
    "CIR007": ("I130", "I132", "I110", "I120"),
    "CIR008": ("I209", "I214", "I248", "I249"),
    "CIR019": ("I252", "I255", "I259"),
    "CIR021": ("I428", "I429", "I440", "I442"),
    "CIR022": ("I5020", "I5021", "I5022", "I5023", "I5030", "I5031", "I5032", "I5033", "I5042", "I5043"),
    "CIR023": ("I509",),
    "CIR027": ("I441", "I447"),
    "CIR028": ("I4510", "I4581", "I469"),
    "CIR029": ("I480", "I481", "I482", "I483", "I484", "I485", "I4891", "I4892"),
    "CIR030": ("I4901",),
    "CIR031": ("I9581", "I9589", "I959"),
    "CIR032": ("I951", "I952"),
    "CIR034": ("I2789",),
    "CIR036": ("I739",),
}
"""Table 2 of the EEE paper as printed. Its numbers are not those of HCUP (there heart failure is CIR019), and its codes are too
few for the 89 labels of its text, so it keeps a name of its own."""

SETS = ("ccsr", "eee_table2", "icd10")
_CODE = re.compile(r"^[A-Z][0-9][0-9A-Z]{1,5}$")
_CATEGORY = r"^[A-Z]{3}[0-9]{3}$"
CCSR_CATEGORIES = tuple(f"CCSR CATEGORY {k}" for k in range(1, 7))


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """The codes of S stays."""

    stay: I64
    """(M,) which stay a code is of."""
    code: I64
    """(M,) in `codes`."""
    codes: list[str]
    """Distinct ICD-10-CM codes without a dot."""
    coded: Bool
    """(S,) has a code of any version."""
    whole: Bool
    """(S,) all its codes are ICD-10-CM and could be read."""
    source: str

    def answers(self, group: Sequence[int]) -> tuple[Bool, Bool]:
        """(S,) has one of these codes, (S,) is known to have one or none."""
        wanted = np.zeros(len(self.codes) + 1, bool)
        wanted[list(group)] = True
        positive = np.zeros(len(self.coded), bool)
        positive[self.stay[wanted[self.code]]] = True
        return positive, positive | (self.coded & self.whole)


def check(wanted: Sequence[str]) -> None:
    """Refuse what names no group of codes: `SET.CATEGORY`, or `SET.BEGINNING*` for several."""
    for name in wanted:
        group, dot, rest = name.partition(".")
        if group not in SETS or not dot or not re.match(r"^([A-Z][0-9A-Z]*\*?|\*)$", rest):
            raise UsageError(
                f"diagnoses names {name!r}; a name is ccsr.CIR019, eee_table2.CIR022 or icd10.I50, or ends in * as ccsr.CIR*."
            )
        if group == "icd10" and rest.endswith("*"):
            raise UsageError(f"diagnoses names {name!r}; icd10.{rest.rstrip('*')} is already all codes that begin so.")
        if group == "eee_table2" and not rest.endswith("*") and rest not in EEE_TABLE_2:
            raise UsageError(f"diagnoses names {name!r}.{nearest(rest, list(EEE_TABLE_2))}")


def by_admission(reading: Reading, part: str, admissions: pa.Array) -> Coded:
    """The codes of hosp/diagnoses_icd for these stays (distinct ids)."""
    columns = ("hadm_id", "icd_code", "icd_version")
    rows = reading.table(part, columns, words=columns)
    rows = _tables.require(rows, columns, reading.parts[part]).combine_chunks()
    hadm, code, version = (rows[name].combine_chunks() for name in columns)
    place = pc.fill_null(pc.index_in(hadm.dictionary, value_set=admissions), -1).to_numpy(zero_copy_only=False)
    stay = place[hadm.indices.to_numpy()].astype(np.int64)
    versions = version.dictionary.to_pylist()
    reading.defect(part, "icd_version", "neither 9 nor 10; left out", _sum(version, [v not in ("9", "10") for v in versions]))
    is_ten = np.array([v == "10" for v in versions], bool)[version.indices.to_numpy()]
    is_nine = np.array([v == "9" for v in versions], bool)[version.indices.to_numpy()]
    codes = [word.upper().replace(".", "") for word in code.dictionary.to_pylist()]
    good = np.array([bool(_CODE.match(word)) for word in codes], bool)[code.indices.to_numpy()]
    reading.defect(part, "not_a_code", "no ICD-10-CM code; left out", (is_ten & ~good & (stay >= 0)).sum())
    here = stay >= 0
    coded, whole = np.zeros(len(admissions), bool), np.ones(len(admissions), bool)
    coded[stay[here & ((is_ten & good) | is_nine)]] = True
    keep = here & is_ten & good
    whole[stay[here & ~keep]] = False  # of ICD-9, or unreadable: it may mean anything
    return Coded(
        stay=stay[keep],
        code=code.indices.to_numpy()[keep].astype(np.int64),
        codes=codes,
        coded=coded,
        whole=whole,
        source="hosp/diagnoses_icd",
    )


def by_ecg(reading: Reading, part: str, lists: pa.ChunkedArray, column: str) -> Coded:
    """The codes in lists such as "['I5020', 'N179']", one list an ECG; an empty list is a stay without codes."""
    bare = pc.replace_substring_regex(pc.fill_null(lists, "[]"), r"[\[\]{}()'\"\s.]", "").combine_chunks()
    split = pc.split_pattern(pc.utf8_upper(bare), ",")
    stay, flat = pc.list_parent_indices(split).to_numpy(), pc.list_flatten(split).dictionary_encode()
    codes = flat.dictionary.to_pylist()
    filled = np.array([bool(word) for word in codes], bool)[flat.indices.to_numpy()]
    good = np.array([bool(_CODE.match(word)) for word in codes], bool)[flat.indices.to_numpy()]
    reading.defect(part, "not_a_code", f"{column}: no ICD-10-CM code; left out", (filled & ~good).sum())
    coded, whole = np.zeros(len(bare), bool), np.ones(len(bare), bool)
    coded[stay[good]] = True
    whole[stay[filled & ~good]] = False
    return Coded(
        stay=stay[good].astype(np.int64),
        code=flat.indices.to_numpy()[good].astype(np.int64),
        codes=codes,
        coded=coded,
        whole=whole,
        source=f"mimic-iv-ecg-ext-icd/{column}",
    )


def labels(
    reading: Reading, coded: Coded, stay: I64, ecgs: pa.Table, wanted: Sequence[str], ccsr: Path | None
) -> Iterator[pa.Table]:
    """A table for each label, made when it is asked for; `stay` (N,) is that of each ECG, -1 where it has none."""
    groups = _groups(reading, coded, wanted, ccsr)
    inside = np.flatnonzero(stay >= 0)
    silent = inside[~coded.coded[stay[inside]]]
    reading.defect("diagnoses", "not_coded", "ECGs of a stay without a code; not labelled", len(silent))
    old = inside[coded.coded[stay[inside]] & ~coded.whole[stay[inside]]]
    reading.defect("diagnoses", "not_all_icd_10", "ECGs of a stay with ICD-9 or unreadable codes: 0 is not known", len(old))
    return _rows(coded, stay, inside, ecgs, groups)


def _rows(
    coded: Coded, stay: I64, inside: I64, ecgs: pa.Table, groups: Mapping[str, tuple[list[int], str]]
) -> Iterator[pa.Table]:
    """One table after the other: together they may be tens of millions of rows."""
    for name, (group, definition) in groups.items():
        positive, known = coded.answers(group)
        rows = inside[known[stay[inside]]]
        if not len(rows):
            continue
        chosen = ecgs.select(["subject_id", "ecg_id", "time"]).take(pa.array(rows))
        yield _tables.label_rows(
            name,
            positive[stay[rows]].astype(np.float64),
            subject_id=chosen["subject_id"],
            ecg_id=chosen["ecg_id"],
            time=chosen["time"],
            unit=None,
            source=coded.source,
            definition=f"{definition}; 0 where all codes of the stay are ICD-10-CM and none is",
        )


def _groups(reading: Reading, coded: Coded, wanted: Sequence[str], ccsr: Path | None) -> dict[str, tuple[list[int], str]]:
    """Label -> (places in `codes`, definition)."""
    tables: dict[str, dict[str, tuple[str, ...]]] = {"eee_table2": EEE_TABLE_2}
    if any(name.startswith("ccsr.") for name in wanted):
        if ccsr is None:
            raise UsageError(
                "labels of CCSR need HCUP's table of ICD-10-CM codes (DXCCSR_v*.csv): put it below ROOT, or set ccsr=FILE."
            )
        tables["ccsr"] = read_ccsr(ccsr)
        known = {code for several in tables["ccsr"].values() for code in several}
        absent = sum(coded.codes[code] not in known for code in np.unique(coded.code))
        reading.defect("ccsr", "unknown_code", "distinct codes that the table does not have; in no category", absent)
    place = {code: k for k, code in enumerate(coded.codes)}
    found: dict[str, tuple[list[int], str]] = {}
    for name in wanted:
        group, _, rest = name.partition(".")
        if group == "icd10":
            begin = [k for code, k in place.items() if code.startswith(rest)]
            found[name] = (begin, f"1 where a diagnosis has an ICD-10-CM code that begins with {rest}")
            continue
        categories = [c for c in sorted(tables[group]) if (c.startswith(rest[:-1]) if rest.endswith("*") else c == rest)]
        if not categories:
            raise UsageError(f"diagnoses names {name!r}.{nearest(rest.rstrip('*'), sorted(tables[group]))}")
        whose = (
            "HCUP's CCSR (a code may have several categories)"
            if group == "ccsr"
            else "Table 2 of the EEE paper, codes as printed"
        )
        for category in categories:
            members = [place[code] for code in tables[group][category] if code in place]
            found[f"{group}.{category}"] = (members, f"1 where a diagnosis is in category {category} of {whose}")
    return found


def read_ccsr(path: Path) -> dict[str, tuple[str, ...]]:
    """Category -> codes, of HCUP's DXCCSR_v*.csv; every category of a code counts, not the default one alone."""
    columns = ("ICD-10-CM CODE", CCSR_CATEGORIES[0])
    rows = _tables.read_table(path, columns, CCSR_CATEGORIES[1:], encoding="latin-1")  # titles may hold any byte
    bare = {name: pc.utf8_trim(rows[name], " '\"") for name in rows.column_names}
    code = pc.replace_substring(pc.utf8_upper(bare["ICD-10-CM CODE"]), ".", "").to_pylist()
    found: dict[str, set[str]] = {}
    for column in CCSR_CATEGORIES:
        for one, category in zip(code, bare[column].to_pylist(), strict=True):
            if category:
                found.setdefault(category, set()).add(one)
    if not rows.num_rows or not all(re.match(_CATEGORY, c) for c in found) or not all(c and _CODE.match(c) for c in code):
        raise UserError(f"{path} does not look like HCUP's DXCCSR table: codes such as I5020 with categories such as CIR019.")
    return {category: tuple(sorted(several)) for category, several in found.items()}


def _sum(column: pa.DictionaryArray, marked: list[bool]) -> int:
    return int(np.array(marked, bool)[column.indices.to_numpy()].sum()) if len(column) else 0
