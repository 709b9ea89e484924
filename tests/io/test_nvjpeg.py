"""Batched decoding for a GPU: its checks and its result, on the CPU; on a GPU where there is one."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from make_cine import jpeg, pictures
from PIL import Image

from ecgecho.io.nvjpeg import decode_jpegs_on
from ecgecho.types import ItemError, UserError


def code_of(frames):
    with pytest.raises(ItemError) as caught:
        decode_jpegs_on("cpu", frames)
    return caught.value.code


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_a_batch_gives_the_pixels_of_each_frame_alone(batch):
    frames = [jpeg(frame) for frame in pictures(7)]
    alone = np.stack([np.asarray(Image.open(io.BytesIO(frame))) for frame in frames])
    together = decode_jpegs_on("cpu", frames, batch=batch)
    np.testing.assert_array_equal(together.permute(0, 2, 3, 1).numpy(), alone)


def test_a_damaged_frame_or_one_of_another_size_is_an_item_error():
    frames = [jpeg(frame) for frame in pictures(4)]
    assert code_of([*frames[:2], frames[2][: len(frames[2]) // 2], frames[3]]) == "undecodable"
    assert code_of([*frames[:3], jpeg(pictures(1, 64, 64)[0])]) == "undecodable"
    assert code_of([b"no jpeg", *frames]) == "undecodable"
    assert code_of([]) == "undecodable"


def test_what_is_stored_as_rgb_is_not_given_to_a_decoder_that_may_take_it_for_ybr():
    assert code_of([jpeg(frame, stored="rgb", marker="adobe") for frame in pictures(2)]) == "unsupported_pixels"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_user_is_told_what_to_choose():
    with pytest.raises(UserError, match=r'decode="dct"'):
        decode_jpegs_on("cuda", [jpeg(frame) for frame in pictures(2)])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_nearly_the_pixels_of_the_cpu():
    frames = [jpeg(frame) for frame in pictures(7)]
    found = decode_jpegs_on("cuda", frames).cpu().int() - decode_jpegs_on("cpu", frames).int()
    assert found.abs().max() <= 4
