"""Alignment heads equal the reference's."""

from __future__ import annotations

import golden_rules as golden
import pytest
import torch

from ecgecho.nn.alignment import alignment_head

TOPIC = "echo2ecg_aggregator"
NAMES = {"linear": "linear", "star": "sail_star", "mlp": "sail_mlp", "simclr": "simclr"}


@pytest.mark.parametrize("alignment", NAMES)
def test_a_head_equals_the_reference(alignment):
    name = NAMES[alignment]
    rules = golden.keys(TOPIC)[f"head_{name}"]
    head = alignment_head(alignment, 24, 16).eval()
    golden.load_filled(head, {key: rule for key, rule in rules.items() if not key.startswith("logit_")}, "B")
    out = head(torch.from_numpy(golden.series((5, 24))))
    golden.assert_matches(golden.case(TOPIC, "projection_heads_fillB"), f"{name}/out", out)
