"""The demo teacher: small, repeatable, and able to tell a poor heart by its motion."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from ecgecho.echo.sector import blank, find_sector
from ecgecho.io import read_echo
from ecgecho.simulate import USER_SEEDS, VIEWS, cine, draw_heart, stream, write
from ecgecho.simulate.text import VIEW_NAMES
from ecgecho.teachers import demo
from ecgecho.types import UserError

WEIGHTS = Path(demo.__file__).with_name("demo.safetensors")
CONFIG = demo.Config()
SPEC = demo.spec(CONFIG)
LOW = ["reduced left ventricular systolic function", "severely reduced ejection fraction", "ejection fraction is 28 percent"]
HIGH = ["normal left ventricular systolic function", "normal ejection fraction", "ejection fraction is 62 percent"]
HEARTS = 48


@pytest.fixture(scope="module")
def teacher() -> demo.DemoTeacher:
    torch.set_num_threads(2)
    return demo.build(CONFIG)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 60, 90, 3), dtype=np.uint8)


def test_the_module_is_imported_and_prepares_without_torch() -> None:
    code = (
        "import sys, numpy as np; from ecgecho.teachers import demo\n"
        "demo.prepare(demo.spec(demo.Config()), np.zeros((2, 50, 60, 3), np.uint8), np.zeros(2, np.float32))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_ships_is_under_four_megabytes_and_learned_from_no_seed_of_a_user() -> None:
    assert WEIGHTS.stat().st_size < 4_000_000
    card = json.loads(WEIGHTS.with_suffix(".json").read_text(encoding="utf-8"))
    with safe_open(WEIGHTS, "pt") as found:
        metadata = found.metadata()
    seeds = [int(seed) for name in ("trained_on_seeds", "judged_on_seeds") for seed in metadata[name].split(",")]
    assert seeds == card["trained_on_seeds"] + card["judged_on_seeds"]
    assert min(seeds) >= USER_SEEDS
    assert not set(card["trained_on_seeds"]) & set(card["judged_on_seeds"])


def test_weights_without_their_card_or_with_another_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    with pytest.raises(UserError, match="other"):
        demo.build(demo.Config(weights=str(other)))
    other.write_bytes(WEIGHTS.read_bytes())
    card = json.loads(WEIGHTS.with_suffix(".json").read_text(encoding="utf-8"))
    other.with_suffix(".json").write_text(json.dumps(card | {"weights_sha256": "0" * 64}))
    with pytest.raises(UserError, match="other weights"):
        demo.build(demo.Config(weights=str(other)))


def test_prepare_keeps_every_frame_and_crops_to_what_is_visible(frames: np.ndarray) -> None:
    placed = np.zeros((9, 200, 300, 3), np.uint8)
    placed[:, 80:140, 50:140] = np.maximum(frames, 20)
    time = np.arange(9, dtype=np.float32)
    prepared = demo.prepare(SPEC, placed, time)
    assert prepared.values.shape == (9, 3, 112, 112)
    assert prepared.frame_index.tolist() == list(range(9))
    assert np.array_equal(prepared.values, demo.prepare(SPEC, np.maximum(frames, 20), time).values)
    assert demo.prepare(SPEC, np.zeros_like(placed), time).values.max() == 0


def test_a_frame_has_the_same_vector_in_any_batch_and_on_every_call(teacher: demo.DemoTeacher, frames: np.ndarray) -> None:
    values = torch.from_numpy(demo.prepare(SPEC, frames, np.zeros(9, np.float32)).values)
    together = teacher.forward(values).pooled
    assert together.shape == (9, SPEC.dim)
    assert together.dtype == torch.float32
    assert torch.equal(together, teacher.forward(values).pooled)
    alone = torch.cat([teacher.forward(value[None]).pooled for value in values])
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(demo.build(CONFIG).forward(values).pooled, together, atol=0, rtol=0)


def test_texts_become_unit_vectors_whatever_stands_beside_them(teacher: demo.DemoTeacher) -> None:
    texts = ["Normal ejection fraction.", "", "zebra crossing", " ".join(["severe"] * 90)]
    together = teacher.embed_text(texts)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(torch.cat([teacher.embed_text([text]) for text in texts]), together, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def held_out(teacher: demo.DemoTeacher, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Hearts of a user's seed, half of them with an LVEF below 40; their cines written, read back, masked and taught."""
    folder = tmp_path_factory.mktemp("cines")
    low = teacher.embed_text(LOW).mean(0) - teacher.embed_text(HIGH).mean(0)
    views = teacher.embed_text([VIEW_NAMES[view] for view in VIEWS])
    found: dict[str, list[float]] = {"score": [], "lvef": [], "edv_ml": [], "view_right": [], "still": []}
    for index in range(HEARTS):
        rng = stream(500, index, "heart")
        heart = draw_heart(rng, enrich=False)
        heart = dataclasses.replace(heart, lvef=round(float(rng.uniform(20, 38) if index % 2 else rng.uniform(42, 68)), 1))
        view = VIEWS[index // 2 % len(VIEWS)]
        drawn = cine(heart, view, stream(500, index, "echo"), frames=16)
        path = folder / f"{index}.dcm"
        write.dicom(path, drawn, subject_id=index, study_id=index, instance=1, time=datetime(2150, 1, 1))
        clip = read_echo(path)
        masked = blank(clip.frames, find_sector(clip), clip.kind)
        values = torch.from_numpy(demo.prepare(SPEC, masked, clip.frame_time_ms).values)
        vectors = torch.nn.functional.normalize(teacher.forward(values).pooled, dim=-1)
        found["still"].append(float(vectors[int(drawn.shot.volume_ml.argmax())] @ low))
        vector = vectors.mean(0)
        vector = torch.nn.functional.normalize(vector, dim=0)
        found["score"].append(float(vector @ low))
        found["lvef"].append(heart.lvef)
        found["edv_ml"].append(heart.edv_ml)
        found["view_right"].append(float(int((views @ vector).argmax()) == VIEWS.index(view)))
    return {name: np.array(values) for name, values in found.items()}


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    return float((score[positive][:, None] > score[~positive][None]).mean())


def test_zero_shot_from_files_tells_lvef_below_40_at_auroc_above_090(held_out: dict[str, np.ndarray]) -> None:
    assert auroc(held_out["score"], held_out["lvef"] < 40) > 0.9


def test_within_terciles_of_volume_it_still_tells_so_it_sees_motion(held_out: dict[str, np.ndarray]) -> None:
    tercile = np.searchsorted(np.quantile(held_out["edv_ml"], [1 / 3, 2 / 3]), held_out["edv_ml"])
    for number in range(3):
        chosen = tercile == number
        assert auroc(held_out["score"][chosen], held_out["lvef"][chosen] < 40) > 0.8


def test_one_frame_at_end_diastole_tells_little_so_the_answer_is_in_the_motion(held_out: dict[str, np.ndarray]) -> None:
    assert 0.25 < auroc(held_out["still"], held_out["lvef"] < 40) < 0.75


def test_it_names_the_view(held_out: dict[str, np.ndarray]) -> None:
    assert held_out["view_right"].mean() > 0.9
