"""EchoNext as it is published, by its README: one table of 38 columns and an array a split."""

import csv
from pathlib import Path

import numpy as np

VALVES = ("aortic_stenosis", "aortic_regurgitation", "mitral_regurgitation", "tricuspid_regurgitation", "pulmonary_regurgitation")
COLUMNS = (
    "ecg_key", "patient_key", "age_at_ecg", "sex", "acquisition_year", "location_setting", "race_ethnicity",
    "most_recent_ecg", "ventricular_rate", "atrial_rate", "pr_interval", "qrs_duration", "qt_corrected", "split",
    "lvef_lte_45_flag", "lvwt_gte_13_flag", "aortic_stenosis_moderate_or_greater_flag",
    "aortic_regurgitation_moderate_or_greater_flag", "mitral_regurgitation_moderate_or_greater_flag",
    "tricuspid_regurgitation_moderate_or_greater_flag", "pulmonary_regurgitation_moderate_or_greater_flag",
    "rv_systolic_dysfunction_moderate_or_greater_flag", "pericardial_effusion_moderate_large_flag", "pasp_gte_45_flag",
    "tr_max_gte_32_flag", "shd_moderate_or_greater_flag", "lvef_value", "ivs_measurement", "lvpw_measurement", "pasp_value",
    "tr_max_velocity_value", "aortic_stenosis_value", "aortic_regurgitation_value", "mitral_regurgitation_value",
    "tricuspid_regurgitation_value", "pulmonary_regurgitation_value", "rv_systolic_function_value",
    "pericardial_effusion_value",
)  # fmt: skip
FULL = {
    "lvef_value": "60.0",
    "ivs_measurement": "0.9",
    "lvpw_measurement": "1.0",
    "pasp_value": "30.0",
    "tr_max_velocity_value": "2.1",
    **{f"{name}_value": "none" for name in VALVES},
    "rv_systolic_function_value": "normal",
    "pericardial_effusion_value": "none",
}
ILL = {
    **FULL,
    "lvef_value": "45.0",
    "lvef_lte_45_flag": "1",
    "ivs_measurement": "1.7",
    "lvwt_gte_13_flag": "1",
    "aortic_stenosis_value": "severe",
    "aortic_stenosis_moderate_or_greater_flag": "1",
    "shd_moderate_or_greater_flag": "1",
}
ECGS = (  # key, patient, split, what the echo gave; not in the order of the splits
    ("e10", "1", "train", FULL),
    ("e20", "2", "val", ILL),
    ("e11", "1", "train", {}),
    ("e30", "3", "test", {**FULL, "aortic_stenosis_value": "presumed none", "pasp_value": "", "lvpw_measurement": ""}),
    ("e31", "3", "no_split", ILL),
    ("e40", "4", "train", ILL),
    ("e32", "3", "no_split", FULL),
)
NAMES = {"train": "EchoNext_train_waveforms.npy", "val": "EchoNext_val_waveforms.npy", "test": "EchoNext_test_waveforms.npy"}


def row(key: str, patient: str, split: str, values: dict[str, str]) -> dict[str, str]:
    flags = {name: "0" for name in COLUMNS if name.endswith("_flag")}
    return {
        **dict.fromkeys(COLUMNS, ""),
        **{"ecg_key": key, "patient_key": patient, "split": split, "age_at_ecg": "71.0", "acquisition_year": "2016"},
        **{"sex": "male" if patient == "1" else "female", "location_setting": "inpatient", "ventricular_rate": "80"},
        **flags,
        **values,
    }


def write_table(path: Path, rows: list[dict[str, str]], columns=COLUMNS) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_arrays(root: Path, rows: list[dict[str, str]]) -> None:
    """Each ECG has the number of its key in every sample."""
    for split in ("train", "val", "test", "no_split"):
        mine = [float(one["ecg_key"][1:]) for one in rows if one["split"] == split]
        signals = np.zeros((len(mine), 1, 2500, 12))
        signals[:] = np.array(mine)[:, None, None, None] / 10 + np.arange(2500)[:, None] % 2
        np.save(root / f"EchoNext_{split}_waveforms.npy", signals)
        np.save(root / f"EchoNext_{split}_tabular_features.npy", np.zeros((len(mine), 7)))


def write_echonext(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    rows = [row(*ecg) for ecg in ECGS]
    write_table(root / "echonext_metadata_100k.csv", rows)
    write_arrays(root, rows)
    return root
