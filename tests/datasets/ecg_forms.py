"""ECG files of one patient in every form that says whose it is, headers only: what `index` looks at. Written by the tests."""

import struct
from pathlib import Path

import numpy as np
from folder_tree import MARK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

PATIENT = f"{MARK}-P1"
MUSE = f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<RestingECG>
 <PatientDemographics><PatientID>{PATIENT}</PatientID><PatientLastName>{MARK}</PatientLastName></PatientDemographics>
 <TestDemographics><AcquisitionTime>10:15:30</AcquisitionTime><AcquisitionDate>01-01-2020</AcquisitionDate></TestDemographics>
</RestingECG>
"""
SIERRA = f"""<?xml version="1.0" encoding="UTF-8"?>
<restingecgdata xmlns="http://www3.medical.philips.com">
 <dataacquisition date="2020-01-01" time="10:15:30"/>
 <patient><generalpatientdata><patientid>{PATIENT}</patientid><name><lastname>{MARK}</lastname></name></generalpatientdata></patient>
</restingecgdata>
"""
AECG = f"""<?xml version="1.0" encoding="UTF-8"?>
<AnnotatedECG xmlns="urn:hl7-org:v3">
 <effectiveTime><low value="20200101101530.000"/></effectiveTime>
 <componentOf><timepointEvent><componentOf><subjectAssignment><subject><trialSubject>
  <id root="1.2.3" extension="{PATIENT}"/><subjectDemographicPerson><name>{MARK}</name></subjectDemographicPerson>
 </trialSubject></subject></subjectAssignment></componentOf></timepointEvent></componentOf>
</AnnotatedECG>
"""
CARDIOSOFT = f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<CardiologyXML>
 <ObservationDateTime><Hour>10</Hour><Minute>15</Minute><Second>30</Second><Day>1</Day><Month>1</Month><Year>2020</Year></ObservationDateTime>
 <PatientInfo><PID>{PATIENT}</PID><Name><FamilyName>{MARK}</FamilyName></Name></PatientInfo>
</CardiologyXML>
"""
FORMS = ("muse.xml", "sierra.xml", "aecg.xml", "cardiosoft.xml", "record.scp", "record.edf", "holter.ecg", "wave.dcm")


def scp() -> bytes:
    """Sections 0 and 1 of EN 1064; the others are empty."""

    def tag(number: int, value: bytes) -> bytes:
        return struct.pack("<BH", number, len(value)) + value

    name = tag(0, MARK.encode() + b"\0")
    fields = name + tag(2, PATIENT.encode() + b"\0") + tag(25, struct.pack("<HBB", 2020, 1, 1)) + tag(26, bytes((10, 15, 30)))
    first = struct.pack("<HHIBB", 0, 1, 16 + len(fields) + 3, 13, 13) + b"\0" * 6 + fields + tag(255, b"")
    length = 16 + 10 * 12
    pointers = struct.pack("<HII", 0, length, 7) + struct.pack("<HII", 1, len(first), 7 + length)
    pointers += b"".join(struct.pack("<HII", number, 0, 0) for number in range(2, 12))
    section = struct.pack("<HHIBB", 0, 0, length, 13, 13) + b"SCPECG" + pointers
    return struct.pack("<HI", 0, 6 + length + len(first)) + section + first


def edf() -> bytes:
    words = (("0", 8), (f"{PATIENT} F 02-MAY-1951 {MARK}", 80), (f"Startdate 01-JAN-2020 {MARK}", 80), ("01.01.20", 8))
    rest = (("10.15.30", 8), ("512", 8), ("EDF+C", 44), ("0", 8), ("1", 8), ("1", 4))
    return b"".join(word.ljust(width).encode() for word, width in (*words, *rest)) + b" " * 256


def ishne() -> bytes:
    head = bytearray(522)
    head[:8] = b"ISHNE1.0"
    head[28:34], head[68:74] = MARK.encode(), MARK.encode()
    head[108 : 108 + len(PATIENT)] = PATIENT.encode()
    struct.pack_into("<3h", head, 132, 2, 5, 1951)
    struct.pack_into("<3h", head, 138, 1, 1, 2020)
    struct.pack_into("<3h", head, 144, 7, 7, 2021)
    struct.pack_into("<3h", head, 150, 10, 15, 30)
    return bytes(head)


def write_wave(path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.9.1.1"
    meta.MediaStorageSOPInstanceUID = "1.2.826.777009.1"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = Dataset()
    ds.file_meta = meta
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.PatientID, ds.PatientName, ds.AcquisitionDateTime = PATIENT, MARK, "20200101101530"
    ds.save_as(path, enforce_file_format=True)


def write_forms(root: Path) -> Path:
    folder = root / "ecgs"
    folder.mkdir(parents=True)
    for name, text in (("muse", MUSE), ("sierra", SIERRA), ("aecg", AECG), ("cardiosoft", CARDIOSOFT)):
        (folder / f"{name}.xml").write_text(text)
    (folder / "invoice.xml").write_text(f"<Invoice><Payer>{MARK}</Payer></Invoice>")
    for name, data in (("record.scp", scp()), ("record.edf", edf()), ("holter.ecg", ishne())):
        (folder / name).write_bytes(data)
    write_wave(folder / "wave.dcm")
    for name in ("told", "untold"):
        np.save(folder / f"{name}.npy", np.zeros((12, 100), np.float32))
    (folder / "told.json").write_text('{"fs_hz": 500, "unit": "mv", "leads": ["I"]}')
    return root
