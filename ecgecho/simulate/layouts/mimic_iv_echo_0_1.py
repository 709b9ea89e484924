"""mimic-iv-echo-0.1: as mimic-iv, with the echo module of version 0.1, which has no structured measurements."""

from __future__ import annotations

from ecgecho.simulate.layouts import Job, Rows, Table, mimic_iv
from ecgecho.simulate.person import Person

NAME = "mimic-iv-echo-0.1"
READ_BY = mimic_iv.READ_BY
TABLES_ALONE = True

TABLES = {name: table for name, table in mimic_iv.TABLES.items() if name not in ("measurements", "studies")} | {
    "studies": Table(path=mimic_iv.TABLES["studies"].path, columns=mimic_iv.ECHO_STUDIES)
}


def subject(job: Job, person: Person) -> Rows:
    """All of one person."""
    rows = mimic_iv.subject(job, person)
    del rows.tables["measurements"]
    if "studies" in rows.tables:
        rows.tables["studies"] = [row[: len(mimic_iv.ECHO_STUDIES)] for row in rows.tables["studies"]]
    return rows


finish = mimic_iv.finish
