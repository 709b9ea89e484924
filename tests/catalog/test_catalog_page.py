"""The page about the catalog names every column, and says rightly which may be null."""

from pathlib import Path

from ecgecho.catalog import SCHEMAS

PAGE = (Path(__file__).parents[2] / "docs/catalog.md").read_text(encoding="utf-8")


def test_the_page_lists_the_tables_as_they_are():
    for name, schema in SCHEMAS.items():
        line = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
        for field in schema:
            assert (f"[`{field.name}`]" in line) == field.nullable, (name, field.name)
            assert f"`{field.name}`" in line
