"""A tiny MIMIC-IV in its published layout, written by the tests: names, columns and quirks as the documentation has them."""

import gzip
from pathlib import Path

REPORTS = [f"report_{i}" for i in range(18)]
NUMBERS = ["rr_interval", "p_onset", "p_end", "qrs_onset", "qrs_end", "t_end", "p_axis", "qrs_axis", "t_axis"]

RECORDS = [
    "subject_id,study_id,file_name,ecg_time,path",
    "10000001,40000001,40000001,2150-01-10 08:00:00,files/p1000/p10000001/s40000001/40000001",
    "10000001,40000002,40000002,2150-06-01 08:00:00,files/p1000/p10000001/s40000002/40000002",
    "10000002,40000003,40000003,2160-01-01 12:00:00,files/p1000/p10000002/s40000003/40000003",
    "10000003,40000004,40000004,,files/p1000/p10000003/s40000004/40000004",
]
MACHINE = [
    ",".join(["subject_id", "study_id", "cart_id", "ecg_time", *REPORTS, "bandwidth", "filtering", *NUMBERS]),
    "10000001,40000001,6848296,2150-01-10 08:00:00,Sinus rhythm,,Possible LVH.,,"
    + "," * 14
    + "0.005-150 Hz,60 Hz notch,800,29999,140,180,270,550,32767,-5,40",
    '10000001,40000002,6848296,2150-06-01 08:00:00,"Atrial fibrillation, rapid",Abnormal ECG'
    + "," * 16
    + ",0.005-150 Hz,60 Hz,65535,29999,29999,180,270,550,-32768,-5,40",
    "10000002,40000003,6848296,2160-01-01 12:00:00" + "," * 18 + ",0.005-150 Hz,60 Hz,1000,40,140,180,270,550,12,-5,40",
    "10000009,49999999,6848296,2160-01-01 12:00:00,Normal ECG" + "," * 17 + ",,,,,,,,,,,",
]
ECHOS = [
    "subject_id,study_id,acquisition_datetime,dicom_filepath",
    "10000001,90000001,2150-01-12 10:00:00,files/p10/p10000001/s90000001/90000001_0001.dcm",
    "10000001,90000001,2150-01-12 10:01:00,files/p10/p10000001/s90000001/90000001_0002.dcm",
    "10000002,90000002,2160-03-01 10:00:00,files/p10/p10000002/s90000002/90000002_0001.dcm",
]
STUDIES = [
    "subject_id,study_id,study_datetime,note_id,note_seq,note_charttime,measurement_id,measurement_datetime",
    "10000001,90000001,2150-01-12 10:00:00,,,,70000001,2150-01-12 11:00:00",
    "10000002,90000002,2160-03-01 10:00:00,,,,70000002,2160-03-01 11:00:00",
]
MEASUREMENTS = [
    "subject_id,measurement_id,measurement_datetime,test_type,measurement,measurement_description,result,unit",
    "10000001,70000001,2150-01-12 11:00:00,tte,biplane_lvef,LVEF biplane,52,%",
    "10000001,70000001,2150-01-12 11:00:00,tte,LVEF ,LVEF,55 %,%",
    "10000001,70000001,2150-01-12 11:00:00,tte,lvef_upper,LVEF upper,60,%",
    "10000001,70000001,2150-01-12 11:00:00,tte,septal_thickness,septum,1.7,cm",
    "10000001,70000001,2150-01-12 11:00:00,tte,inf_lat_thickness,wall,1.2,cm",
    "10000001,70000001,2150-01-12 11:00:00,tte,rv_function,RV,Nl RV function,",
    "10000002,70000002,2160-03-01 11:00:00,stress,stress_lvef,LVEF at stress,70,%",
    "10000002,70000002,2160-03-01 11:00:00,stress,rest_lvef,LVEF at rest,35,%",
    "10000002,70000002,2160-03-01 11:00:00,stress,septal_thickness,septum,11,cm",
    "10000004,70000003,2155-03-01 11:00:00,tee,lvef,LVEF,130,%",
    "10000004,70000003,2155-03-01 11:00:00,tee,lvef_3d,LVEF,30,%",
    "10000004,70000003,2155-03-01 11:00:00,tee,inf_lat_thickness,wall,16,mm",
    "10000004,70000003,2155-03-01 11:00:00,tee,tapse,TAPSE,2.1,",
]
PATIENTS = [
    "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
    "10000001,F,60,2149,2011 - 2013,",
    "10000002,M,91,2158,2011 - 2013,",
    "10000003,M,50,2150,2011 - 2013,",
]
NOTES = [
    "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text",
    '10000001-DS-1,10000001,20000001,DS,1,2150-01-20 00:00:00,2150-01-21 09:00:00,"Name: ___\n\nTTE: EF ""55%"", no AS"',
    "10000077-DS-1,10000077,20000002,DS,1,2150-01-20,2150-01-21 09:00:00,someone without ECG",
]

ADMISSIONS = [
    "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,admission_location,discharge_location,"
    "insurance,language,marital_status,race,edregtime,edouttime,hospital_expire_flag",
    "10000001,20000001,2150-01-09 20:00:00,2150-01-20 12:00:00,,URGENT,P00,,HOME,Other,ENGLISH,,WHITE,,,0",
    "10000001,20000003,2150-05-30 20:00:00,2150-06-02 12:00:00,,URGENT,P00,,HOME,Other,ENGLISH,,WHITE,,,0",
    "10000002,20000004,2160-01-01 12:00:00,2160-01-01 12:00:00,,URGENT,P00,,HOME,Other,ENGLISH,,WHITE,,,0",
]
DIAGNOSES = [
    "subject_id,hadm_id,seq_num,icd_code,icd_version",
    "10000001,20000001,1,I5022,10",
    "10000001,20000001,2,I481,10",
    "10000001,20000003,1,E119,10",
    "10000002,20000004,1,42731,9",
    "10000077,20000002,1,I509,10",
]

PUBLISHED = {
    "mimic-iv-ecg/1.0/record_list.csv": RECORDS,
    "mimic-iv-ecg/1.0/machine_measurements.csv": MACHINE,
    "mimic-iv-echo/1.0/echo-record-list.csv": ECHOS,
    "mimic-iv-echo/1.0/echo-study-list.csv": STUDIES,
    "mimic-iv-echo/1.0/structured-measurement.csv.gz": MEASUREMENTS,
    "mimiciv/3.1/hosp/patients.csv.gz": PATIENTS,
    "mimiciv/3.1/hosp/admissions.csv.gz": ADMISSIONS,
    "mimiciv/3.1/hosp/diagnoses_icd.csv.gz": DIAGNOSES,
    "mimic-iv-note/2.2/note/discharge.csv.gz": NOTES,
}


def write_tree(root: Path, files: dict[str, list[str]] = PUBLISHED) -> Path:
    for name, lines in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = ("\n".join(lines) + "\n").encode()
        path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    return root


def changed(name: str, change) -> dict[str, list[str]]:
    """The published tree with one table changed."""
    return {key: change(list(lines)) if name in key else lines for key, lines in PUBLISHED.items()}
