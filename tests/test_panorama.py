"""The sphere and its picture: geometry against golden numbers and analytic panoramas, and what is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cinescene_core.cameras import pixel_rays, rotation_from_angles
from cinescene_core.checks import CineSceneWarning, FileFormatError, ShapeError
from cinescene_core.panorama import (
    check_panorama,
    directions_to_pixels,
    example_panorama_path,
    load_panorama,
    pixels_to_directions,
    sample_panorama,
    warn_if_small,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "geometry.json").read_text(encoding="utf-8"))["equirect"]
GOLDEN_TOLERANCE = 2e-6  # the file is written with six decimals


def texel_directions(height):
    """[height, 2 height, 3] float64: the ray of each texel's centre."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5,
        torch.arange(2 * height, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    return pixels_to_directions(torch.stack([x, y], dim=-1), height, 2 * height)


def noise(height, channels=3, dtype=torch.float32):
    return torch.rand(height, 2 * height, channels, generator=torch.Generator().manual_seed(7), dtype=dtype)


def random_rays(count):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


# Where rays land.


@pytest.mark.parametrize(
    ("ray", "pixel"),
    [
        ((0, 0, 1), (512, 256)),
        ((1, 0, 0), (768, 256)),
        ((-1, 0, 0), (256, 256)),
        ((0, -1, 0), (512, 0)),
        ((0, 1, 0), (512, 512)),
        ((0, -1, 1), (512, 128)),
        ((-1e-9, 0, -1), (0, 256)),
    ],
)
def test_rays_land_where_the_convention_says(ray, pixel):
    got = directions_to_pixels(torch.tensor(ray, dtype=torch.float64), height=512, width=1024)
    torch.testing.assert_close(got, torch.tensor(pixel, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", GOLDEN["samples"], ids=lambda case: f"yaw{case['yaw']}-{case['u']}-{case['v']}")
def test_golden_pixels_see_the_golden_texels(case):
    view, panorama, expected = GOLDEN["view"], GOLDEN["panorama"], case["center"]
    ray = pixel_rays(view["hfov_deg"], view["W"], view["H"])[case["v"], case["u"]]
    direction = rotation_from_angles(case["yaw"], case["pitch"], case["roll"]) @ ray
    unit = direction / direction.norm()
    texel = directions_to_pixels(direction, panorama["He"], panorama["We"])
    assert unit.tolist() == pytest.approx(expected["dir"], abs=GOLDEN_TOLERANCE)
    assert texel.tolist() == pytest.approx([expected["x"], expected["y"]], abs=GOLDEN_TOLERANCE)


def test_a_pixel_sees_the_ray_that_meets_it():
    rays = random_rays(1000)
    pixels = directions_to_pixels(rays, 512, 1024)
    back = pixels_to_directions(pixels, 512, 1024)
    torch.testing.assert_close(back, rays / rays.norm(dim=-1, keepdim=True), atol=1e-12, rtol=0)


# What they see.


@pytest.mark.parametrize("name", GOLDEN["small_image"]["views"])
def test_golden_small_panorama(name):
    case = GOLDEN["small_image"]["views"][name]
    panorama = 0.5 + 0.5 * texel_directions(32)
    rays = pixel_rays(90.0, 14, 8) @ rotation_from_angles(case["yaw"], case["pitch"]).T
    view = sample_panorama(panorama, rays)
    assert view.dtype == torch.float64
    for key, (row, column) in {"pixel_0_0": (0, 0), "pixel_3_7": (3, 7), "pixel_7_13": (7, 13)}.items():
        assert view[row, column].tolist() == pytest.approx(case[key], abs=GOLDEN_TOLERANCE)
    assert view.mean((0, 1)).tolist() == pytest.approx(case["mean_rgb"], abs=GOLDEN_TOLERANCE)


@pytest.mark.parametrize("axis", [(0, 0, -1), (0, -1, 0), (0, 1, 0)], ids=["seam", "zenith", "nadir"])
def test_a_direction_panorama_shows_each_ray_itself_at_the_seam_and_the_poles(axis):
    rays = torch.tensor(axis, dtype=torch.float64) + 0.05 * random_rays(4000)
    rays /= rays.norm(dim=-1, keepdim=True)
    seen = sample_panorama(texel_directions(256), rays)
    # Bilinear: at most step^2 / 8 times the second derivative, which is at most 1 in longitude and in latitude.
    bound = 2 * (math.tau / 512) ** 2 / 8
    assert (seen - rays).abs().max() < bound


def test_texel_centres_show_the_texel_itself():
    panorama = noise(16, dtype=torch.float64)
    torch.testing.assert_close(sample_panorama(panorama, texel_directions(16)), panorama, atol=1e-12, rtol=0)


def test_rolling_the_panorama_by_whole_texels_is_a_turn():
    panorama, rays = noise(32, dtype=torch.float64), random_rays(2000)
    turned = rays @ rotation_from_angles(yaw=360 * 5 / 64).T
    rolled = panorama.roll(-5, dims=1)  # what was 5 texels to the right is now in front
    torch.testing.assert_close(sample_panorama(rolled, rays), sample_panorama(panorama, turned), atol=1e-10, rtol=0)


def test_a_half_panorama_is_sampled_with_full_precision_coordinates():
    half = noise(1024, channels=1).half()
    rays = random_rays(20000)
    seen = sample_panorama(half, rays)
    exact = sample_panorama(half.double(), rays)
    assert seen.dtype == torch.float32
    # A float32 grid is off by up to 2^-24 of 2048 texels; a half grid would be off by a texel, so by 0.3 on average.
    assert (seen - exact).abs().max() < 5e-4


def test_uint8_is_read_as_zero_to_one():
    panorama = (noise(32) * 255).to(torch.uint8)
    rays = random_rays(500)
    seen = sample_panorama(panorama, rays)
    torch.testing.assert_close(seen, sample_panorama(panorama.float() / 255, rays), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_bright_sun_does_not_overshoot(dtype):
    panorama = torch.full((64, 128, 3), 0.25, dtype=dtype)
    panorama[20, 127] = 5e4
    seen = sample_panorama(panorama, random_rays(50000))
    assert torch.isfinite(seen).all()
    assert seen.min() >= 0.25 - 1e-6
    assert 1e4 < seen.max() <= panorama.float().max()


# What is refused, and what passes.


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((64, 100, 3), r"got 100 x 64 \(ratio 1.56\).*crop it to 100 x 50 or pad it to 128 x 64"),
        ((50, 101, 3), r"got 101 x 50 \(ratio 2.02\).*crop it to 100 x 50 or pad it to 102 x 51"),
        ((0, 0, 3), r"panorama is empty \(0 x 0 pixels\)"),
        ((32, 64, 2), r"1 \(grey\), 3 \(RGB\) or 4 \(RGBA\) channels; got 2"),
        ((1, 32, 64, 3), r"must have shape \[h, w, c\]; got \[1, 32, 64, 3\]"),
    ],
)
def test_wrong_shapes_are_refused(shape, message):
    with pytest.raises(ShapeError, match=message):
        check_panorama(torch.zeros(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value):
    panorama = torch.zeros(16, 32, 3)
    panorama[3, 4, 1] = value
    with pytest.raises(ValueError, match="panorama holds 1 NaN or infinite values of 1536"):
        check_panorama(panorama)


def test_other_data_types_are_refused():
    with pytest.raises(ValueError, match=r"uint8, or floating point in 0\.\.1; got torch.int32"):
        check_panorama(torch.zeros(16, 32, 3, dtype=torch.int32))


@pytest.mark.parametrize(("dtype", "full"), [(torch.uint8, 255), (torch.float32, 1.0)])
def test_transparency_is_refused_and_opaque_alpha_dropped(dtype, full):
    panorama = torch.full((16, 32, 4), full, dtype=dtype)
    panorama[..., :3] = panorama[..., :3] // 2
    assert torch.equal(check_panorama(panorama), panorama[..., :3])
    panorama[:4, :, 3] = 0
    with pytest.raises(ValueError, match=r"alpha channel, and 25.0% of its pixels are transparent.*flatten it"):
        check_panorama(panorama)


def test_grey_is_repeated():
    panorama = noise(16, channels=1)
    assert torch.equal(check_panorama(panorama), panorama.repeat(1, 1, 3))


def test_a_small_panorama_warns_with_numbers():
    with pytest.warns(
        CineSceneWarning, match=r"1024 pixels wide, so 90 degrees of it are 256 pixels.*asks for 672.*2016"
    ):
        warn_if_small(1024, 90.0, 672)
    warn_if_small(2048, 90.0, 672)


# Files.


def test_pictures_load_as_they_are(tmp_path):
    rgb = (noise(16) * 255).to(torch.uint8).numpy()
    grey16 = (noise(16, channels=1)[..., 0] * 65535).numpy().astype(np.uint16)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    Image.fromarray(rgb).convert("RGBA").save(tmp_path / "opaque.png")
    Image.fromarray(rgb[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(grey16).save(tmp_path / "grey16.png")
    Image.fromarray(rgb).quantize(16).save(tmp_path / "palette.png")
    np.save(tmp_path / "hdr.npy", rgb.astype(np.float16) * 100)
    expected = {
        "rgb.png": rgb / 255,
        "opaque.png": rgb / 255,
        "grey.png": rgb[..., :1].repeat(3, -1) / 255,
        "grey16.png": grey16[..., None].repeat(3, -1) / 65535,
        "palette.png": np.asarray(Image.open(tmp_path / "palette.png").convert("RGB")) / 255,
        "hdr.npy": rgb.astype(np.float64) * 100,
    }
    for name, values in expected.items():
        got = load_panorama(tmp_path / name)
        assert got.dtype == torch.float32
        assert got.shape == (16, 32, 3)
        # Half precision holds the products to 11 bits, the pictures are exact in float32.
        np.testing.assert_allclose(got.numpy(), values, rtol=2**-11 if name == "hdr.npy" else 1e-6, atol=1e-7)


def test_unreadable_files_are_refused_in_a_sentence(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    Image.fromarray(np.zeros((16, 32, 3), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:50])
    Image.new("CMYK", (32, 16)).save(tmp_path / "print.jpg")
    (tmp_path / "text.npy").write_text("not an array")
    np.save(tmp_path / "integers.npy", np.zeros((16, 32, 3), np.int64))
    Image.new("RGBA", (32, 16)).save(tmp_path / "clear.png")
    for name, error, message in (
        ("text.png", FileFormatError, "text.png cannot be read as a picture"),
        ("cut.png", FileFormatError, "cut.png cannot be read as a picture"),
        ("print.jpg", FileFormatError, "is a CMYK picture; a panorama must be grey or RGB. Convert it first"),
        ("text.npy", FileFormatError, "is not a .npy array of numbers"),
        ("integers.npy", FileFormatError, "holds int64; a panorama must be uint8, or floating point"),
        ("clear.png", ValueError, "100.0% of its pixels are transparent"),
        ("absent.png", FileNotFoundError, "No panorama at .*absent.png"),
        (".", FileNotFoundError, "No panorama at .* must be a file"),
    ):
        with pytest.raises(error, match=message):
            load_panorama(tmp_path / name)


def test_the_example_panorama_is_small_and_looks_different_in_every_direction():
    path = example_panorama_path()
    assert path.stat().st_size < 700_000
    panorama = load_panorama(path)
    assert panorama.shape == (1024, 2048, 3)
    walls = panorama.roll(256, dims=1)[384:640].unflatten(1, (4, 512)).mean((0, 2))  # [4, 3] mean colours
    distances = torch.cdist(walls, walls)[~torch.eye(4, dtype=torch.bool)]
    assert distances.min() > 0.03
    assert torch.equal(panorama, load_panorama(str(path)))
