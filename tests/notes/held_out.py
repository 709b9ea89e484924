"""Sentences in the manner of discharge summaries with what a careful reader takes from them about the heart now.

Written before the extractor, in our own words; no sentence is from a patient. The first run's score is in docs/notes.md; its
four faults were mended afterwards, so these passages now guard what is reached and measure nothing.

Each case is (text, {finding: (low, high)}); a finding that is not listed must not be reported. Grades: 0 none, 0.5 trace, 1 mild,
2 moderate, 3 severe; PRESENT is a finding without a grade. Numbers in %, mmHg and mm.
"""

from __future__ import annotations

PRESENT = (0.5, 3.0)
ABSENT = (0.0, 0.0)
MILD, MODERATE, SEVERE, TRACE = (1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (0.5, 0.5)

CASES: list[tuple[str, dict[str, tuple[float, float]]]] = [
    # Ejection fraction as a number
    ("TTE showed an ejection fraction of 35-40%.", {"lvef": (35, 40)}),
    ("Echo this admission: LVEF 25%.", {"lvef": (25, 25)}),
    ("ECHO with EF>55%.", {"lvef": (55, 100)}),
    ("EF is severely reduced at 15-20 %.", {"lvef": (15, 20), "lv_function": SEVERE}),
    ("Left ventricular ejection fraction was estimated at 45 percent by biplane Simpson's method.", {"lvef": (45, 45)}),
    ("Her EF was found to be between 30 and 35%.", {"lvef": (30, 35)}),
    ("TTE demonstrated LV EF <20% with severe global hypokinesis.", {"lvef": (0, 20), "wall_motion": SEVERE}),
    ("Estimated EF: 60 to 65 %", {"lvef": (60, 65)}),
    ("Cardiology was consulted, echo with 40% EF and no thrombus.", {"lvef": (40, 40)}),
    ("His EF has dropped from 50% to 30%.", {"lvef": (30, 30)}),
    ("EF down to 20% from 45% last year.", {"lvef": (20, 20)}),
    ("TTE notable for new depressed EF of 35% (55% in ___).", {"lvef": (35, 35), "lv_function": PRESENT}),
    ("LVEF 30%, previously 50%.", {"lvef": (30, 30)}),
    ("EF recovered from 15% to 50-55% on repeat imaging.", {"lvef": (50, 55)}),
    ("Left Ventricle - Ejection Fraction: 45% to 50%  >= 55%", {"lvef": (45, 50)}),
    ("Ejection fraction in the 20s on TTE.", {"lvef": (20, 29)}),
    ("EF ~ 40 on bedside echo", {"lvef": (40, 40)}),
    ("LVEF 0.55", {"lvef": (55, 55)}),
    ("TTE (___): LVEF=62%. Biatrial enlargement.", {"lvef": (62, 62)}),
    ("Overall left ventricular systolic function is low normal (LVEF 50-55%).", {"lvef": (50, 55), "lv_function": (0, 1)}),
    # Values that are not of now
    ("If EF is below 35% at three months she will need an ICD.", {}),
    ("Plan for TTE as outpatient to reassess EF, goal EF > 40%.", {}),
    ("74 yo M with ischemic cardiomyopathy (EF 20%), CKD, who presents with dyspnea.", {}),
    ("Last TTE at outside hospital two years ago had EF 60%.", {}),
    ("Past Medical History:\n- systolic CHF, EF 25%\n- severe AS s/p TAVR\n- DM2", {}),
    ("Family History:\nBrother has an EF of 10% and received an LVAD.", {}),
    ("His father died of a cardiomyopathy with EF 15%.", {}),
    ("Known EF of 40%, here with cellulitis.", {}),
    ("TTE in ___ showed EF 55% and mild MR.", {}),
    ("Baseline EF 30%. Repeat echo now with EF 25%.", {"lvef": (25, 25)}),
    ("Prior echo: EF 65%. TTE during this hospitalization: EF 45%.", {"lvef": (45, 45)}),
    ("Compared with the prior study (images reviewed) of ___, the LVEF is lower at 35%.", {"lvef": (35, 35)}),
    ("No prior TTE for comparison; EF today 50%.", {"lvef": (50, 50)}),
    ("Prior to discharge a TTE was done and showed EF 45%.", {"lvef": (45, 45)}),
    ("Start sacubitril once EF confirmed <40%.", {}),
    ("Patients with an EF under 35% benefit from a defibrillator.", {}),
    ("RVEF 35% on cardiac MRI.", {}),
    ("Nuclear stress: no ischemia, calculated LVEF 58%.", {}),
    ("Will get TTE to evaluate for EF and wall motion abnormality.", {}),
    ("Per his daughter he has heart trouble; TTE here with EF 30%.", {"lvef": (30, 30)}),
    ("HFpEF exacerbation, treated with diuretics.", {}),
    # Function in words
    ("TTE revealed preserved biventricular function.", {"lv_function": ABSENT, "rv_function": ABSENT}),
    ("There is moderately depressed left ventricular systolic function.", {"lv_function": MODERATE}),
    ("No evidence of LV systolic dysfunction on echo.", {"lv_function": ABSENT}),
    ("Mild to moderate LV systolic dysfunction.", {"lv_function": (1, 2)}),
    ("LV function was hyperdynamic.", {"lv_function": ABSENT}),
    ("Echo: normal EF, no WMA, no pericardial effusion.", {"lv_function": ABSENT, "wall_motion": ABSENT, "effusion": ABSENT}),
    ("Renal function was severely impaired and thyroid function normal.", {}),
    (
        "Left ventricular wall thickness, cavity size and regional/global systolic function are normal (LVEF >55%).",
        {"lvh": ABSENT, "lv_dilation": ABSENT, "lv_function": ABSENT, "lvef": (55, 100)},
    ),
    ("RV systolic function is moderately reduced.", {"rv_function": MODERATE}),
    ("Right ventricular chamber size and free wall motion are normal.", {"rv_function": ABSENT, "rv_dilation": ABSENT}),
    ("The right ventricle is severely dilated with depressed free wall motion.", {"rv_dilation": SEVERE, "rv_function": PRESENT}),
    # Walls and cavity
    ("There is mild symmetric left ventricular hypertrophy with normal cavity size.", {"lvh": MILD, "lv_dilation": ABSENT}),
    ("TTE with moderate concentric LVH and EF 70%.", {"lvh": MODERATE, "lvef": (70, 70)}),
    ("No LVH. LV is mildly dilated.", {"lvh": ABSENT, "lv_dilation": MILD}),
    ("EKG: sinus rhythm, LVH with strain pattern.", {}),
    ("Benign prostatic hypertrophy with retention.", {}),
    ("The left ventricular cavity is moderately dilated.", {"lv_dilation": MODERATE}),
    ("Severely dilated LV with apical akinesis.", {"lv_dilation": SEVERE, "wall_motion": PRESENT}),
    ("The left atrium is moderately dilated.", {}),
    ("Septal wall thickness 1.6 cm, LVEDD 4.4 cm.", {"wall_mm": (16, 16), "lvedd_mm": (44, 44)}),
    ("IVSd 17 mm, LVIDd 61 mm", {"wall_mm": (17, 17), "lvedd_mm": (61, 61)}),
    ("Left Ventricle - Diastolic Dimension: *6.2 cm  <= 5.6 cm", {"lvedd_mm": (62, 62)}),
    ("Gallbladder wall thickness of 5 mm on ultrasound.", {}),
    ("Inferior and inferolateral hypokinesis were seen on echocardiogram.", {"wall_motion": PRESENT}),
    ("No regional wall motion abnormalities. Tardive dyskinesia on exam.", {"wall_motion": ABSENT}),
    # Valves
    ("Echo showed severe AS with valve area 0.7 cm2.", {"as": SEVERE}),
    ("There is moderate to severe (3+) mitral regurgitation.", {"mr": (2, 3)}),
    ("Mild mitral and moderate tricuspid regurgitation.", {"mr": MILD, "tr": MODERATE}),
    ("TTE: EF 55%, 1+ MR, 2+ TR.", {"lvef": (55, 55), "mr": MILD, "tr": MODERATE}),
    ("No AS or AR. Trace MR.", {"as": ABSENT, "ar": ABSENT, "mr": TRACE}),
    ("Aortic stenosis is not present; trivial aortic insufficiency.", {"as": ABSENT, "ar": TRACE}),
    ("TTE without significant valvular disease.", {"valve_disease": (0, 1)}),
    ("No significant mitral regurgitation was seen.", {"mr": (0, 1)}),
    ("Patient with MS (multiple sclerosis) and chronic pain on MS Contin.", {}),
    ("MR of the brain showed no acute infarct.", {}),
    ("EKG with prolonged PR interval and nonspecific changes.", {}),
    ("Aortic regurgitation (moderate) and mild MS.", {"ar": MODERATE, "ms": MILD}),
    ("History of severe MR s/p MVR; TTE with well seated prosthesis.", {}),
    ("Moderate AS, no AI, mild-mod MR on TTE", {"as": MODERATE, "ar": ABSENT, "mr": (1, 2)}),
    ("TR: severe. MR: none.", {"tr": SEVERE, "mr": ABSENT}),
    ("Cannot exclude mild aortic stenosis.", {}),
    # Pressure, effusion, diastole
    ("PASP 55 mmHg.", {"pasp_mmhg": (55, 55)}),
    ("Estimated PA systolic pressure is 40-45 mm Hg.", {"pasp_mmhg": (40, 45)}),
    ("Moderate pulmonary hypertension with RVSP > 60 mmHg.", {"ph": MODERATE, "pasp_mmhg": (60, 200)}),
    ("There is severe pulmonary artery systolic hypertension.", {"ph": SEVERE}),
    ("Right heart cath: PA 60/25, PCWP 22.", {}),
    ("Small circumferential pericardial effusion without tamponade.", {"effusion": (1, 1)}),
    ("CT chest: small bilateral pleural effusions, no pneumothorax.", {}),
    ("No pleural effusion; large pericardial effusion on TTE.", {"effusion": SEVERE}),
    ("Grade II diastolic dysfunction.", {"diastolic": MODERATE}),
    ("TTE: LVH, impaired relaxation, EF 65%", {"lvh": PRESENT, "diastolic": MILD, "lvef": (65, 65)}),
    ("No diastolic dysfunction.", {"diastolic": ABSENT}),
    # Whole passages
    (
        "History of Present Illness:\nMs. ___ is a 66 year old woman with HFrEF (EF 35% in ___) who presents with edema.\n \n"
        "Pertinent Results:\nTTE ___:\nThe left atrium is dilated. Overall left ventricular systolic function is severely\n"
        "depressed (LVEF= 20 %). There is no aortic valve stenosis. Moderate (2+) mitral regurgitation is\nseen. There is mild "
        "pulmonary artery systolic hypertension. There is no pericardial effusion.\n \n"
        "Brief Hospital Course:\n# Acute on chronic systolic HF: EF 20%, down from 35%.",
        {"lv_function": SEVERE, "lvef": (20, 20), "as": ABSENT, "mr": MODERATE, "ph": MILD, "effusion": ABSENT},
    ),
    (
        "Brief Hospital Course:\n# NSTEMI: went to cath, DES to LAD. TTE afterwards with EF 40% and anterior hypokinesis.\n"
        "TRANSITIONAL ISSUES:\n- repeat TTE in 6 weeks; if LVEF <35% refer for ICD",
        {"lvef": (40, 40), "wall_motion": PRESENT},
    ),
    (
        "Pertinent Results:\nECHO ___: EF 55-60%, mild LVH, PASP 38, trace TR.\n \nDischarge Instructions:\nYour heart's squeeze "
        "was normal.",
        {"lvef": (55, 60), "lvh": MILD, "pasp_mmhg": (38, 38), "tr": TRACE},
    ),
]
