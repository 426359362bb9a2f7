"""Checks pass what is right and say what is wrong."""

import math

import pytest
import torch

from cinescene_core.checks import (
    ShapeError,
    check_choice,
    check_finite,
    check_num_frames,
    check_positive,
    check_shape,
    check_video_size,
)


def test_shapes_bind_their_letters():
    assert check_shape("x", torch.zeros(5, 4, 4), "f 4 4") == {"f": 5}
    assert check_shape("x", torch.zeros(7, 5, 2, 3), "... h 3") == {"h": 2}
    assert check_shape("x", torch.zeros(3), "... 3") == {}
    assert check_shape("x", torch.zeros(6, 6), "n n") == {"n": 6}
    assert check_shape("x", torch.zeros(0, 2), "f 2") == {"f": 0}


@pytest.mark.parametrize(
    ("shape", "pattern"),
    [
        ((5, 4), "f 4 4"),
        ((5, 4, 3), "f 4 4"),
        ((2, 5, 4, 4), "f 4 4"),
        ((), "... 3"),
        ((4,), "... 4 4"),
        ((5, 6), "n n"),
    ],
)
def test_a_wrong_shape_is_named_with_both_shapes(shape, pattern):
    wanted = pattern.replace(" ", ", ").replace(".", r"\.")
    with pytest.raises(
        ShapeError, match=rf"^poses must have shape \[{wanted}\]; got \[{', '.join(map(str, shape))}\]\.$"
    ):
        check_shape("poses", torch.zeros(shape), pattern)


def test_finite_counts_what_is_not():
    check_finite("x", torch.tensor([1.0, -3e38]))
    check_finite("x", torch.tensor([1, 2]))
    check_finite("x", torch.zeros(0))
    with pytest.raises(ValueError, match=r"^panorama holds 3 NaN or infinite values of 4\. Repair or re-export"):
        check_finite("panorama", torch.tensor([math.nan, math.inf, -math.inf, 1.0]))


@pytest.mark.parametrize("count", [1, 5, 77, 81])
def test_four_n_plus_one_frames_pass(count):
    check_num_frames(count)


@pytest.mark.parametrize(
    ("count", "advice"),
    [(0, "1 or 5"), (-7, "1 or 5"), (2, "1 or 5"), (76, "73 or 77"), (78, "77 or 81"), (80, "77 or 81")],
)
def test_other_frame_counts_name_the_nearest(count, advice):
    with pytest.raises(ValueError, match=rf"num_frames must be 4n \+ 1 \(.*\); got {count}\. Use {advice}\.$"):
        check_num_frames(count)


def test_the_advice_on_frame_counts_is_good():
    for count in range(-3, 100):
        if count < 1 or count % 4 != 1:
            with pytest.raises(ValueError, match="Use") as caught:
                check_num_frames(count)
            for advised in str(caught.value).rstrip(".").rsplit("Use ", 1)[1].split(" or "):
                check_num_frames(int(advised))


def test_video_sizes():
    check_video_size(672, 384)
    check_video_size(16, 16)
    for width, height, advice in [(680, 384, "672 x 384"), (672, 390, "672 x 384"), (1, 0, "16 x 16")]:
        with pytest.raises(ValueError, match=rf"multiples of 16 .*; got {width} x {height}\. Use {advice}\.$"):
            check_video_size(width, height)


@pytest.mark.parametrize("value", [0, -1.5, math.nan, math.inf])
def test_positive_numbers_are_positive_and_finite(value):
    check_positive("fps", 1e-9)
    with pytest.raises(ValueError, match=rf"^fps must be a positive number; got {value}\. Use one above zero\.$"):
        check_positive("fps", value)


def test_choices_are_listed_and_the_nearest_is_proposed():
    check_choice("solver", "euler", ["unipc", "euler"])
    with pytest.raises(ValueError, match=r"^solver must be one of unipc, euler; got 'Euler'\. Did you mean 'euler'\?$"):
        check_choice("solver", "Euler", ["unipc", "euler"])
    with pytest.raises(ValueError, match=r"^solver must be one of unipc, euler; got 'xyz'\.$"):
        check_choice("solver", "xyz", ["unipc", "euler"])
