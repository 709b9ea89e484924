"""ECGs as a training step sees them: varied where the recording is, although the normaliser gives its padding values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecgecho.config import DataOptions
from ecgecho.data.batches import Batches
from ecgecho.data.examples import Examples, Material
from ecgecho.data.tables import Normaliser

NUM, LENGTH, RECORDED = 64, 200, 60
MEAN, STD = 0.5, 2.0
PADDING = -MEAN / STD


class Signals:
    """Recordings of 60 samples in rows of 200, at 10 mV and more; lead 3 holds nothing that counts."""

    class signal:
        shape = (12, LENGTH)

        @staticmethod
        def hold(blocks):
            pass

    @staticmethod
    def take(rows):
        signal = 10 + torch.rand((len(rows), 12, LENGTH), generator=torch.Generator().manual_seed(1))
        signal[:, :, RECORDED:] = 0
        signal[:, 3] = 7
        lead_valid = torch.ones(len(rows), 12, dtype=torch.bool)
        lead_valid[:, 3] = False
        return signal, lead_valid


def batch(**options):
    order = np.arange(NUM)
    split = Examples(
        ecg_id=tuple(f"e{s}" for s in order),
        row=order,
        subject=order,
        text=np.full(NUM, -1),
        labels=np.ones((NUM, 1), np.float32),
        labels_valid=np.ones((NUM, 1), bool),
        pair_ecg=order[:0],
        pair_study=order[:0],
    )
    batches = Batches(
        material=Material(splits={"train": split, "val": split}, texts=(), clips=(), notes=()),
        signals=Signals(),
        echo=None,
        tokens=None,
        normaliser=Normaliser(np.full(12, MEAN, np.float32), np.full(12, STD, np.float32), torch.device("cpu")),
        needs=frozenset({"labels"}),
        options=DataOptions(batch_size=NUM, **options),
        seed=5,
        device=torch.device("cpu"),
    )
    ecg = batches.train(0).ecg[0]
    assert (ecg[:, 3] == 0).all()
    return torch.cat([ecg[:, :3], ecg[:, 4:]], 1)


def test_a_crop_holds_no_padding_although_it_is_no_zero_to_the_model():
    cut = batch(augment="none", crop_samples=50)
    assert cut.shape[-1] == 50
    assert (cut > 4).all()
    assert len(cut[:, 0, 0].unique()) > 5
    longer = batch(augment="none", crop_samples=80)  # from the start, and the rest is padding
    assert (longer[..., :RECORDED] > 4).all()
    assert (longer[..., RECORDED:] == PADDING).all()


@pytest.mark.parametrize("crop_samples", [0, 80])
def test_the_published_augmentation_leaves_the_padding_as_it_is(crop_samples):
    varied, plain = (batch(augment=name, crop_samples=crop_samples) for name in ("otis", "none"))
    assert (varied[..., RECORDED:] == PADDING).all()
    assert (varied[..., :RECORDED] != plain[..., :RECORDED]).float().mean() > 0.99
