"""Every command block of README and docs runs in a clean place, and every relative link resolves."""

import re
import shlex
from pathlib import Path

import pytest
from command_line import must

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("embed_cache/*.md")])

# What makes a block small enough for a test, and what stands in for files that cannot be shipped.
SMALLER = {
    # The next line of the page runs the full-size teacher; of several processes is tests/cache/test_several_writers.py.
    "--teacher echoclip --weights path/or/hub-id --out echo.zarr --dry-run": "--teacher demo --out echo.zarr --dry-run",
    "--processes 2": "--processes 1",
    "--subjects 300": "--subjects 20 --enrich",
    "--recipe small": "--recipe small --set optim.steps=3",
    "--weights path/or/hub-id": "--weights random:0",
    "ecgecho eval runs/a": "ecgecho eval runs/a --bootstraps 20 --evals zero_shot --evals linear_probe --evals retrieval",
}


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^[ ]*```{language}\n(.*?)^[ ]*```", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return [re.sub(r"^ +", "", block, flags=re.M) if language == "sh" else block for block in found]


def commands(page: Path) -> list[str]:
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


@pytest.mark.timeout(600)
def test_every_command_of_the_pages_runs_in_a_clean_place(tmp_path, cohort):
    (tmp_path / "some/folder/of/dicom-or-avi").mkdir(parents=True)
    write_short(cohort.cines[0], tmp_path / "some/folder/of/dicom-or-avi/a.dcm")
    ran = []
    for page in PAGES:
        for line in commands(page):
            if line.startswith("make "):  # the environment and the test run itself; CI runs the demo
                assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(), flags=re.M)
                continue
            assert line.startswith("ecgecho "), line
            shorter = line
            for long, short in SMALLER.items():
                shorter = shorter.replace(long, short)
            must(*shlex.split(shorter)[1:], cwd=tmp_path)
            ran.append(line)
    assert len(ran) >= 12


def write_short(cine: Path, out: Path) -> None:
    """Three frames of a cine: the full-size teacher takes a second for each."""
    import pydicom

    short = pydicom.dcmread(cine)
    frames = list(pydicom.encaps.generate_frames(short.PixelData, number_of_frames=int(short.NumberOfFrames)))
    short.PixelData = pydicom.encaps.encapsulate(frames[:3])
    short.NumberOfFrames = 3
    short.save_as(out)


@pytest.mark.parametrize("page", PAGES, ids=[p.name for p in PAGES])
def test_relative_links_resolve(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_the_readme_is_at_most_200_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_teacher_of_the_guide_works(cohort, tmp_path):
    code = next(block for block in blocks(ROOT / "docs/plugins.md", "python") if "class MeanColour" in block)
    teacher = tmp_path / "mean_colour.py"
    teacher.write_text(code, encoding="utf-8")
    write_short(cohort.cines[0], tmp_path / "cine.dcm")
    must("cache-echo", tmp_path, "--teacher", teacher, "--out", tmp_path / "e.zarr")


def test_the_dataset_of_the_guide_works(tmp_path):
    code = next(block for block in blocks(ROOT / "docs/plugins.md", "python") if 'name="clinic"' in block)
    (tmp_path / "clinic.py").write_text(code, encoding="utf-8")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/ecgs.csv").write_text("record,patient,day,ef\na,1,2020-01-02,55\nb,2,2020-01-03,155\n")
    told = must("index", tmp_path / "clinic.py", tmp_path / "root", "--out", tmp_path / "c")
    assert "labels: lvef 1" in told
    assert "out_of_range" in told
    assert "missing_file" in told


def test_the_python_of_the_readme_runs(cohort, tmp_path, monkeypatch):
    record = next(cohort.root.glob("mimic-iv-ecg/files/**/*.hea")).with_suffix("")
    code = next(iter(blocks(ROOT / "README.md", "python")))
    for shown, real in (("runs/a", cohort.run), ("path/to/record", record), ("cohort/echo.zarr", cohort.echo)):
        code = code.replace(f'"{shown}"', repr(str(real)))
    code += "\nassert embedding.mean.shape[0] == 1\nassert len(store) and store.group(store.index['group'][0].as_py())\n"
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
