"""Columns as published tables write them: yes and no, and the sex of a person who stands in several rows."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from ecgecho.datasets._indexing import Reading

YES = ("1", "1.0", "true")
NO = ("0", "0.0", "false")


def yes_or_no(reading: Reading, part: str, column: str, text: pa.ChunkedArray) -> pa.ChunkedArray:
    """1.0, 0.0 or null; another word than those of `YES` and `NO` is null and a defect."""
    word = pc.utf8_lower(text)
    none = pa.scalar(None, pa.float64())
    value = pc.if_else(
        pc.is_in(word, value_set=pa.array(YES)), 1.0, pc.if_else(pc.is_in(word, value_set=pa.array(NO)), 0.0, none)
    )
    reading.defect(part, "not_a_flag", f"{column}: neither yes nor no; left out", value.null_count - text.null_count)
    return value


def people(reading: Reading, part: str, subject_id: pa.ChunkedArray, sex: pa.ChunkedArray, words: Mapping[str, str]) -> pa.Table:
    """subject_id and sex, one row a person; `words` says which sex a word (in small letters) means."""
    word = pc.utf8_lower(sex)
    place = pc.index_in(word, value_set=pa.array(list(words)))
    meant = pa.chunked_array([pa.array(list(words.values()), pa.string())]).take(place)
    reading.defect(part, "sex_unknown", "a word that is no sex; left out", meant.null_count - sex.null_count)
    rows = pa.table({"subject_id": subject_id, "sex": meant})
    known = rows.filter(pc.is_valid(rows["sex"])).group_by(["subject_id", "sex"], use_threads=False).aggregate([])
    counted = known.group_by("subject_id", use_threads=False).aggregate([("sex", "count"), ("sex", "first")])
    one = pc.equal(counted["sex_count"], 1)
    reading.defect(part, "sex_differs", "one person, two sexes; left out", counted.num_rows - int(pc.sum(one).as_py() or 0))
    subjects = pc.unique(subject_id)
    found = counted.filter(one)
    row = pc.index_in(subjects, value_set=found["subject_id"].combine_chunks())
    return pa.table({"subject_id": subjects, "sex": found["sex_first"].combine_chunks().take(row)})
