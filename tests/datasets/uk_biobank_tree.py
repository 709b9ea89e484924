"""UK Biobank's resting ECGs as public readers of them describe the XML (no real file was at hand), in two folders."""

from pathlib import Path

MARK = "MARKED"
"""Every identifier in these files holds this word."""
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def document(
    *, number: int = 1, kind: str = "RestECG", sex: str = "FEMALE", day: str = "14", rate: str = "61", unit: str = "BPM"
) -> bytes:
    waves = "".join(
        f'<WaveformData lead="{lead}">{",".join(str(number * 10 + place) for place in range(500))},</WaveformData>\n'
        for lead in LEADS
    )
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<CardiologyXML>
 <ObservationType>{kind}</ObservationType>
 <ObservationDateTime><Hour>9</Hour><Minute>31</Minute><Second>5</Second>
  <Day>{day}</Day><Month>6</Month><Year>2015</Year></ObservationDateTime>
 <PatientInfo><PID>{MARK}-PID</PID><Name><FamilyName>{MARK}M\u00fcller</FamilyName><GivenName>{MARK}</GivenName></Name>
  <Age units="years">64</Age><BirthDateTime><Day>1</Day><Month>2</Month><Year>1951</Year></BirthDateTime>
  <Gender>{sex}</Gender></PatientInfo>
 <Interpretation><Conclusion><ConclusionText>{MARK} Sinusrhythmus</ConclusionText></Conclusion></Interpretation>
 <FilterSetting><Filter50Hz>yes</Filter50Hz><Filter60Hz>no</Filter60Hz><LowPass units="Hz">150</LowPass></FilterSetting>
 <RestingECGMeasurements>
  <VentricularRate units="{unit}">{rate}</VentricularRate><PQInterval units="ms">160</PQInterval>
  <QRSDuration units="ms">92</QRSDuration>
  <QTInterval units="ms">400</QTInterval><QTCInterval units="ms">403</QTCInterval><RAxis units="degrees">-12</RAxis>
  <MedianSamples><NumberOfLeads>12</NumberOfLeads><SampleRate units="Hz">500</SampleRate>
   <WaveformData lead="I">1,2</WaveformData></MedianSamples>
 </RestingECGMeasurements>
 <StripData>
  <NumberOfLeads>12</NumberOfLeads><SampleRate units="Hz">500</SampleRate><ChannelSampleCountTotal>500</ChannelSampleCountTotal>
  <Resolution units="uVperLsb">5</Resolution>
{waves} </StripData>
</CardiologyXML>
""".encode("iso-8859-1")


FILES = {
    "10/1000037_20205_2_0.xml": document(number=1),
    "10/1000037_20205_3_0.xml": document(number=2, day="15"),
    "20/2000011_20205_2_0.xml": document(number=3, sex="MALE", rate="700"),
    "20/2000022_20205_2_0.xml": document(number=4, day="31"),  # of June: no such day
    "20/2000022_6025_0_0.xml": document(kind="ExerciseECG"),
}
LABELS = "eid,p22420_i2,p22421_i2\n1000037,61.5,140\n2000011,0.58,\n9999999,55,120\n"


def write_uk_biobank(root: Path) -> Path:
    for name, content in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "labels.csv").write_text(LABELS)
    return root
