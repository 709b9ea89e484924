"""Moments, normalisation, augmentation and tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgecho.config import DataOptions
from ecgecho.data import augment
from ecgecho.data.tables import Normaliser, merge_moments
from ecgecho.data.texts import NUMBER, UNKNOWN, TokenTable, Words, key_of, prepared, split

CPU = torch.device("cpu")


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_merged_moments_are_those_of_all_frames_together(sizes, seed):
    clips = [np.random.default_rng(seed + k).normal(size=(n, 3)) for k, n in enumerate(sizes)]
    mean, std = (np.stack([f(c, axis=0) for c in clips]) for f in (np.mean, np.std))
    merged = merge_moments(mean, std, np.array(sizes))
    np.testing.assert_allclose(merged[0], np.concatenate(clips).mean(0), atol=1e-9)
    np.testing.assert_allclose(merged[1], np.concatenate(clips).std(0), atol=1e-7)


def test_a_normalised_ecg_has_the_fitted_scale_and_nothing_on_invalid_leads():
    normalise = Normaliser(np.array([1.0, 2.0], np.float32), np.array([2.0, 0.0], np.float32), CPU)
    signal = torch.tensor([[[1.0, 3.0], [5.0, torch.nan]]])
    result = normalise(signal, torch.tensor([[True, False]]))
    np.testing.assert_array_equal(result, [[[0.0, 1.0], [0.0, 0.0]]])


def test_augmentation_is_a_function_of_the_seed_and_leaves_invalid_leads_empty():
    ecg, valid = torch.randn(8, 12, 200), torch.ones(8, 12, dtype=torch.bool)
    valid[:, 5] = False
    one, again, other = (augment.light(ecg, valid, seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert (one[:, 5] == 0).all()
    dropped = (one[:, valid[0]] == 0).all(-1).float().mean()
    assert 0 < dropped < 0.2


def test_a_shift_moves_all_leads_alike_and_lets_zeros_in(monkeypatch):
    monkeypatch.setattr(augment, "NOISE", 0.0)
    monkeypatch.setattr(augment, "DROP_LEAD", 0.0)
    ecg = torch.arange(1.0, 101.0).expand(1, 12, 100)
    moved = augment.light(ecg, torch.ones(1, 12, dtype=torch.bool), 4)[0]
    assert (moved == moved[:1]).all()
    kept = moved[0][moved[0] > 0]
    assert len(kept) >= 90
    assert (kept.diff() == 1).all()


def test_a_vocabulary_needs_five_subjects_not_five_texts_and_takes_no_numbers():
    texts = [(0, f"rare word {k}") for k in range(9)] + [(k, f"common 1st v1 40 s48210{k} 2180-03-12") for k in range(5)]
    words = Words.fit(texts, max_tokens=10)
    assert {"common", "1st", "v1"} <= set(words.tokens)
    assert not {"rare", "word", "40", "2180", "03", "12"} & set(words.tokens)
    assert not [t for t in words.tokens if t.startswith("s48")]
    ids = words.encode("common 40 newword s482109")
    assert [words.tokens[i] for i in ids[1:]] == ["common", NUMBER, UNKNOWN, NUMBER]
    assert len(words.encode("common " * 50)) == 10
    assert words.encode("") == words.encode("...")


def test_the_order_of_texts_does_not_change_the_vocabulary():
    texts = [(k, word) for k in range(6) for word in ("b a", "c b", "c")]
    assert Words.fit(texts, max_tokens=5).tokens == Words.fit(texts[::-1], max_tokens=5).tokens


def test_tokens_are_padded_and_marked():
    words = Words.fit([(k, "sinus rhythm normal") for k in range(5)], max_tokens=8)
    table = TokenTable(["Sinus", "sinus RHYTHM normal"], words, DataOptions())
    ids, valid = table.take(np.array([1, 0, 1]))
    assert valid.sum(1).tolist() == [4, 2, 4]
    assert (ids[1, 2:] == 0).all()
    np.testing.assert_array_equal(ids[0], words.encode("sinus rhythm normal"))


def test_the_template_is_filled_once_and_the_text_lower_cased():
    assert prepared("ECG {text}", DataOptions(text_template="A {text} B")) == "A ecg {text} B"
    with pytest.raises(ValueError, match="once"):
        DataOptions(text_template="no place")


def test_equal_texts_have_equal_keys_whatever_their_case_and_space():
    assert key_of(" Sinus  Rhythm\n") == key_of("sinus rhythm") != key_of("sinus")
    assert split("EF 45%, St-T <V1>") == ["ef", "45", "%", "st", "t", "<", "v1", ">"]
