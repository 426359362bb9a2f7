"""PSNR, SSIM, detail and their means: formulas by hand, torchmetrics, the golden file, and what is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cinescene_core.checks import ShapeError
from cinescene_core.metrics import average, detail_ratio, psnr, ssim, warp_error
from cinescene_core.metrics.lpips import Lpips

GOLDEN = json.loads((Path(__file__).parent / "golden" / "geometry.json").read_text(encoding="utf-8"))["image_metrics"]
ROUNDED = 2e-6  # the golden file keeps six decimals


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def constant(value, frames=1, height=16, width=20):
    return torch.full((frames, height, width, 3), value, dtype=torch.float64)


# ---- PSNR -----------------------------------------------------------------------------------


def test_golden_psnr_of_constant_pictures():
    golden = GOLDEN["psnr_const"]
    assert psnr(constant(golden["y"]), constant(golden["x"])).tolist() == pytest.approx([golden["value"]], abs=ROUNDED)


def test_the_golden_mean_is_over_frames_and_not_over_errors():
    golden = GOLDEN["psnr_video"]
    truth = constant(0.5, frames=2)
    result = truth + torch.tensor(golden["mse_per_frame"], dtype=torch.float64).sqrt()[:, None, None, None]
    values = psnr(result, truth)
    assert average([values]).value == pytest.approx(golden["mean_of_frame_psnr"], abs=ROUNDED)
    pooled = -10 * math.log10(float((result - truth).square().mean()))
    assert pooled == pytest.approx(golden["psnr_of_mean_mse"], abs=ROUNDED)  # what it is not


def test_a_mask_counts_its_pixels_and_no_others():
    truth, result = constant(0.2, frames=2), constant(0.2, frames=2)
    mask = torch.zeros(2, 16, 20, dtype=torch.bool)
    mask[:, 3:7, 5:11] = True
    result[mask] += 0.1  # 20 dB
    result[~mask] += 0.01  # 40 dB
    assert psnr(result, truth, mask).tolist() == pytest.approx([20.0, 20.0])
    assert psnr(result, truth, ~mask).tolist() == pytest.approx([40.0, 40.0])
    share = 24 / 320
    both = -10 * math.log10(share * 0.01 + (1 - share) * 0.0001)
    assert psnr(result, truth).tolist() == pytest.approx([both, both])


def test_a_frame_without_a_masked_pixel_has_no_value_and_equal_frames_are_infinite():
    mask = torch.zeros(2, 16, 20, dtype=torch.bool)
    mask[1, 0, 0] = True
    values = psnr(constant(0.5, frames=2), constant(0.5, frames=2), mask)
    assert math.isnan(values[0])
    assert values[1] == math.inf


# ---- SSIM -----------------------------------------------------------------------------------


def test_golden_ssim_of_constant_pictures():
    golden = GOLDEN["ssim_const"]
    assert ssim(constant(golden["y"]), constant(golden["x"])).tolist() == pytest.approx([golden["value"]], abs=ROUNDED)


def test_one_window_by_the_formula_of_the_paper():
    # 11 x 11 pixels hold one window: weighted means, variances and covariance of each colour, no convolution.
    truth, result = noise(1, 11, 11, 3, seed=1), noise(1, 11, 11, 3, seed=2)
    y, x = np.mgrid[-5:6, -5:6]
    weight = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    weight /= weight.sum()
    expected = []
    for colour in range(3):
        a, b = (frames[0, :, :, colour].double().numpy() for frames in (truth, result))
        mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
        var_a, var_b = (weight * (a - mean_a) ** 2).sum(), (weight * (b - mean_b) ** 2).sum()
        cov = (weight * (a - mean_a) * (b - mean_b)).sum()
        upper = (2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
        expected.append(upper / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    assert ssim(result, truth).tolist() == pytest.approx([np.mean(expected)], abs=1e-12)


def test_ssim_and_psnr_are_those_of_torchmetrics():
    image = pytest.importorskip("torchmetrics.functional.image")
    truth = noise(3, 24, 30, 3, seed=3).double()
    result = (truth + 0.2 * (noise(3, 24, 30, 3, seed=4).double() - 0.5)).clamp(0, 1)
    ours, theirs = (result, truth), [frames.permute(0, 3, 1, 2) for frames in (result, truth)]
    # It mirrors the picture at its border and counts those windows too; the definition has none.
    _, full = image.structural_similarity_index_measure(
        *theirs, data_range=1.0, reduction="none", return_full_image=True
    )
    torch.testing.assert_close(ssim(*ours), full[..., 5:-5, 5:-5].mean((1, 2, 3)), atol=1e-9, rtol=0)
    wanted = image.peak_signal_noise_ratio(*theirs, data_range=1.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(psnr(*ours), wanted, atol=1e-5, rtol=0)  # its logarithm of 10 is float32


def test_ssim_of_equal_frames_is_one_and_of_inverted_ones_negative():
    truth = noise(1, 16, 16, 3)
    assert ssim(truth, truth).tolist() == pytest.approx([1.0], abs=1e-12)
    assert ssim(1 - truth, truth)[0] < -0.5


# ---- detail ---------------------------------------------------------------------------------


def gaussian_blur(frames, sigma):
    """A blur of its own: by the picture's spectrum."""
    pixels = frames.double()
    rows, columns = torch.fft.fftfreq(frames.shape[1]), torch.fft.fftfreq(frames.shape[2])
    gain = (-2 * math.pi**2 * sigma**2 * (rows[:, None] ** 2 + columns[None] ** 2)).exp()
    return torch.fft.ifft2(torch.fft.fft2(pixels, dim=(1, 2)) * gain[..., None], dim=(1, 2)).real.clamp(0, 1)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0, 1.5])
def test_waves_of_a_share_of_the_height_have_that_share_of_the_detail(share):
    wave = (torch.arange(40, dtype=torch.float64) * 2 * math.pi / 5).sin()[None, None, :, None]
    truth = (0.5 + 0.3 * wave).expand(1, 12, 40, 3)
    result = (0.5 + 0.3 * share * wave).expand(1, 12, 40, 3)
    assert detail_ratio(result, truth).tolist() == pytest.approx([share], abs=1e-12)


def test_detail_is_what_a_blur_of_one_pixel_takes_away():
    # A Gaussian of sigma 1 keeps exp(-2 pi^2 / p^2) of a wave of period p. These waves are even at both borders.
    x = torch.arange(41, dtype=torch.float64)
    fine, coarse = (
        (0.5 + 0.3 * (2 * math.pi * x / p).cos())[None, None, :, None].expand(1, 12, 41, 3) for p in (5, 10)
    )
    taken = [1 - math.exp(-2 * math.pi**2 / p**2) for p in (5, 10)]
    # The kernel ends at four sigmas, which leaves out 6e-5 of its weight.
    assert detail_ratio(coarse, fine).tolist() == pytest.approx([taken[1] / taken[0]], rel=1e-3)


def test_the_more_blur_the_less_detail():
    truth = noise(2, 48, 64, 3)
    ratios = torch.stack([detail_ratio(gaussian_blur(truth, sigma), truth) for sigma in (0, 0.3, 0.6, 1, 2, 4)])
    torch.testing.assert_close(ratios[0], torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0)
    assert (ratios[1:] < ratios[:-1]).all()
    assert (ratios[-1] < 0.02).all()


def test_what_psnr_rewards_the_detail_ratio_shows():
    # Two guesses at a texture one does not know: a flat grey scores better than a texture as rich as the true one.
    truth, other = noise(1, 32, 32, 3, seed=1), noise(1, 32, 32, 3, seed=2)
    grey = torch.full_like(truth, 0.5)
    assert psnr(grey, truth) > psnr(other, truth) + 2.5  # variance 1/12 against 1/6: 3 dB
    assert detail_ratio(grey, truth)[0] < 1e-12
    assert detail_ratio(other, truth)[0] == pytest.approx(1, abs=0.05)


def test_a_flat_ground_truth_has_no_ratio():
    truth = torch.cat([constant(0.5), noise(1, 16, 20, 3).double()])
    values = detail_ratio(truth, truth)
    assert math.isnan(values[0])
    assert values[1] == 1


# ---- means ----------------------------------------------------------------------------------


def test_a_mean_is_over_frames_then_videos_and_counts_what_is_missing():
    got = average([torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, math.nan]), None, 6.0, torch.tensor([math.nan])])
    assert got.value == pytest.approx((2 + 10 + 6) / 3)
    assert (got.videos, got.missing) == (3, 2)


def test_a_mean_of_nothing_is_none_and_an_infinite_one_stays():
    assert average([None, None]).value is None
    assert average([]).missing == 0
    assert average([torch.tensor([math.inf]), 3.0]).value == math.inf


# ---- bad input ------------------------------------------------------------------------------

METRICS = [psnr, ssim, detail_ratio, Lpips().distance]


def with_nan(frames):
    frames = frames.clone()
    frames[1, 2, 3, 0] = math.nan
    return frames


@pytest.mark.parametrize("metric", METRICS)
def test_pictures_that_are_none_are_refused(metric):
    good = noise(2, 32, 40, 3)
    with pytest.raises(ShapeError, match=r"truth must have shape \[f, h, w, 3\]; got \[2, 3, 32, 40\]"):
        metric(good, good.permute(0, 3, 1, 2))
    with pytest.raises(
        ShapeError, match=r"result must be floating point in 0\.\.1; got torch\.uint8\. Convert and div"
    ):
        metric((good * 255).byte(), good)
    with pytest.raises(ValueError, match=r"result must lie in 0\.\.1; got -1 to 1\. Divide 8-bit values by 255, shift"):
        metric(torch.where(good > 0.5, 1.0, -1.0), good)
    with pytest.raises(ValueError, match=r"truth must lie in 0\.\.1; got 0 to 255\."):
        metric(good, torch.where(good > 0.5, 255.0, 0.0))
    with pytest.raises(ValueError, match=r"result holds 1 NaN or infinite values of 7680"):
        metric(with_nan(good), good)
    with pytest.raises(
        ShapeError, match=r"result and truth must have one shape; got \[1, 32, 40, 3\] and \[2, 32, 40,"
    ):
        metric(good[:1], good)
    with pytest.raises(ShapeError, match=r"truth is empty: \[0, 32, 40, 3\]\. Give at least one frame"):
        metric(good[:0], good[:0])


@pytest.mark.parametrize(
    ("metric", "size", "sentence"),
    [
        (ssim, 10, r"SSIM needs pictures of at least 11 x 11 pixels; got 20 x 10\. Score larger frames"),
        (detail_ratio, 4, r"The detail ratio needs pictures of at least 5 pixels on a side; got 20 x 4\."),
        (METRICS[3], 30, r"LPIPS needs pictures of at least 31 x 31 pixels; got 20 x 30\."),
    ],
)
def test_pictures_that_are_too_small_are_refused(metric, size, sentence):
    with pytest.raises(ShapeError, match=sentence):
        metric(noise(1, size, 20, 3), noise(1, size, 20, 3))
    if metric is not METRICS[3]:
        assert metric(noise(1, size + 1, 20, 3), noise(1, size + 1, 20, 3)) == pytest.approx(1)


def test_masks_that_do_not_fit_are_refused():
    good = noise(2, 16, 20, 3)
    with pytest.raises(ShapeError, match=r"mask must have shape \[2, 16, 20\]; got \[2, 20, 16\]"):
        psnr(good, good, torch.ones(2, 20, 16, dtype=torch.bool))
    with pytest.raises(
        ShapeError, match=r"mask must be bool, one value per pixel; got torch\.float32\. Compare it with"
    ):
        psnr(good, good, torch.ones(2, 16, 20))
    with pytest.raises(ShapeError, match=r"visible must be bool, one value per pixel; got torch\.float32\."):
        warp_error(good, torch.zeros(1, 16, 20, 2), torch.ones(1, 16, 20))
