"""Laws of the classification losses with unknown labels."""

from __future__ import annotations

import math

import pytest
import torch

from ecgecho.losses.classify import binary_cross_entropy, cross_entropy

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 3, generator=GENERATOR, dtype=torch.float64)
LABELS = (torch.rand(6, 3, generator=GENERATOR, dtype=torch.float64) < 0.5).double()
VALID = torch.rand(6, 3, generator=GENERATOR) < 0.6


def test_binary_cross_entropy_equals_its_loop_form():
    total, known = 0.0, 0
    for i in range(6):
        for k in range(3):
            if VALID[i, k]:
                p = 1 / (1 + math.exp(-float(LOGITS[i, k])))
                total -= math.log(p if LABELS[i, k] == 1 else 1 - p)
                known += 1
    assert float(binary_cross_entropy(LOGITS, LABELS, VALID)) == pytest.approx(total / known)


def test_unknown_labels_are_padding_whatever_they_hold():
    spoiled = torch.where(VALID, LABELS, torch.nan)
    torch.testing.assert_close(binary_cross_entropy(LOGITS, spoiled, VALID), binary_cross_entropy(LOGITS, LABELS, VALID))
    classes = torch.tensor([0, 1, 2, -1, -1, 1])
    torch.testing.assert_close(
        cross_entropy(LOGITS, classes, classes >= 0),
        cross_entropy(LOGITS[classes >= 0], classes[classes >= 0], torch.ones(4) > 0),
    )


def test_without_a_known_label_the_losses_are_zero():
    assert float(binary_cross_entropy(LOGITS, LABELS, torch.zeros(6, 3, dtype=torch.bool))) == 0.0
    assert float(cross_entropy(LOGITS, torch.zeros(6, dtype=torch.int64), torch.zeros(6, dtype=torch.bool))) == 0.0


def test_equal_logits_cost_the_logarithm_of_the_number_of_classes():
    zeros = torch.zeros(4, 3)
    assert float(binary_cross_entropy(zeros, zeros, zeros == 0)) == pytest.approx(math.log(2))
    assert float(cross_entropy(zeros, torch.tensor([0, 1, 2, 0]), torch.ones(4) > 0)) == pytest.approx(math.log(3))


def test_the_order_of_the_batch_does_not_matter_to_classification():
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    torch.testing.assert_close(
        binary_cross_entropy(LOGITS[order], LABELS[order], VALID[order]), binary_cross_entropy(LOGITS, LABELS, VALID)
    )


def test_classification_is_finite_and_in_fp32_for_bf16_inputs():
    loss = binary_cross_entropy(LOGITS.bfloat16() * 100, LABELS.bfloat16(), VALID)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(cross_entropy(LOGITS.bfloat16() * 100, torch.zeros(6, dtype=torch.int64), torch.ones(6) > 0))
