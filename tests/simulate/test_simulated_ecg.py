"""Laws of the simulated ECG."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from ecgecho.simulate.ecg import (
    FS_HZ,
    LEADS,
    TRAITS,
    Body,
    Electro,
    Recording,
    axes_deg,
    derive,
    dipole,
    draw_body,
    draw_electro,
    frank,
    project,
    record,
)
from ecgecho.simulate.heart import Heart, draw_heart, stream
from ecgecho.simulate.noise import draw_artefacts
from ecgecho.simulate.rhythm import ATRIAL, PACED, SINUS, VENTRICULAR, Beats, draw_beats

AVERAGE = Body(placement=np.zeros((6, 3)), traits=np.zeros(len(TRAITS)))
PLAIN = Heart(
    age=60,
    sex="F",
    height_cm=165.0,
    weight_kg=68.0,
    lvef=62.0,
    edv_ml=98.0,
    septal_mm=9.0,
    posterior_mm=8.5,
    la_ml=44.0,
    rv_mm=33.0,
    rvsp_mmhg=25.0,
    hr_bpm=70.0,
    rhythm="sinus",
    ectopy="none",
    ectopy_share=0.0,
    conduction="normal",
    infarct="none",
    infarct_size=0.0,
    aortic_stenosis=0,
    aortic_regurgitation=0,
    mitral_regurgitation=0,
    tricuspid_regurgitation=0,
)


def heart(**more: object) -> Heart:
    return dataclasses.replace(PLAIN, **more)  # type: ignore[arg-type]


def electro_of(of: Heart, item: int = 0, body: Body = AVERAGE, difficulty: float = 0.5) -> Electro:
    return draw_electro(of, body, stream(1, item, "measurement"), difficulty=difficulty)


def regular(kinds: list[int], rr_s: float = 0.85) -> Beats:
    """Beats on the grid of samples, the first one before the recording."""
    times = np.round((np.arange(len(kinds)) - 0.5) * rr_s * FS_HZ) / FS_HZ
    return Beats(
        hr_bpm=60 / rr_s,
        times_s=times,
        kinds=np.array(kinds, dtype=np.uint8),
        duration_s=10.0,
        respiration_hz=0.25,
        respiration_phase=0.0,
    )


def clean(of: Heart, beats: Beats, item: int = 0) -> np.ndarray:
    """(12, L) without noise."""
    electro = electro_of(of, item)
    return derive(project(dipole(of, electro, beats, stream(1, item, "ecg")), electro.electrodes))


def beat(of: Heart, kind: int = SINUS, item: int = 0) -> dict[str, np.ndarray]:
    """(400,) of each lead: 0.3 s before R to 0.5 s after it, less the level before P."""
    beats = regular([kind] * 13)
    signal = clean(of, beats, item)
    at = round(float(beats.times_s[5]) * FS_HZ)
    level = signal[:, at - 190 : at - 170].mean(1)
    return {name: signal[i, at - 150 : at + 250] - level[i] for i, name in enumerate(LEADS)}


QRS, T = slice(115, 200), slice(230, 380)


def extreme(wave: np.ndarray) -> float:
    return float(wave[np.abs(wave).argmax()])


def test_einthoven_and_goldberger_hold_exactly_before_noise() -> None:
    sick = draw_heart(stream(1, 4, "heart"), enrich=True)
    signal = clean(sick, draw_beats(sick, stream(1, 4, "ecg")))
    one, two, three = signal[:3]
    assert np.array_equal(three, two - one)
    assert np.array_equal(signal[LEADS.index("aVR")], -(one + two) / 2)
    assert np.array_equal(signal[LEADS.index("aVL")], one - two / 2)
    assert np.array_equal(signal[LEADS.index("aVF")], two - one / 2)
    assert np.abs(signal).max() > 0.3


def test_identities_hold_with_noise_but_where_an_electrode_is_off_and_there_the_lead_is_constant() -> None:
    held = 0
    for found in many_recordings(300):
        signal, off = found.signal_mv, [a for a in found.artefacts if a.kind == "lead_off"]
        broken = np.zeros(signal.shape[1], dtype=bool)
        for artefact in off:
            place = slice(round(artefact.start_s * FS_HZ), round(artefact.stop_s * FS_HZ))
            assert np.ptp(signal[LEADS.index(artefact.lead), place]) == 0
            broken[place] |= not artefact.lead.startswith("V")
            held += 1
        one, two, three = signal[:3, ~broken]
        np.testing.assert_allclose(three, two - one, atol=1e-5)
        np.testing.assert_allclose(signal[LEADS.index("aVF"), ~broken], two - one / 2, atol=1e-5)
    assert held > 0


def many_recordings(number: int) -> list[Recording]:
    beats = regular([SINUS] * 13)
    electro = electro_of(PLAIN)
    return [record(PLAIN, electro, beats, stream(8, item, "ecg")) for item in range(number)]


def test_noise_is_low_outside_the_recorded_artefacts_and_higher_inside_them() -> None:
    beats, electro = regular([SINUS] * 13), electro_of(PLAIN)
    quiet, loud = [], {"baseline_wander": [], "mains": [], "muscle": [], "motion": []}  # type: ignore[var-annotated]
    for item in range(150):
        found = record(PLAIN, electro, beats, stream(8, item, "ecg"))
        rng = stream(8, item, "ecg")
        assert draw_artefacts(rng) == found.artefacts
        noise = found.signal_mv - derive(project(dipole(PLAIN, electro, beats, rng), electro.electrodes))
        spared = np.ones(noise.shape, dtype=bool)
        for artefact in found.artefacts:
            place = slice(round(artefact.start_s * FS_HZ), round(artefact.stop_s * FS_HZ))
            row = LEADS.index(artefact.lead)
            if artefact.kind in loud:
                loud[artefact.kind].append(noise[row, place].std())
            # A limb electrode reaches the chest leads through Wilson's terminal.
            spared[[row, *(range(6, 12) if row < 6 else ())], place] = False
        quiet.append(np.abs(noise[spared]).max())
    assert np.quantile(quiet, 0.95) < 0.25
    for kind, levels in loud.items():
        assert len(levels) >= 3, kind
        assert np.median(levels) > 0.04, kind


def test_the_same_stream_gives_the_same_bytes() -> None:
    sick = draw_heart(stream(2, 7, "heart"), enrich=True)
    first, second = (
        record(sick, electro_of(sick), draw_beats(sick, rng), rng) for rng in (stream(2, 7, "ecg"), stream(2, 7, "ecg"))
    )
    assert first.signal_mv.tobytes() == second.signal_mv.tobytes()
    assert first.artefacts == second.artefacts


def test_the_tallest_wave_of_a_beat_lies_at_its_r_time() -> None:
    beats = draw_beats(PLAIN, stream(2, 0, "ecg"))
    signal = clean(PLAIN, beats)[LEADS.index("II")]
    for time in beats.inside_s[1:-1]:
        window = signal[round((time - 0.2) * FS_HZ) : round((time + 0.2) * FS_HZ)]
        assert abs(int(window.argmax()) / FS_HZ - 0.2) < 0.015


def test_beats_cover_the_recording_with_one_before_and_one_after() -> None:
    for item in range(40):
        drawn = draw_heart(stream(3, item, "heart"), enrich=False)
        for duration_s in (10.0, 61.5):
            beats = draw_beats(drawn, stream(3, item, "ecg"), duration_s=duration_s)
            assert (np.diff(beats.times_s) > 0.15).all()
            assert beats.times_s[0] <= 0 < beats.times_s[1]
            assert beats.times_s[-2] < duration_s <= beats.times_s[-1]
            assert len(beats.inside_s) == len(beats.inside_kinds)
            assert 35 < beats.hr_bpm < 190


def test_fibrillation_is_irregular_and_pacing_is_not_and_breathing_moves_the_young() -> None:
    def spread(**more: object) -> float:
        rr = np.diff(draw_beats(heart(**more), stream(3, 0, "ecg"), duration_s=60.0).times_s)
        return float(rr.std() / rr.mean())

    assert spread(rhythm="paced") < 0.01 < spread(age=80) < spread(age=25) < 0.1 < spread(rhythm="af")
    fibrillating = electro_of(heart(rhythm="af"))
    assert fibrillating.pr_ms == 0 < fibrillating.fibrillation_mv
    assert electro_of(PLAIN).fibrillation_mv == 0 < electro_of(PLAIN).pr_ms


def test_a_ventricular_beat_is_followed_by_a_compensatory_pause_and_an_atrial_one_resets_the_node() -> None:
    for ectopy, kind in (("ventricular", VENTRICULAR), ("atrial", ATRIAL)):
        beats = draw_beats(heart(ectopy=ectopy, ectopy_share=0.2, age=85), stream(4, 0, "ecg"), duration_s=600.0)
        assert abs((beats.kinds == kind).mean() - 0.2) < 0.04
        at = np.flatnonzero(beats.kinds[1:-1] == kind) + 1
        rr = np.diff(beats.times_s)
        usual = float(np.median(rr[(beats.kinds[1:] == SINUS) & (beats.kinds[:-1] == SINUS)]))
        around = (rr[at - 1] + rr[at]) / usual
        assert (rr[at - 1] < 0.85 * usual).all()
        assert np.median(around) == pytest.approx(2.0, abs=0.05) if kind == VENTRICULAR else np.median(around) < 1.85
    assert (draw_beats(heart(rhythm="paced"), stream(4, 1, "ecg")).kinds == PACED).all()


@pytest.mark.parametrize("conduction", ["lbbb", "rbbb"])
def test_a_bundle_branch_block_widens_the_qrs(conduction: str) -> None:
    for item in range(5):
        assert electro_of(heart(conduction=conduction), item).qrs_ms > electro_of(PLAIN, item).qrs_ms + 15
        assert electro_of(heart(conduction=conduction), item).qrs_ms > 115


def test_r_grows_from_v1_to_v5_and_s_shrinks() -> None:
    usual = beat(PLAIN)
    tall = [usual[f"V{i}"][QRS].max() for i in range(1, 6)]
    deep = [-usual[f"V{i}"][QRS].min() for i in range(2, 7)]
    assert tall[0] < tall[2] < tall[3]
    assert tall[0] < 0.5 < tall[4]
    assert deep[0] > deep[2] > deep[4]
    assert all(extreme(usual[name][T]) > 0.05 for name in ("I", "II", "V2", "V3", "V4", "V5", "V6"))
    assert extreme(usual["aVR"][T]) < 0
    assert extreme(usual["aVR"][QRS]) < 0


def test_blocks_look_as_in_the_textbook() -> None:
    left, right = beat(heart(conduction="lbbb")), beat(heart(conduction="rbbb"))
    assert -left["V1"][QRS].min() > 3 * left["V1"][QRS].max()
    assert left["V6"][QRS].max() > 5 * -left["V6"][QRS].min()
    for name in ("I", "V1", "V2", "V6"):  # discordant T
        assert np.sign(extreme(left[name][T])) == -np.sign(extreme(left[name][QRS])), name
    late = slice(165, 200)
    assert right["V1"][late].max() > 0.3
    assert right["V6"][late].min() < -0.2
    assert extreme(right["V1"][T]) < 0


def test_a_paced_beat_has_a_spike_and_a_superior_axis() -> None:
    paced = beat(heart(rhythm="paced"), PACED)
    sharpest = np.abs(np.diff(paced["aVF"], n=2))
    own = np.abs(np.diff(beat(PLAIN)["aVF"], n=2))
    assert sharpest.max() > 4 * own.max()
    assert 0.05 < (150 - int(sharpest.argmax())) / FS_HZ < 0.1
    assert extreme(paced["aVF"][QRS]) < -0.4
    assert extreme(paced["V1"][QRS]) < -0.4
    assert electro_of(heart(rhythm="paced")).qrs_ms > 135


def test_axes_are_what_leads_i_and_avf_show() -> None:
    for of, lowest, highest in (
        (PLAIN, 20, 75),
        (heart(age=90, weight_kg=110.0), -30, 35),
        (heart(rhythm="paced"), -100, -45),
        (heart(conduction="lbbb"), -20, 60),
    ):
        _, axis, t_axis = axes_deg(of, electro_of(of))
        shown = beat(of, PACED if of.rhythm == "paced" else SINUS)
        measured = np.degrees(np.arctan2(shown["aVF"][110:205].sum() * 2 / np.sqrt(3), shown["I"][110:205].sum()))
        assert lowest < axis < highest
        assert measured == pytest.approx(axis, abs=14)
        t_measured = np.degrees(np.arctan2(shown["aVF"][T].sum() * 2 / np.sqrt(3), shown["I"][T].sum()))
        assert t_measured == pytest.approx(t_axis, abs=30)
    assert axes_deg(PLAIN, electro_of(PLAIN))[1] == pytest.approx(electro_of(PLAIN).axis_deg, abs=8)
    assert np.isnan(axes_deg(heart(rhythm="af"), electro_of(heart(rhythm="af")))[0])
    assert 30 < axes_deg(PLAIN, electro_of(PLAIN))[0] < 80


def test_a_ventricular_beat_is_wide_has_no_p_and_a_discordant_t() -> None:
    own, ectopic = beat(PLAIN), beat(PLAIN, VENTRICULAR)
    strong = max((name for name in LEADS), key=lambda name: np.abs(ectopic[name][QRS]).max())
    wide, narrow = (np.linalg.norm([wave[name][100:205] for name in LEADS], axis=0) for wave in (ectopic, own))
    assert (wide > 0.3 * wide.max()).sum() > 1.35 * (narrow > 0.3 * narrow.max()).sum()
    assert np.sign(extreme(ectopic[strong][T])) == -np.sign(extreme(ectopic[strong][QRS]))
    before_p = slice(20, 85)
    assert np.ptp(own["II"][before_p]) > 0.05 > np.ptp(ectopic["II"][before_p])


@pytest.mark.parametrize(
    ("site", "leads", "far"),
    [("anterior", ("V1", "V2", "V3"), "II"), ("inferior", ("III", "aVF"), "V3"), ("lateral", ("I", "aVL"), "III")],
)
def test_an_infarct_leaves_q_waves_and_inverted_t_in_its_leads(site: str, leads: tuple[str, ...], far: str) -> None:
    usual, scarred = beat(PLAIN), beat(heart(infarct=site, infarct_size=0.8))
    early = slice(120, 148)
    for name in leads:
        assert scarred[name][early].min() < min(usual[name][early].min() - 0.15, -0.15), name
        assert scarred[name][T].mean() < usual[name][T].mean() - 0.02, name
    assert scarred[far][early].min() > usual[far][early].min() - 0.15
    assert electro_of(heart(infarct=site, infarct_size=0.1)).infarct < 0.25


def test_atria_conduction_and_rate_show_in_their_intervals() -> None:
    large, small = electro_of(heart(la_ml=130.0)), electro_of(PLAIN)
    assert large.p_ms > small.p_ms + 8
    assert large.p_terminal > small.p_terminal + 0.03
    assert beat(heart(la_ml=130.0))["V1"][20:115].min() < beat(PLAIN)["V1"][20:115].min() - 0.02
    assert 208 <= electro_of(heart(conduction="first_degree")).pr_ms <= 320
    peak = {
        rr: int(clean(PLAIN, regular([SINUS] * 32, rr))[LEADS.index("V4")][round(rr * 3.5 * FS_HZ) + 60 :][:150].argmax())
        for rr in (0.5, 1.2)
    }
    assert peak[0.5] + 25 < peak[1.2]


def test_thick_walls_raise_voltage_on_average_but_not_in_every_heart() -> None:
    bodies = [draw_body(stream(6, i, "text")) for i in range(160)]
    thick = np.array([electro_of(heart(septal_mm=18.0, posterior_mm=16.0), i, bodies[i]).voltage for i in range(80)])
    thin = np.array([electro_of(PLAIN, i, bodies[i]).voltage for i in range(80, 160)])
    assert thick.mean() > 1.2 * thin.mean()
    assert thick.min() < thin.max()


def test_strain_inverts_the_lateral_t_wave() -> None:
    strained = beat(heart(septal_mm=19.0, posterior_mm=17.0, aortic_stenosis=3))
    assert extreme(strained["V6"][T]) < -0.05
    assert extreme(strained["I"][T]) < 0
    assert extreme(strained["V2"][T]) > 0.1


def test_two_ecgs_of_one_person_are_more_alike_than_those_of_two() -> None:
    bodies = [draw_body(stream(6, i, "text")) for i in range(60)]
    fields = ("axis_deg", "voltage", "t_amplitude_mv", "pr_ms", "posterior")
    first, second = (
        np.array([[getattr(electro_of(PLAIN, 100 * day + i, body), name) for name in fields] for i, body in enumerate(bodies)])
        for day in (0, 1)
    )
    within, between = (first - second).std(0), (first - second[::-1]).std(0)
    assert (within < 0.6 * between).all()
    one, other = (electro_of(PLAIN, item, bodies[0]).electrodes for item in (1, 2))
    assert np.abs(one - other).max() < 0.1 < np.abs(one - electro_of(PLAIN, 1, bodies[1]).electrodes).max()


def test_franks_leads_are_the_dipole_for_twenty_minutes() -> None:
    drawn = heart(rhythm="af", hr_bpm=80.0)
    electro = electro_of(drawn)
    beats = draw_beats(drawn, stream(7, 0, "ecg"), duration_s=1200.0)
    found = frank(drawn, electro, beats, stream(7, 0, "echo"))
    assert found.signal_mv.shape == (3, 1_200_000)
    assert found.leads == ("X", "Y", "Z")
    assert found.fs_hz == 1000
    rng = stream(7, 0, "echo")
    assert draw_artefacts(rng, duration_s=1200.0, frank=True) == found.artefacts
    noise = found.signal_mv - dipole(drawn, electro, beats, rng, fs_hz=1000)
    assert np.median(np.abs(noise)) < 0.05
    assert np.isfinite(found.signal_mv).all()
    with pytest.raises(AssertionError, match="another recording"):
        frank(drawn, electro, draw_beats(drawn, stream(7, 0, "ecg")), rng)


def test_the_ceiling_for_lvef_falls_with_difficulty_and_lies_between_080_and_092_at_the_default() -> None:
    people = [draw_heart(stream(9, i, "heart"), enrich=True) for i in range(3000)]
    bodies = [draw_body(stream(9, i, "text")) for i in range(3000)]
    y = np.array([person.lvef < 40 for person in people])
    names = [field.name for field in dataclasses.fields(Electro) if field.name != "electrodes"]
    found = []
    for difficulty in (0.0, 0.5, 1.0):
        rows = []
        for i, (person, body) in enumerate(zip(people, bodies, strict=True)):
            electro = draw_electro(person, body, stream(9, i, "measurement"), difficulty=difficulty)
            blur = 0.1 * stream(9, i, "note").normal()  # too small an infarct cannot be seen
            plain = [float(getattr(electro, name)) for name in names if name != "infarct"]
            rows.append([*plain, electro.infarct + blur, person.hr_bpm, *electro.electrodes.ravel()])
        x, fold = np.array(rows), np.arange(3000) % 2
        score = np.zeros(3000)
        for out in (0, 1):
            model = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.08, max_leaf_nodes=8, random_state=0)
            score[fold == out] = model.fit(x[fold != out], y[fold != out]).decision_function(x[fold == out])
        found.append(roc_auc_score(y, score))
    assert found[0] > 0.95
    assert 0.80 < found[1] < 0.92
    assert 0.58 < found[2] < 0.74
