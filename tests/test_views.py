"""Views: against independent samplers, first principles, and what is refused."""

import math

import numpy as np
import py360convert
import pytest
import torch
from PIL import Image

from cinescene_core.cameras import pixel_rays, rotation_from_angles
from cinescene_core.checks import CineSceneWarning, FileFormatError, ShapeError
from cinescene_core.config import ViewConfig
from cinescene_core.panorama import directions_to_pixels, pixels_to_directions, sample_panorama
from cinescene_core.views import load_photos, photograph, slice_panorama, supersampling, views_from_images

# On noise, neighbouring texels differ by up to 1 and float32 coordinates are off by up to 3e-4 texels per axis
# (2^-24 of 4096 texels).
COORDINATE_TOLERANCE = 6e-4


def noise(height, channels=3):
    return torch.rand(height, 2 * height, channels, generator=torch.Generator().manual_seed(7))


def mean_of_samples(panorama, rotation, fov_degrees, width, height, k):
    """The picture from first principles: every pixel the mean of k x k direct float64 lookups."""
    rays = pixel_rays(fov_degrees, width * k, height * k) @ rotation.T
    samples = sample_panorama(panorama.double(), rays)
    return samples.unflatten(0, (height, k)).unflatten(2, (width, k)).mean((1, 3))


def psnr(picture, reference):
    return -10 * math.log10((picture - reference).square().mean())


@pytest.mark.parametrize(
    ("num_views", "yaw_offset", "pitch", "fov"),
    [(1, 0, 0, 90), (20, 0, 0, 90), (7, -130, 25, 60), (40, 10, -40, 90), (3, 45, 90, 100), (2, 200, -90, 40)],
)
def test_every_view_shows_what_its_camera_sees(num_views, yaw_offset, pitch, fov):
    panorama = noise(128)
    config = ViewConfig(
        num_views=num_views,
        fov_degrees=fov,
        width=32,
        height=16,
        yaw_offset_degrees=yaw_offset,
        pitch_degrees=pitch,
    )
    views = slice_panorama(panorama, config)
    k = supersampling(256, fov, 32)
    assert views.images.dtype == torch.float32
    assert views.fov_degrees == fov
    for index in range(num_views):
        rotation = rotation_from_angles(yaw_offset + index * 360 / num_views, pitch)
        expected = mean_of_samples(panorama, rotation, fov, 32, 16, k)
        torch.testing.assert_close(views.images[index].double(), expected, atol=COORDINATE_TOLERANCE, rtol=0)
        torch.testing.assert_close(views.world_from_camera[index, :3, :3], rotation, atol=1e-12, rtol=0)
    assert torch.equal(views.world_from_camera[:, :3, 3], torch.zeros(num_views, 3, dtype=torch.float64))


def test_views_turn_right():
    panorama = torch.zeros(128, 256, 3)
    panorama[:, 190:194] = 1.0  # a post at +90 degrees
    images = slice_panorama(panorama, ViewConfig(num_views=20, width=64, height=32)).images[..., 0]
    brightest = images.mean(1).max(-1)
    assert [i for i in range(20) if brightest.values[i] > 0.5] == [3, 4, 5, 6, 7]  # each azimuth is in five views
    assert abs(int(brightest.indices[5]) - 31.5) <= 1.5  # in the middle of the view that looks at 90 degrees
    assert brightest.indices[4] > 32 > brightest.indices[6]


def test_parity_with_py360convert():
    # py360convert puts the outermost pixel centres on the edge of the field of view; these angles put them where
    # square pixels of a 90-degree lens have them.
    corrected = (89.914675, 59.361132)
    panorama = 0.375 + 0.25 * noise(1024)
    config = ViewConfig(num_views=4, yaw_offset_degrees=45, pitch_degrees=20)
    for index, image in enumerate(slice_panorama(panorama, config).images):
        yaw = 45 + 90 * index
        other = py360convert.e2p(panorama.numpy(), corrected, yaw, 20, (384, 672), mode="bilinear")
        difference = (image - torch.from_numpy(other)).abs()
        # OpenCV rounds coordinates to 1/32 texel: at most 1/64 off on each axis, times a contrast of 0.25.
        assert difference.max() < 2 / 64 * 0.25
        assert difference.mean() < 1e-3
        # With the same rounding nothing is left.
        rays = pixel_rays(90.0, 672, 384) @ rotation_from_angles(yaw, 20).T
        rounded = ((directions_to_pixels(rays, 1024, 2048) - 0.5) * 32).round() / 32 + 0.5
        same = sample_panorama(panorama, pixels_to_directions(rounded, 1024, 2048))
        # Coordinates on a rounding boundary may fall to either side; they are few.
        assert ((same - torch.from_numpy(other)).abs() > 1e-4).double().mean() < 0.01


def test_a_fine_panorama_is_anti_aliased():
    panorama = noise(512)
    rotations = rotation_from_angles(torch.tensor([30.0, 180.0]), torch.tensor([0.0, 35.0]))
    pictures = photograph(panorama, rotations, torch.full((2,), 90.0, dtype=torch.float64), 64, 32)
    for picture, rotation in zip(pictures, rotations, strict=True):
        reference = mean_of_samples(panorama, rotation, 90.0, 64, 32, k=24)
        plain = mean_of_samples(panorama, rotation, 90.0, 64, 32, k=1)
        assert psnr(picture, reference) > 40
        assert psnr(plain, reference) < 20


@pytest.mark.parametrize(("panorama_width", "expected"), [(1024, 1), (2048, 1), (4096, 2), (8192, 4), (65536, 8)])
def test_supersampling_follows_the_texels_per_pixel(panorama_width, expected):
    assert supersampling(panorama_width, 90.0, 672) == expected  # 0.49, 0.97, 1.94, 3.88, 31 texels


def test_a_constant_panorama_gives_constant_views():
    panorama = torch.tensor([0.2, 0.5, 0.8]).expand(256, 512, 3)
    images = slice_panorama(panorama, ViewConfig(num_views=3, pitch_degrees=60, width=64, height=32)).images
    torch.testing.assert_close(images, panorama[:1, :1].expand_as(images), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float64])
def test_other_types_give_the_same_views(dtype):
    panorama = (noise(64) * 255).round() / 255
    stored = (panorama * 255).round().to(dtype) if dtype == torch.uint8 else panorama.to(dtype)
    config = ViewConfig(num_views=2, width=32, height=16)
    got, expected = slice_panorama(stored, config).images, slice_panorama(panorama, config).images
    assert got.dtype == torch.float32
    # Half precision keeps 11 bits of the colours; the coordinates are never half.
    atol = 2**-11 if dtype == torch.float16 else COORDINATE_TOLERANCE
    torch.testing.assert_close(got, expected, atol=atol, rtol=0)


def test_a_bright_sun_stays_finite_and_in_range():
    panorama = torch.full((256, 512, 3), 0.25)
    panorama[120, 255:257] = 5e4
    image = slice_panorama(panorama, ViewConfig(num_views=1, width=64, height=32)).images[0]
    assert torch.isfinite(image).all()
    assert image.min() >= 0.25 - 1e-6
    assert 1e3 < image.max() <= 5e4


def test_grey_and_opaque_panoramas_are_accepted_and_others_refused():
    config = ViewConfig(num_views=1, width=16, height=16)
    grey = noise(32, channels=1)
    opaque = torch.cat([grey, grey, grey, torch.ones_like(grey)], dim=-1)
    assert torch.equal(slice_panorama(grey, config).images, slice_panorama(opaque, config).images)
    with pytest.raises(ShapeError, match=r"twice as wide as high; got 100 x 64 \(ratio 1.56\)"):
        slice_panorama(torch.zeros(64, 100, 3), config)
    with pytest.raises(ValueError, match="NaN or infinite"):
        slice_panorama(torch.full((32, 64, 3), float("nan")), config)
    with pytest.raises(ValueError, match="transparent"):
        slice_panorama(opaque * 0.5, config)


@pytest.mark.parametrize("num_views", [0, 41])
def test_a_ring_has_1_to_40_views(num_views):
    with pytest.raises(ValueError, match=f"num_views must be 1 to 40; got {num_views}"):
        ViewConfig(num_views=num_views)


def test_a_small_panorama_warns_but_works():
    with pytest.warns(CineSceneWarning, match="64 pixels wide, so 90 degrees of it are 16 pixels"):
        views = slice_panorama(noise(32), ViewConfig(num_views=1, width=64, height=32))
    assert views.size == (64, 32)


def test_progress_is_reported_after_each_view():
    seen = []
    config = ViewConfig(num_views=3, width=16, height=16)
    slice_panorama(noise(32), config, on_view=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


# Photos.


def test_photos_of_one_size_are_taken_as_they_are():
    photos = torch.rand(3, 32, 48, 3)
    views = views_from_images(photos)
    assert torch.equal(views.images, photos)
    assert views.world_from_camera is None
    assert views.fov_degrees is None
    assert torch.equal(views_from_images(list(photos)).images, photos)
    eight_bit = (photos * 255).to(torch.uint8)
    torch.testing.assert_close(views_from_images(eight_bit).images, eight_bit / 255)


def test_photos_are_cut_equally_on_both_sides():
    wide = torch.zeros(32, 96, 3)
    wide[:, :32, 0], wide[:, 32:64, 1], wide[:, 64:, 2] = 1.0, 1.0, 1.0  # red, green, blue thirds
    tall = wide.transpose(0, 1)
    images = views_from_images([wide, tall, wide[:, 32:64].repeat(2, 2, 1)], width=16, height=16).images
    assert images.shape == (3, 16, 16, 3)
    # Inside, two pixels away from the neighbouring thirds that the filter reaches.
    for image in images:
        green = torch.tensor([0.0, 1.0, 0.0]).expand(12, 12, 3)
        torch.testing.assert_close(image[2:-2, 2:-2], green, atol=1e-5, rtol=0)


def test_resizing_stays_within_the_range_of_the_photo():
    step = torch.zeros(16, 16, 3)
    step[:, 8:] = 1.0
    image = views_from_images([step], width=64, height=64).images[0]
    assert image.min() == 0
    assert image.max() == 1
    assert image[32, :24].max() < 0.01
    assert image[32, 40:].min() > 0.99


def test_shrinking_photos_does_not_alias():
    stripes = (torch.arange(128) % 2).float()[None, :, None].expand(128, 128, 3)
    image = views_from_images([stripes], width=16, height=16).images
    torch.testing.assert_close(image, torch.full_like(image, 0.5), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("images", "size", "error", "message"),
    [
        ([], {}, ShapeError, "got no picture; give 1 to 40 pictures"),
        ([torch.zeros(16, 32, 3), torch.zeros(32, 32, 3)], {}, ShapeError, r"different sizes \(32 x 16, 32 x 32\)"),
        (torch.zeros(41, 16, 16, 3), {}, ShapeError, "1 to 40 views; got 41"),
        (torch.zeros(2, 16, 16, 4), {}, ShapeError, r"picture 0 must have shape \[h, w, 3\]; got \[16, 16, 4\]"),
        (torch.zeros(2, 20, 16, 3), {}, ValueError, "multiples of 16.*got 16 x 20"),
        (torch.zeros(2, 16, 16, 3), {"width": 32}, ValueError, "both width and height, or neither; got width 32"),
        (torch.full((1, 16, 16, 3), math.nan), {}, ValueError, "picture 0 holds 768 NaN"),
        (torch.zeros(1, 16, 16, 3, dtype=torch.int64), {}, ValueError, "picture 0 must be uint8, or floating point"),
    ],
)
def test_photos_that_cannot_serve_are_refused(images, size, error, message):
    with pytest.raises(error, match=message):
        views_from_images(images, **size)


# Photos from files.


def test_photos_are_read_as_panoramas_are(tmp_path):
    rgb = (noise(16) * 255).to(torch.uint8).numpy()
    grey16 = (noise(16, channels=1)[..., 0] * 65535).numpy().astype(np.uint16)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    Image.fromarray(grey16).save(tmp_path / "grey16.png")
    turned = Image.fromarray(np.rot90(rgb).copy())  # a camera on its side: 16 x 32 pixels and a note to turn them
    exif = turned.getexif()
    exif[0x0112] = 6  # "turn clockwise to see it upright"
    turned.save(tmp_path / "turned.png", exif=exif)
    views = load_photos([tmp_path / name for name in ("rgb.png", "grey16.png", "turned.png")], 32, 16)
    upright, grey = torch.from_numpy(rgb) / 255, torch.from_numpy(grey16 / 65535).float()
    assert views.world_from_camera is None
    assert views.fov_degrees is None
    assert torch.equal(views.images[0], upright)
    # Sixteen bits stay sixteen bits: a step of 1 / 65535 is more than float32 rounds.
    torch.testing.assert_close(views.images[1], grey[..., None].expand(-1, -1, 3), rtol=0, atol=1e-7)
    assert torch.equal(views.images[2], upright)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("absent.jpg", FileNotFoundError, r"No photo at .*absent\.jpg\. Check the path; it must be a file"),
        ("text.png", FileFormatError, r"text\.png cannot be read as a picture"),
        ("print.jpg", FileFormatError, r"is a CMYK picture; a photo must be grey or RGB\. Convert it first"),
        ("clear.png", ValueError, r"photo clear\.png has an alpha channel, and 100\.0% of its pixels are transparent"),
    ],
)
def test_photos_that_cannot_be_read_are_refused(tmp_path, name, error, message):
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("CMYK", (32, 16)).save(tmp_path / "print.jpg")
    Image.new("RGBA", (32, 16)).save(tmp_path / "clear.png")
    with pytest.raises(error, match=message):
        load_photos([tmp_path / name], 32, 16)


def test_the_number_of_photos_is_checked_before_they_are_read(tmp_path):
    for count in (0, 41):
        with pytest.raises(ShapeError, match=f"1 to 40 photos; got {count}"):
            load_photos([tmp_path / "absent.jpg"] * count, 32, 16)
    with pytest.raises(ValueError, match=r"multiples of 16.*got 30 x 16"):
        load_photos([tmp_path / "absent.jpg"], 30, 16)
