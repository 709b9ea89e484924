"""The PCME++ and InfoNCE losses equal the public references, values and gradients (parity)."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from golden_rules import assert_matches, case, keys, series
from torch import Tensor

from ecgecho.losses.info_nce import info_nce
from ecgecho.losses.pcme import csd_logits, pcme_loss
from ecgecho.types import Embedding

TOPICS = ["pcmepp_loss", "echoingecg_loss"]
NAMES = {  # the files there are; each must stay
    "pcmepp_loss": "B4_D8_l2n B4_D8_raw B4_D256_l2n B4_D256_raw B16_D8_raw B16_D8_tie B16_D256_l2n B16_D256_raw "
    "B33_D8_l2n B33_D8_raw B33_D256_l2n",
    "echoingecg_loss": "B4_D8_l2n B4_D8_raw B4_D8_tie B4_D256_l2n B4_D256_raw B16_D8_l2n B16_D8_raw B16_D8_tie "
    "B16_D256_l2n B16_D256_raw B33_D8_raw B33_D256_l2n B33_D256_raw",
}
CASES = [(topic, name) for topic in TOPICS for name in NAMES[topic].split()]
DEFAULTS = {
    "pcmepp_loss": {"vib_beta": 0.0, "smoothness_alpha": 0.0},
    "echoingecg_loss": {"vib_beta": 1e-4, "smoothness_alpha": 0.1},
}


def inputs(name: str) -> tuple[Embedding, Embedding]:
    batch, dim, kind = name.split("_")
    shape = (int(batch[1:]), int(dim[1:]))
    mu1 = series(shape)
    mu2 = np.float32(0.8) * series(shape) + series(shape, 5000, 0.6)
    s1 = series(shape, 111, 0.3) - np.float32(1)
    s2 = series(shape, 777, 0.3) - np.float32(0.5)
    if kind in ("l2n", "tie"):
        mu1 = mu1 / (np.sqrt((mu1**2).sum(-1, keepdims=True)) + np.float32(1e-8))
        mu2 = mu2 / (np.sqrt((mu2**2).sum(-1, keepdims=True)) + np.float32(1e-8))
        s1, s2 = s1 - np.float32(4), s2 - np.float32(4.5)
    if kind == "tie":
        mu2, s2 = mu1.copy(), s1.copy()
        mu2[1], s2[1] = mu2[0], s2[0]
    return _leaf(mu1, s1), _leaf(mu2, s2)


def _leaf(mean: np.ndarray, logvar: np.ndarray) -> Embedding:
    return Embedding(mean=torch.tensor(mean, requires_grad=True), logvar=torch.tensor(logvar, requires_grad=True))


def matched_of(kind: str, size: int) -> Tensor | None:
    eye = np.eye(size, dtype=np.float32)
    if kind == "mix":
        return torch.tensor(((1 - 0.3) * eye + 0.3 * np.roll(eye, 1, axis=1)) * (1 - 1e-4) + 1e-4 / size, dtype=torch.float32)
    if kind == "multi":
        for i in range(0, size - 1, 2):
            eye[i, i + 1] = 1
        return torch.tensor(eye)
    return None


@cache
def golden(topic: str, name: str) -> dict[str, np.ndarray]:
    return case(topic, name)


@pytest.mark.parametrize(("topic", "name"), CASES)
def test_the_loss_its_parts_and_its_gradients_equal_the_reference(topic, name):
    reference = golden(topic, name)
    settings = sorted({key.split("/")[0] for key in reference if "/" in key and not key.startswith("infonce")})
    assert len(settings) >= 7
    for setting in settings:
        options, _, kind = setting.partition("__matched_")
        values = {**DEFAULTS[topic], **keys(topic)["settings"][options]}
        a, b = inputs(name)
        scale = torch.tensor([float(values.get("init_negative_scale", 5))], requires_grad=True)
        shift = torch.tensor([float(values.get("init_shift", 5))], requires_grad=True)
        parts = pcme_loss(
            a,
            b,
            scale,
            shift,
            matched=matched_of(kind, len(a.mean)),
            vib_weight=values["vib_beta"],
            pseudo_weight=values["smoothness_alpha"],
            distance=values.get("prob_distance", "csd"),
            parity=True,
        )
        parts["loss"].sum().backward()
        computed = {
            "loss": parts["loss"],
            "match_loss": parts["match"],
            "kl1": parts["kl_a"],
            "kl2": parts["kl_b"],
            "vib_loss": parts["kl_a"] + parts["kl_b"],
            "smooth_i2t": parts["pseudo_ab"],
            "smooth_t2i": parts["pseudo_ba"],
            "n_pseudo_gts": parts["num_pseudo"],
            "g_mu1": a.mean.grad,
            "g_mu2": b.mean.grad,
            "g_logsigma1": a.logvar.grad,
            "g_logsigma2": b.logvar.grad,
            "g_shift": shift.grad,
            "g_negative_scale": scale.grad,
        }
        present = {key.split("/")[1].split("__")[0] for key in reference if key.startswith(f"{setting}/")}
        assert {"loss", "g_mu1", "g_negative_scale"} <= present
        for key in present & set(computed):
            value = computed[key]
            own = {k.split("/", 1)[1]: v for k, v in reference.items() if k.startswith(f"{setting}/")}
            if key in own:
                value = value.reshape(own[key].shape)
            assert_matches(own, key, value)


@pytest.mark.parametrize(("topic", "name"), CASES)
@pytest.mark.parametrize("exact", [True, False])
def test_both_forms_of_the_logits_equal_the_reference(topic, name, exact):
    reference = golden(topic, name)
    a, b = inputs(name)
    five = torch.tensor([5.0])
    assert_matches(reference, "csd_logits_scale5_shift5", csd_logits(a, b, five, five, exact=exact))
    assert_matches(reference, "csd_distance", csd_logits(a, b, -torch.ones(1), torch.zeros(1), exact=exact))
    assert_matches(reference, "wd_logits_scale5_shift5", csd_logits(a, b, five, five, distance="wdist", exact=exact))


@pytest.mark.parametrize(("topic", "name"), [case for case in CASES if "tie" not in case[1]])
@pytest.mark.parametrize("tau", [1, 5])
@pytest.mark.parametrize("directions", ["both", "a_to_b"])
def test_info_nce_equals_the_reference(topic, name, tau, directions):
    reference = golden(topic, name)
    prefix = f"infonce_tau{tau}{'' if directions == 'both' else '_distributed'}/"
    own = {key.removeprefix(prefix): value for key, value in reference.items() if key.startswith(prefix)}
    a, b = inputs(name)
    scale = torch.tensor([float(tau)], requires_grad=True)
    loss = info_nce(a.mean, b.mean, scale, directions=directions)
    loss.backward()
    assert_matches(own, "loss", loss)
    assert_matches(own, "g_tau", scale.grad)
    assert_matches(own, "g_mu1", a.mean.grad)
    assert_matches(own, "g_mu2", b.mean.grad)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_kl_above_ten_thousand_is_dropped_in_parity(topic):
    reference = golden(topic, "vib_explosion_B4_D8")
    a, b = inputs("B4_D8_raw")
    a = _leaf(a.mean.detach().numpy() * np.float32(200), a.logvar.detach().numpy() + np.float32(12))
    five = torch.tensor([5.0])
    parts = pcme_loss(a, b, five, five, parity=True)
    parts["loss"].backward()
    assert float(parts["kl_a"].detach()) == 0.0
    assert_matches(reference, "loss", parts["loss"])
    assert_matches(reference, "g_mu1", a.mean.grad)
    assert_matches(reference, "g_logsigma1", a.logvar.grad)
    assert_matches(reference, "vib_loss", parts["kl_a"] + parts["kl_b"])
    assert_matches(reference, "kl2_only", parts["kl_b"])
    assert int(parts["num_pseudo"]) == int(reference["n_pseudo"])
