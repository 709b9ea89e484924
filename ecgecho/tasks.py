"""Binary questions about a heart, asked of the labels of a catalog: which there are, and their answer for every ECG.

A label that holds 0 and 1 is a question by its own name (`ptbxl.superclass.MI`). No answer is made up: an ECG without a label
within the window has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgecho.catalog import Catalog, nearest
from ecgecho.pairs import F64, WINDOW_DAYS, check_window, label_values, nearest_in_time
from ecgecho.types import I64, Classes, Task, UsageError, UserError

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(name="lvef_lt_40", label="lvef", op="<", threshold=40.0, unit="%", title="LVEF < 40 %"),
        Task(name="severe_lvh", label="wall_mm", op=">=", threshold=16.0, unit="mm", title="severe LVH (wall >= 16 mm)"),
        Task(name="dilated_lv", label="lvedd_mm", op=">=", threshold=56.0, unit="mm", title="dilated LV (LVEDD >= 56 mm)"),
        Task(name="lvef_le_40", label="lvef", op="<=", threshold=40.0, unit="%", title="LVEF <= 40 %"),
        Task(name="lvef_40_50", label="lvef", op=">=", threshold=40.0, below=50.0, unit="%", title="40 % <= LVEF < 50 %"),
        Task(name="lvef_ge_50", label="lvef", op=">=", threshold=50.0, unit="%", title="LVEF >= 50 %"),
        Task(name="edv_gt_150", label="edv_ml", op=">", threshold=150.0, unit="ml", title="EDV > 150 ml"),
        Task(name="esv_gt_61", label="esv_ml", op=">", threshold=61.0, unit="ml", title="ESV > 61 ml"),
        Task(name="shd", label="shd", op=">=", threshold=1.0, unit="", title="structural heart disease", also=("echonext.shd",)),
    )
}
"""Dilation: an inner diameter at end-diastole of at least 56 mm, one cut for all (the ASE/EACVI recommendations of 2015 end
the normal range at 52 mm for women and 58 mm for men). Severe hypertrophy: the thicker of septum and inferolateral wall is at
least 16 mm (where "severely abnormal" starts for women in the same recommendations; 17 mm for men). Volumes: above the
normal range of men there (women: 106 and 42 ml).

`shd` is EchoNext's composite (datasets.md section 6): LVEF <= 45 %, wall >= 13 mm, a valve's disease, or dysfunction of the
right ventricle, of moderate or worse degree, PASP >= 45 mmHg or a tricuspid jet of 3.2 m/s, an effusion of moderate or larger
size. EchoNext says it itself; how MIMIC-IV's is put together is in `datasets/mimic_iv.py`."""

JUDGED = ("lvef_lt_40", "severe_lvh", "dilated_lv")
"""What an evaluation asks of every run."""


CLASSES: dict[str, Classes] = {
    "lvef_3": Classes(name="lvef_3", tasks=("lvef_le_40", "lvef_40_50", "lvef_ge_50"), title="LVEF <= 40 / 40 to 50 / >= 50 %"),
}
"""Questions with more than two answers. The first task that is true names the class, so that an LVEF of 40.0 is in the first;
Echo2ECG writes <= 40, 40-50, >= 50 and leaves open where 40 and 50 lie."""


PHENOTYPES: dict[str, tuple[str, str]] = {
    "lvef": ("LVEF", "%"),
    "edv_ml": ("end-diastolic volume", "ml"),
    "esv_ml": ("end-systolic volume", "ml"),
    "sv_ml": ("stroke volume", "ml"),
    "lvedd_mm": ("end-diastolic diameter", "mm"),
    "wall_mm": ("wall thickness", "mm"),
}
"""Label -> title and unit of what is measured of a study; where no label says the stroke volume, it is the difference of the two
volumes."""


def to_judge(catalogs: Sequence[Catalog]) -> list[str]:
    """Names of what an evaluation asks of every run on these catalogs: what is judged always, and what they have labels of."""
    had = {label for catalog in catalogs for label in label_names(catalog)}

    def has(name: str) -> bool:
        return not had.isdisjoint((TASKS[name].label, *TASKS[name].also))

    return [*JUDGED, *(name for name in ("shd",) if has(name)), *(name for name, c in CLASSES.items() if all(map(has, c.tasks)))]


def class_answers(catalog: Catalog, ecg_ids: Sequence[str], classes: Classes, window_days: float = WINDOW_DAYS) -> I64:
    """(n,) number of the class: the first task that is true; -1 where none is."""
    true = np.stack([answers(catalog, ecg_ids, find(name), window_days) == 1 for name in classes.tasks])
    return np.where(true.any(0), true.argmax(0), -1).astype(np.int64)


def find(name: str, catalogs: Sequence[Catalog] = (), also: Sequence[str] = ()) -> Task:
    """The task of that name, or the question that a 0/1 label of these catalogs is; `also` are names that may have been meant."""
    if name in TASKS:
        return TASKS[name]
    labels = sorted({label for catalog in catalogs for label in label_names(catalog)})
    if name not in labels:
        raise UsageError(f"there is no task {name!r}, and no label of that name.{nearest(name, [*TASKS, *also, *labels])}")
    return Task(name=name, label=name, op=">=", threshold=1.0, unit="", title=name)


def known(names: Sequence[str], catalogs: Sequence[Catalog]) -> list[str]:
    """Those of `names` that `find` finds."""
    return [name for name in names if name in TASKS or any(name in label_names(catalog) for catalog in catalogs)]


def answers(catalog: Catalog, ecg_ids: Sequence[str], task: Task, window_days: float = WINDOW_DAYS) -> I64:
    """(n,) 1, 0, or -1 where the catalog has no label of the ECG within the window."""
    check_window(window_days)
    names = [name for name in (task.label, *task.also) if name in label_names(catalog)]
    values: F64 = np.full(len(ecg_ids), np.nan)
    for name in names:  # the own label first, the others where it is silent
        found = label_values(catalog, ecg_ids, name, window_days)
        values = np.where(np.isnan(values), found, values)
    if task.name not in TASKS and (wrong := values[np.isfinite(values) & ~np.isin(values, (0.0, 1.0))]).size:
        raise UserError(
            f"{catalog.path}: the label {task.label!r} holds {wrong[0]:g}, so it is no question by itself. "
            f"A label of 0 and 1 is, or one of: {', '.join(TASKS)}."
        )
    return task.of(values)


def study_values(catalog: Catalog, study_ids: Sequence[str], label: str, window_days: float = WINDOW_DAYS) -> F64:
    """(S,) values of a label: the study's own, else its subject's nearest in time that is of no other study and no ECG; NaN."""
    known = label_names(catalog)
    if label == "sv_ml" and label not in known:
        return study_values(catalog, study_ids, "edv_ml", window_days) - study_values(catalog, study_ids, "esv_ml", window_days)
    if label not in known or not study_ids:
        return np.full(len(study_ids), np.nan)
    labels = catalog.labels_named(label)
    clips = catalog.table("clips", columns=("study_id", "subject_id", "time"))
    whole = clips.group_by("study_id").aggregate([("subject_id", "min"), ("time", "min")])
    whole = whole.rename_columns([name.removesuffix("_min") for name in whole.column_names])
    asked = whole.take(pc.index_in(pa.array(study_ids, pa.string()), value_set=_flat(whole["study_id"])))
    own = labels.filter(pc.is_valid(labels["study_id"]))
    free = labels.filter(pc.and_(pc.is_null(labels["study_id"]), pc.is_null(labels["ecg_id"])))
    near = nearest_in_time(asked, free, window_days).row
    direct = _flat(own["value"]).take(pc.index_in(_flat(asked["study_id"]), value_set=_flat(own["study_id"])))
    found = pc.coalesce(direct, _flat(free["value"]).take(pa.array(near, mask=near < 0)))
    return np.array(found.to_numpy(zero_copy_only=False), np.float64)


@lru_cache(maxsize=16)
def label_names(catalog: Catalog) -> tuple[str, ...]:
    """The names that the labels of a catalog have."""
    return tuple(pc.unique(catalog.table("labels", columns=("name",))["name"].cast(pa.string())).to_pylist())


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
