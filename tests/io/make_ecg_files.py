"""Hospital ECG files, byte for byte as their formats are published, written without our readers. Every field that can hold a
patient, a place, a date or a device holds a word with MARK in it.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib

import numpy as np

MARK = "Zzphi"
EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
TWELVE = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def counts_of(leads=EIGHT, num_samples=300, seed=0):
    """A smooth wandering signal of int16 a lead; the derived leads of 12 are the rounded sums of I and II."""
    rng = np.random.default_rng(seed)
    found = {}
    for lead in leads:
        steps = rng.integers(-12, 13, num_samples).cumsum() + (300 * (np.arange(num_samples) % 97 == 40)).astype(int)
        found[lead] = (steps - int(steps.mean())).astype(np.int64)
    if "III" in found:
        one, two = found["I"], found["II"]
        found["III"] = two - one
        found["aVR"], found["aVL"], found["aVF"] = -((one + two) // 2), (one - found["III"]) // 2, (two + found["III"]) // 2
    return found


def limb_of(one, two):
    """III, aVR, aVL, aVF from I and II."""
    return {"III": two - one, "aVR": -(one + two) / 2, "aVL": one - two / 2, "aVF": two - one / 2}


# --- GE MUSE XML ---------------------------------------------------------------------------------------------------------


def muse_lead(lead, values, *, per_bit="4.88", units="MICROVOLTS", crc=None, payload=None, count=None, off="FALSE", size="2"):
    payload = values.astype("<i2").tobytes() if payload is None else payload
    text = base64.b64encode(payload).decode()
    text = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    count = len(payload) // 2 if count is None else count
    return f"""
      <LeadData>
         <LeadByteCountTotal>{2 * count}</LeadByteCountTotal>
         <LeadTimeOffset>0</LeadTimeOffset>
         <LeadSampleCountTotal>{count}</LeadSampleCountTotal>
         <LeadAmplitudeUnitsPerBit>{per_bit}</LeadAmplitudeUnitsPerBit>
         <LeadAmplitudeUnits>{units}</LeadAmplitudeUnits>
         <LeadHighLimit>32767</LeadHighLimit>
         <LeadLowLimit>-32768</LeadLowLimit>
         <LeadID>{lead}</LeadID>
         <LeadOffsetFirstSample>0</LeadOffsetFirstSample>
         <FirstSampleBaseline>0</FirstSampleBaseline>
         <LeadSampleSize>{size}</LeadSampleSize>
         <LeadOff>{off}</LeadOff>
         <BaselineSway>FALSE</BaselineSway>
         <LeadDataCRC32>{zlib.crc32(payload) if crc is None else crc}</LeadDataCRC32>
         <WaveFormData>
{text}
         </WaveFormData>
      </LeadData>"""


def muse_waveform(kind, counts, *, base="500", exponent="0", **lead):
    parts = "".join(muse_lead(name, values, **lead) for name, values in counts.items())
    return f"""
   <Waveform>
      <WaveformType>{kind}</WaveformType>
      <WaveformStartTime>0</WaveformStartTime>
      <NumberofLeads>{len(counts)}</NumberofLeads>
      <SampleType>CONTINUOUS_SAMPLES</SampleType>
      <SampleBase>{base}</SampleBase>
      <SampleExponent>{exponent}</SampleExponent>
      <HighPassFilter>16</HighPassFilter>
      <LowPassFilter>150</LowPassFilter>
      <ACFilter>NONE</ACFilter>{parts}
   </Waveform>"""


def muse(*waveforms, encoding="ISO-8859-1", doctype='<!DOCTYPE RestingECG SYSTEM "restecg.dtd">'):
    """A file of these waveforms."""
    text = f"""<?xml version="1.0" encoding="{encoding}"?>
{doctype}
<RestingECG>
   <MuseInfo><MuseVersion>9.0.9.18167</MuseVersion></MuseInfo>
   <PatientDemographics>
      <PatientID>{MARK}0042</PatientID>
      <DateofBirth>02-29-1948 {MARK}</DateofBirth>
      <PatientLastName>{MARK}M\u00fcller</PatientLastName>
      <PatientFirstName>{MARK}Ada</PatientFirstName>
   </PatientDemographics>
   <TestDemographics>
      <SiteName>{MARK} General</SiteName>
      <AcquisitionDate>06-14-2025</AcquisitionDate>
      <AcquisitionDevice>{MARK}CART7</AcquisitionDevice>
      <OverreaderLastName>{MARK}Smith</OverreaderLastName>
   </TestDemographics>
   <Diagnosis><DiagnosisStatement><StmtText>{MARK} sinus rhythm</StmtText></DiagnosisStatement></Diagnosis>{"".join(waveforms)}
</RestingECG>
"""
    return text.encode(encoding)


# --- Philips Sierra XML --------------------------------------------------------------------------------------------------


def lzw(data):
    """Codes of 10 bits, the most significant bit first, the table full at 1022."""
    table = {bytes((i,)): i for i in range(256)}
    codes, word = [], b""
    for octet in data:
        longer = word + bytes((octet,))
        if longer in table:
            word = longer
            continue
        codes.append(table[word])
        if len(table) <= 1022:
            table[longer] = len(table)
        word = bytes((octet,))
    codes.append(table[word])
    bits = "".join(f"{code:010b}" for code in codes)
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


def xli_chunk(values):
    """One lead: second differences, high bytes then low bytes, LZW, 8 bytes of header."""
    values = [int(value) for value in values]
    step = [2 * b - a - c for a, b, c in zip(values, values[1:], values[2:], strict=False)]  # predicted minus actual
    words = [values[0], values[1], *(value + 64 for value in step[1:]), 64]
    words = np.array(words, np.int64).astype(np.uint16)
    packed = lzw((words >> 8).astype("u1").tobytes() + (words & 255).astype("u1").tobytes())
    return struct.pack("<ihh", len(packed), 0, step[0]) + packed


def residuals(counts):
    """The 12 leads as XLI holds them: III, aVR, aVL, aVF as what I and II leave over."""
    stored = dict(counts)
    one, two = counts["I"], counts["II"]
    stored["III"] = two - one - counts["III"]
    stored["aVR"] = -((one + two) // 2) - counts["aVR"]
    stored["aVL"] = (one - counts["III"]) // 2 - counts["aVL"]
    stored["aVF"] = (two + counts["III"]) // 2 - counts["aVF"]
    return stored


def sierra(counts, *, version="1.04", fs=500, resolution="5", xli=True, data=None, duration_ms=None, labels=None, offset="0"):
    """1.03 has its facts in signalcharacteristics, later versions on parsedwaveforms too."""
    num_samples = len(next(iter(counts.values())))
    duration_ms = round(1000 * num_samples / fs) if duration_ms is None else duration_ms
    if data is None:
        data = (
            b"".join(xli_chunk(values) for values in residuals(counts).values())
            if xli
            else b"".join(values.astype("<i2").tobytes() for values in counts.values())
        )
    text = base64.b64encode(data).decode()
    text = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    labels = " ".join(counts) if labels is None else labels
    facts = f'resolution="{resolution}" signaloffset="{offset}" samplespersecond="{fs}"' if version != "1.03" else ""
    signal = (
        f"<signalresolution>{resolution}</signalresolution>" if version == "1.03" else f"<resolution>{resolution}</resolution>"
    )
    compress = 'compression="XLI"' if version == "1.03" else 'compressflag="True" compressmethod="XLI"'
    compress = compress if xli else 'compressflag="False"'
    named = "" if version == "1.03" else f'numberofleads="{len(labels.split())}" leadlabels="{labels}"'
    return f"""<?xml version="1.0" encoding="UTF-16"?>
<restingecgdata xmlns="http://www3.medical.philips.com" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <documentinfo>
    <documentname>{MARK}.xml</documentname><documenttype>SierraECG</documenttype><documentversion>{version}</documentversion>
  </documentinfo>
  <patient><generalpatientdata>
    <patientid>{MARK}0042</patientid><name><lastname>{MARK}Mansfield</lastname><firstname>{MARK}C</firstname></name>
    <age><dateofbirth>1948-02-29</dateofbirth></age>
  </generalpatientdata></patient>
  <dataacquisition date="2025-07-21" time="10:41:44">
    <institution>{MARK} Hospital</institution><machine machineid="{MARK}17">PageWriter</machine>
    <signalcharacteristics>
      <samplingrate>{fs}</samplingrate>{signal}<bitspersample>16</bitspersample><signaloffset>{offset}</signaloffset>
      <signalsigned>True</signalsigned><acquisitiontype>STD-12</acquisitiontype>
      <numberchannelsallocated>{len(counts)}</numberchannelsallocated><numberchannelsvalid>{len(counts)}</numberchannelsvalid>
    </signalcharacteristics>
  </dataacquisition>
  <waveforms>
    <repbeats dataencoding="Base64" samplespersec="500" resolution="5"><repbeat leadname="I"><waveform duration="4">{
        base64.b64encode(np.full(600, 9999, "<i2").tobytes()).decode()
    }</waveform></repbeat></repbeats>
    <parsedwaveforms dataencoding="Base64" {compress} {named} durationperchannel="{duration_ms}" {facts}
        nbitspersample="16">{text}</parsedwaveforms>
  </waveforms>
</restingecgdata>
""".encode("utf-16")


# --- HL7 aECG ------------------------------------------------------------------------------------------------------------


def aecg_series(counts, *, code="RHYTHM", step="0.002", step_unit="s", scale="2.5", unit="uV", origin="0", derived=""):
    sequences = "".join(
        f"""<component><sequence><code code="MDC_ECG_LEAD_{lead.upper()}" codeSystem="2.16.840.1.113883.6.24"/>
        <value xsi:type="SLIST_PQ"><origin value="{origin}" unit="{unit}"/><scale value="{scale}" unit="{unit}"/>
        <digits>{" ".join(str(value) for value in values)}</digits></value></sequence></component>"""
        for lead, values in counts.items()
    )
    return f"""<component><series><id root="{MARK}.1"/><code code="{code}" codeSystem="2.16.840.1.113883.5.4"/>
      <effectiveTime><low value="20250614093211"/><high value="20250614093221"/></effectiveTime>
      <author><seriesAuthor><manufacturedSeriesDevice><id extension="{MARK}"/></manufacturedSeriesDevice></seriesAuthor></author>
      <component><sequenceSet>
        <component><sequence><code code="TIME_ABSOLUTE" codeSystem="2.16.840.1.113883.5.4"/><value xsi:type="GLIST_TS">
          <head value="20250614093211.000"/><increment value="{step}" unit="{step_unit}"/></value></sequence></component>
        {sequences}
      </sequenceSet></component>{derived}</series></component>"""


def aecg(*series):
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<AnnotatedECG xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <id root="{MARK}"/><code code="93000" codeSystem="2.16.840.1.113883.6.12"/>
  <componentOf><timepointEvent><componentOf><subjectAssignment><subject><trialSubject><id extension="{MARK}42"/>
    <subjectDemographicPerson><name>{MARK} Kumar</name><birthTime value="19480229"/></subjectDemographicPerson>
  </trialSubject></subject></subjectAssignment></componentOf></timepointEvent></componentOf>{"".join(series)}
</AnnotatedECG>
""".encode()


# --- GE CardioSoft XML (UK Biobank 20205) --------------------------------------------------------------------------------


def cardiosoft(counts, *, fs="500", resolution="5", units="uVperLsb", number=None, total=None, wrap=False, lower=False):
    total = len(next(iter(counts.values()))) if total is None else total
    waves = "".join(
        f'      <WaveformData lead="{lead.lower() if lower else lead}">{",".join(map(str, values))}</WaveformData>\n'
        for lead, values in counts.items()
    )
    strip = f"""   <StripData>
      <NumberOfLeads>{len(counts) if number is None else number}</NumberOfLeads>
      <SampleRate units="Hz">{fs}</SampleRate>
      <ChannelSampleCountTotal>{total}</ChannelSampleCountTotal>
      <Resolution units="{units}">{resolution}</Resolution>
{waves}   </StripData>
"""
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<CardiologyXML>
   <ObservationType>RestECG</ObservationType>
   <ObservationDateTime><Hour>9</Hour><Day>14</Day><Month>6</Month><Year>2015</Year></ObservationDateTime>
   <ClinicalInfo><DeviceInfo><Desc>{MARK} CardioSoft</Desc></DeviceInfo></ClinicalInfo>
   <PatientInfo><PID>{MARK}1234567</PID><Name><FamilyName>{MARK}M\u00fcller</FamilyName></Name><BirthDateTime><Year>1948</Year>
   </BirthDateTime></PatientInfo>
   <FilterSetting><CubicSpline>yes</CubicSpline><Filter50Hz>yes</Filter50Hz><Filter60Hz>no</Filter60Hz>
      <LowPass units="Hz">150</LowPass></FilterSetting>
   <RestingECGMeasurements><MedianSamples><NumberOfLeads>12</NumberOfLeads><SampleRate units="Hz">500</SampleRate>
      <ChannelSampleCountTotal>4</ChannelSampleCountTotal><Resolution units="uVperLsb">5</Resolution>
      <WaveformData lead="I">9999,9999,9999,9999</WaveformData></MedianSamples></RestingECGMeasurements>
{"<Strip>" + strip + "</Strip>" if wrap else strip}</CardiologyXML>
""".encode("iso-8859-1")


# --- SCP-ECG -------------------------------------------------------------------------------------------------------------

SCP_CODE = dict(zip(TWELVE, (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), strict=True))


def crc_ccitt(data):
    """0x1021, start 0xFFFF, bit by bit."""
    if len(data) > 1 << 16:
        return binascii.crc_hqx(data, 0xFFFF)  # the same; bit by bit megabytes take seconds
    crc = 0xFFFF
    for octet in data:
        crc ^= octet << 8
        for _ in range(8):
            crc = (crc << 1 ^ (0x1021 if crc & 0x8000 else 0)) & 0xFFFF
    return crc


def scp_section(number, body, *, crc=None):
    body = body + b"\0" * (len(body) % 2)
    rest = struct.pack("<HIBB6s", number, 16 + len(body), 13, 13, b"\0" * 6 if number else b"SCPECG") + body
    return struct.pack("<H", crc_ccitt(rest) if crc is None else crc) + rest


def default_huffman(values):
    bits = []
    for value in (int(value) for value in values):
        if value == 0:
            bits.append("0")
        elif abs(value) <= 8:
            bits.append("1" * abs(value) + "0" + ("1" if value < 0 else "0"))
        elif -128 <= value <= 127:
            bits.append("1111111110" + f"{value & 0xFF:08b}")
        else:
            bits.append("1111111111" + f"{value & 0xFFFF:016b}")
    text = "".join(bits)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


def differences(values, times):
    values = np.asarray(values, np.int64)
    if times == 0:
        return values
    if times == 1:
        return np.concatenate([values[:1], np.diff(values)])
    return np.concatenate([values[:2], np.diff(values, 2)])


def scp_leads(counts, *, avm_nv, interval_us, times, coded, bimodal=0):
    encode = default_huffman if coded else (lambda values: values.astype("<i2").tobytes())
    chunks = [encode(differences(values, times)) for values in counts.values()]
    chunks = [chunk + b"\0" * (len(chunk) % 2) for chunk in chunks]
    head = struct.pack("<HHBB", avm_nv, interval_us, times, bimodal)
    return head + struct.pack(f"<{len(chunks)}H", *map(len, chunks)) + b"".join(chunks)


def scp(counts, *, avm_nv=5000, interval_us=2000, times=2, coded=True, beat=None, qrs=(), spans=None, bimodal=0, tables=None,
        extra=(), crc=None):  # fmt: skip
    """`beat`: (fiducial, avm, counts) of the reference beat that is subtracted at every (kind, first, centre, last) of `qrs`."""
    num_samples = len(next(iter(counts.values())))
    flags = (1 if beat else 0) | 4 | len(counts) % 32 << 3
    leads = b"".join(struct.pack("<IIB", *(spans or {}).get(lead, (1, num_samples)), SCP_CODE.get(lead, 0)) for lead in counts)
    sections = {
        1: struct.pack("<BH", 0, 11) + f"{MARK}Kumar\0".encode()[:11].ljust(11, b"\0") + struct.pack("<BH", 2, 9)
        + f"{MARK}042\0".encode()[:9] + b"\xff\0\0",
        3: struct.pack("<BB", len(counts), flags) + leads,
    }  # fmt: skip
    if coded:
        sections[2] = struct.pack("<H", 19999) if tables is None else tables
    stored = {lead: np.asarray(values, np.int64) * avm_nv for lead, values in counts.items()}
    if beat:
        fiducial, beat_avm, beats = beat
        size = len(next(iter(beats.values())))
        sections[4] = struct.pack("<HHH", round(size * interval_us / 1000), fiducial, len(qrs)) + b"".join(
            struct.pack("<HIII", *one) for one in qrs
        )
        sections[5] = scp_leads(beats, avm_nv=beat_avm, interval_us=interval_us, times=times, coded=coded)
        for kind, first, centre, last in qrs:
            for n in range(max(1, first), min(num_samples, last) + 1):
                place = n - centre + fiducial - 1
                if kind == 0 and 0 <= place < size:
                    for lead, values in stored.items():
                        values[n - 1] -= beats[lead][place] * beat_avm
    residual = {lead: values // avm_nv for lead, values in stored.items()}
    sections[6] = scp_leads(residual, avm_nv=avm_nv, interval_us=interval_us, times=times, coded=coded, bimodal=bimodal)
    sections |= dict(extra)
    written = {number: scp_section(number, body, crc=crc) for number, body in sorted(sections.items())}
    offset = 7 + 16 + 10 * 12
    pointers = struct.pack("<HII", 0, 16 + 10 * 12, 7)
    for number in range(1, 12):
        size = len(written.get(number, b""))
        pointers += struct.pack("<HII", number, size, offset if size else 0)
        offset += size
    rest = scp_section(0, pointers) + b"".join(written[number] for number in sorted(written) if 1 <= number <= 11)
    rest = struct.pack("<I", 6 + len(rest)) + rest
    return struct.pack("<H", crc_ccitt(rest)) + rest


def scp_of_own_tables():
    """A file of two Huffman tables of its own, and its counts. First table: 0 is 0, 10 switches to the second, 11 is a number of
    16 bits. Second: 1 is 0, 0 is 7 more than a number of 16 bits. Prefixes have their first bit as the least significant.
    """
    tables = struct.pack("<HH", 2, 3) + struct.pack("<BBBhI", 1, 1, 1, 0, 0b0) + struct.pack("<BBBhI", 2, 2, 0, 2, 0b01)
    tables += struct.pack("<BBBhI", 2, 18, 1, 0, 0b11)
    tables += struct.pack("<H", 2) + struct.pack("<BBBhI", 1, 1, 1, 0, 0b1) + struct.pack("<BBBhI", 1, 17, 1, 7, 0b0)
    values = np.array([5, 0, 0, -300, 0, 12000, 0])
    bits = "11" + f"{5:016b}" + "0" + "10" + "1" + "0" + f"{-307 & 0xFFFF:016b}" + "1" + "0" + f"{12000 - 7:016b}" + "1"
    body = int(bits.ljust(96, "0"), 2).to_bytes(12, "big")
    section = struct.pack("<HHBBH", 5000, 2000, 0, 0, len(body)) + body
    return scp({"I": values}, tables=tables, extra={6: section}.items()), {"I": values}


# --- EDF -----------------------------------------------------------------------------------------------------------------


def edf(signals, *, record_s="1", records=None, reserved="", digital=("-32768", "32767")):
    """`signals`: rows of (label, unit, physical min, physical max, samples a record, raw int16)."""
    count = len(signals[0][5]) // signals[0][4]
    head = "0".ljust(8) + f"{MARK} F 29-FEB-1948 {MARK}_Kumar".ljust(80) + f"Startdate 14-JUN-2025 {MARK}".ljust(80)
    head += "14.06.2509.32.11" + str(256 * (len(signals) + 1)).ljust(8) + reserved.ljust(44)
    head += str(count if records is None else records).ljust(8) + record_s.ljust(8) + str(len(signals)).ljust(4)
    for width, column in (
        (16, [row[0] for row in signals]), (80, [f"{MARK} electrode"] * len(signals)), (8, [row[1] for row in signals]),
        (8, [row[2] for row in signals]), (8, [row[3] for row in signals]), (8, [digital[0]] * len(signals)),
        (8, [digital[1]] * len(signals)), (80, [f"{MARK} HP:0.05Hz"] * len(signals)), (8, [row[4] for row in signals]),
        (32, [""] * len(signals)),
    ):  # fmt: skip
        head += "".join(str(word).ljust(width) for word in column)
    data = [np.asarray(row[5]).astype("<i2")[n * row[4] : (n + 1) * row[4]].tobytes() for n in range(count) for row in signals]
    return head.encode("latin-1") + b"".join(data)


# --- ISHNE ---------------------------------------------------------------------------------------------------------------

ISHNE_CODE = dict(
    zip(("X", "Y", "Z", "I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"), range(2, 17), strict=True)
)


def ishne(counts, *, fs=200, nv=2500, free=b"", crc=None, total=None, codes=None):
    channels, num_samples = len(counts), len(next(iter(counts.values())))
    codes = [ISHNE_CODE[lead] for lead in counts] if codes is None else codes
    filler = [-9] * (12 - channels)
    head = struct.pack("<iiiih", len(free), channels * num_samples if total is None else total, 522, 522 + len(free), 1)
    head += (
        f"{MARK}Ada".encode().ljust(40, b"\0") + f"{MARK}Kumar".encode().ljust(40, b"\0") + f"{MARK}42".encode().ljust(20, b"\0")
    )
    head += struct.pack("<HH3H3H3H3H", 2, 1, 29, 2, 1948, 14, 6, 2025, 15, 6, 2025, 9, 32, 11)
    head += struct.pack("<h12h12h12hh", channels, *codes, *filler, *([1] * channels), *filler, *([nv] * channels), *filler, 0)
    head += f"{MARK} recorder".encode().ljust(40, b"\0") + struct.pack("<h", fs)
    head += f"{MARK}".encode().ljust(80, b"\0") + f"{MARK}".encode().ljust(80, b"\0") + b"\0" * 88 + free
    data = np.stack([np.asarray(values) for values in counts.values()], axis=1).astype("<i2").tobytes()
    return b"ISHNE1.0" + struct.pack("<H", crc_ccitt(head) if crc is None else crc) + head + data


# --- DICOM ---------------------------------------------------------------------------------------------------------------


def dicom_group(counts, *, fs=500.0, unit="uV", sensitivity="2.5", correction="1", baseline="0", originality="ORIGINAL",
                codes=True, meanings=True, padding=None, form="SS", dtype="<i2"):  # fmt: skip
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    def coded(value, scheme, meaning):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
        return Sequence([item])

    group = Dataset()
    values = np.stack([np.asarray(row) for row in counts.values()], axis=1)
    group.WaveformOriginality = originality
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = values.shape[1], values.shape[0]
    group.SamplingFrequency = str(fs)
    group.MultiplexGroupLabel = "RHYTHM" if originality == "ORIGINAL" else "MEDIAN BEAT"
    channels = []
    for lead in counts:
        channel = Dataset()
        code = f"5.6.3-9-{SCP_CODE.get(lead, 0)}" if codes is True else (codes or {}).get(lead, "0")
        channel.ChannelSourceSequence = coded(code, "SCPECG", f"Lead {lead}" if meanings else f"{MARK}")
        if sensitivity is not None:
            channel.ChannelSensitivity = sensitivity
            channel.ChannelSensitivityUnitsSequence = coded(unit, "UCUM", "microvolt")
            channel.ChannelSensitivityCorrectionFactor, channel.ChannelBaseline = correction, baseline
        channel.ChannelSampleSkew = "0"
        channel.WaveformBitsStored = np.dtype(dtype).itemsize * 8
        channels.append(channel)
    group.ChannelDefinitionSequence = Sequence(channels)
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = np.dtype(dtype).itemsize * 8, form
    if padding is not None:
        group.add_new(0x5400100A, "OW", np.array([padding], dtype).tobytes())
    group.add_new(0x54001010, "OW", values.astype(dtype).tobytes())
    return group


def dicom(path, *groups, big_endian=False):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sequence import Sequence
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, TwelveLeadECGWaveformStorage, generate_uid

    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = TwelveLeadECGWaveformStorage, generate_uid()
    dataset.Modality, dataset.PatientName, dataset.PatientID = "ECG", f"{MARK}^Ada", f"{MARK}42"
    dataset.PatientBirthDate, dataset.InstitutionName, dataset.AccessionNumber = "19480229", f"{MARK} Hospital", f"{MARK}7"
    dataset.WaveformSequence = Sequence(groups)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian if big_endian else ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = (
        dataset.SOPClassUID,
        dataset.SOPInstanceUID,
    )
    dataset.save_as(path, enforce_file_format=True, implicit_vr=False, little_endian=not big_endian)
    return path
