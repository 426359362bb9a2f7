"""Pictures on their way into the scene encoder, and cameras on their way out."""

import math

import numpy as np
import pytest
import torch
from golden_vggt import RECORD, error, golden, images, stream
from PIL import Image

from cinescene_core.checks import ShapeError
from cinescene_core.models.vggt import decode_poses, encode_poses, resize_for_vggt, vggt_size

# ---- poses ---------------------------------------------------------------------------------------


def test_pose_numbers_become_the_official_matrices_and_back():
    size = (518, 294)
    extrinsic, intrinsic = decode_poses(golden("pose_conv__enc"), size)
    assert error(extrinsic, golden("pose_conv__extr")) < 1e-6
    assert error(intrinsic, golden("pose_conv__intr")) < 1e-6
    assert error(encode_poses(extrinsic, intrinsic, size), golden("pose_conv__enc_back")) < 1e-6


@pytest.mark.parametrize(
    ("diagonal", "quaternion"),
    [((1, 1, 1), (0, 0, 0, 1)), ((1, -1, -1), (1, 0, 0, 0)), ((-1, 1, -1), (0, 1, 0, 0)), ((-1, -1, 1), (0, 0, 1, 0))],
)
def test_half_turns_have_their_axis_as_quaternion(diagonal, quaternion):
    rotation = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    extrinsic = torch.cat([rotation, torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)], dim=1)
    # 90 degrees see twice the focal length.
    intrinsic = torch.diag(torch.tensor([259.0, 147.0, 1.0], dtype=torch.float64))
    expected = torch.tensor([1, 2, 3, *quaternion, math.pi / 2, math.pi / 2], dtype=torch.float64)
    torch.testing.assert_close(encode_poses(extrinsic, intrinsic, (518, 294)), expected)


# ---- preparing pictures --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "expected"), [(w, h, crop) for w, h, crop, _ in RECORD["preprocess"]["table"] if w >= h]
)
def test_sizes_equal_the_official_preprocessing(width, height, expected):
    assert list(vggt_size(width, height)[::-1]) == expected


@pytest.mark.parametrize(
    ("width", "height", "sentence"),
    [
        (384, 672, "at most as high as wide; got 384 x 672. Crop to 384 x 384"),
        (10000, 100, "too flat for one row of patches"),
        (0, 10, "needs a width and a height"),
    ],
)
def test_sizes_vggt_was_not_trained_on_are_refused(width, height, sentence):
    with pytest.raises(ShapeError, match=sentence):
        vggt_size(width, height)


def test_resizing_equals_pillow():
    picture = images("resize", (48, 64, 3))
    channels = [Image.fromarray(picture[..., i].numpy()).resize((518, 392), Image.Resampling.BICUBIC) for i in range(3)]
    expected = torch.stack([torch.from_numpy(np.array(channel)) for channel in channels]).clamp(0, 1)
    got = resize_for_vggt(picture[None], vggt_size(64, 48))
    torch.testing.assert_close(got[0], expected, rtol=0, atol=1e-4)  # both work in float32, in another order


def test_shrinking_equals_pillow():
    picture = images("shrink", (100, 200, 3))
    channels = [Image.fromarray(picture[..., i].numpy()).resize((56, 28), Image.Resampling.BICUBIC) for i in range(3)]
    expected = torch.stack([torch.from_numpy(np.array(channel)) for channel in channels]).clamp(0, 1)
    torch.testing.assert_close(resize_for_vggt(picture[None], (56, 28))[0], expected, rtol=0, atol=1e-4)


def test_resized_files_resemble_the_official_preprocessing():
    check = RECORD["preprocess"]["pixel_check"]
    values = np.floor((stream("images/pre", 48 * 64 * 3) + 1) / 2 * 256) / 255
    got = resize_for_vggt(torch.from_numpy(values).reshape(1, 48, 64, 3), (518, 392))[0]
    assert list(got.shape) == check["crop_shape"]
    assert float(got.mean()) == pytest.approx(check["crop_mean"], abs=2e-3)
    for channel, row, column, value in check["crop_samples_c_y_x_value"]:
        # Pillow rounds and clips bytes between its two passes: up to 0.09 on noise.
        assert float(got[channel, row, column]) == pytest.approx(value, abs=0.09)


def test_pictures_of_the_right_size_pass_unchanged_but_for_clipping():
    picture = images("same", (1, 28, 56, 3)) * 2
    assert torch.equal(resize_for_vggt(picture, (56, 28)), picture.permute(0, 3, 1, 2).clamp(0, 1))


@pytest.mark.parametrize(
    ("pictures", "size", "sentence"),
    [
        (torch.zeros(1, 28, 28, 4), (28, 28), r"images must have shape \[v, h, w, 3\]"),
        (torch.zeros(1, 28, 28, 3, dtype=torch.uint8), (28, 28), "divide by 255"),
        (torch.zeros(1, 28, 28, 3), (520, 300), "multiples of 14; got 520 x 300. Use 518 x 294"),
        (torch.zeros(1, 28, 28, 3), (0, 28), "multiples of 14; got 0 x 28. Use 14 x 28"),
    ],
)
def test_pictures_that_cannot_be_resized_are_refused(pictures, size, sentence):
    with pytest.raises(ShapeError, match=sentence):
        resize_for_vggt(pictures, size)
