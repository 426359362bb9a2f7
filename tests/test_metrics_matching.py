"""Matched pixels: counts that are known beforehand, LoFTR's adapter, and what is refused."""

import importlib
import sys
import types

import pytest
import torch

from cinescene_core.checks import CheckpointError, ShapeError
from cinescene_core.metrics import LoftrMatcher, ShiftMatcher, matched_pixels

HEIGHT, WIDTH = 384, 672


def noise(*shape, seed=0):
    """Pictures in 8-bit levels: two pixels agree by chance once in 16 million."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).float() / 255


def shifted_pair(right, down, frames=1):
    """A result whose pixel (x, y) stands at (x + right, y + down) of the truth."""
    scene = noise(frames, HEIGHT + 20, WIDTH + 20, 3)
    truth = scene[:, 10 : 10 + HEIGHT, 10 : 10 + WIDTH]
    result = scene[:, 10 + down : 10 + down + HEIGHT, 10 + right : 10 + right + WIDTH]
    return result, truth


class Map:
    """A matcher that answers with a fixed map."""

    name, threshold = "map", 0.5

    def __init__(self, certainty):
        self.answer = certainty

    def certainty(self, result, truth):
        assert result.shape == truth.shape == (HEIGHT, WIDTH, 3)
        return self.answer


@pytest.mark.parametrize(("right", "down"), [(0, 0), (5, -3), (-10, 7)])
def test_a_known_shift_is_matched_wherever_both_pictures_show_it(right, down):
    result, truth = shifted_pair(right, down, frames=2)
    overlap = (WIDTH - abs(right)) * (HEIGHT - abs(down))
    got = matched_pixels(result, truth, ShiftMatcher(right, down))
    assert got.pixels == (overlap, overlap)
    assert got.thousands == pytest.approx(2 * overlap / 1000)
    assert got.share == pytest.approx(overlap / (WIDTH * HEIGHT))
    assert (got.version, got.matcher) == ("matpix-v1", f"known shift ({right}, {down})")
    wrong = matched_pixels(result, truth, ShiftMatcher(right + 1, down))
    assert wrong.share < 1e-4


def test_a_changed_half_is_not_matched():
    result, truth = shifted_pair(0, 0)
    result = result.clone()
    result[:, :, WIDTH // 2 :] = noise(1, HEIGHT, WIDTH // 2, 3, seed=9)
    assert matched_pixels(result, truth, ShiftMatcher()).share == pytest.approx(0.5, abs=1e-4)


def test_other_sizes_are_matched_at_the_size_of_the_definition():
    stripes = (torch.arange(336) % 2).float()[None, None, :, None].expand(1, 192, 336, 3)
    assert matched_pixels(stripes, stripes, ShiftMatcher()).pixels == (WIDTH * HEIGHT,)


def test_a_certainty_counts_above_the_threshold_and_a_cell_with_all_its_pixels():
    cells = torch.zeros(48, 84)
    cells[0, :3] = torch.tensor([0.49, 0.5, 0.51])
    cells[10, 10] = 1.0
    frame = noise(1, HEIGHT, WIDTH, 3)
    assert matched_pixels(frame, frame, Map(cells)).pixels == (2 * 64,)


@pytest.mark.parametrize(
    ("certainty", "error", "sentence"),
    [
        (
            torch.zeros(50, 84),
            ShapeError,
            r"map: a certainty map must divide 384 x 672 evenly; got \[50, 84\]\. Resize",
        ),
        (torch.zeros(1, 48, 84), ShapeError, r"certainty must have shape \[rows, columns\]; got \[1, 48, 84\]"),
        (torch.full((48, 84), 1.5), ValueError, r"map: certainties must lie in 0\.\.1; got 1\.5 to 1\.5\. Apply a sig"),
        (torch.full((48, 84), torch.nan), ValueError, r"certainty holds 4032 NaN"),
    ],
)
def test_maps_that_are_no_certainties_are_refused(certainty, error, sentence):
    frame = noise(1, HEIGHT, WIDTH, 3)
    with pytest.raises(error, match=sentence):
        matched_pixels(frame, frame, Map(certainty))


def test_videos_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"result and truth must have one shape"):
        matched_pixels(noise(1, 8, 8, 3), noise(2, 8, 8, 3), ShiftMatcher())


# ---- LoFTR ----------------------------------------------------------------------------------


class FakeLoftr(torch.nn.Module):
    """kornia's interface: grey pictures in, places of cells and confidences out."""

    def __init__(self, pretrained):
        assert pretrained is None, "nothing may be downloaded"
        super().__init__()
        self.backbone = torch.nn.Linear(2, 2)

    def forward(self, data):
        self.seen = data
        places = torch.tensor([[0.0, 0.0], [664.0, 376.0], [16.0, 8.0]])
        return {"keypoints0": places, "keypoints1": places, "confidence": torch.tensor([0.9, 0.21, 0.2])}


@pytest.fixture
def loftr_file(monkeypatch, tmp_path):
    """A weight file as published, and a kornia that has room for it."""
    fake = types.ModuleType("kornia.feature")
    fake.LoFTR = FakeLoftr
    monkeypatch.setitem(sys.modules, "kornia", types.ModuleType("kornia"))
    monkeypatch.setitem(sys.modules, "kornia.feature", fake)
    state = {f"matcher.backbone.{name}": torch.full(size, 3.0) for name, size in (("weight", (2, 2)), ("bias", (2,)))}
    torch.save({"state_dict": state}, tmp_path / "loftr_outdoor.ckpt")
    return tmp_path / "loftr_outdoor.ckpt"


def test_loftr_fills_the_cells_it_matched(loftr_file):
    matcher = LoftrMatcher.from_file(loftr_file)
    assert (matcher.network.backbone.weight == 3).all()
    green = torch.tensor([0.0, 1.0, 0.0]).expand(1, HEIGHT, WIDTH, 3)
    got = matched_pixels(green, green, matcher)
    assert got.pixels == (2 * 64,)  # 0.2 itself does not count
    assert (got.matcher, got.threshold) == ("LoFTR", 0.2)
    cells = matcher.certainty(green[0], green[0])
    assert cells[0, 0] == pytest.approx(0.9)
    assert cells[47, 83] == pytest.approx(0.21)
    assert cells[1, 2] == pytest.approx(0.2)
    assert matcher.network.seen["image0"].shape == (1, 1, HEIGHT, WIDTH)
    assert matcher.network.seen["image0"].unique().tolist() == pytest.approx([0.587])


def test_loftrs_file_must_fit(loftr_file, tmp_path):
    torch.save({"state_dict": {"matcher.backbone.weight": torch.zeros(2, 2)}}, tmp_path / "other.ckpt")
    with pytest.raises(
        CheckpointError, match=r"other\.ckpt is not LoFTR's weights .*: 1 missing: backbone\.bias\. Use that file\."
    ):
        LoftrMatcher.from_file(tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"nothing\.ckpt does not exist\. Check the name and the folder"):
        LoftrMatcher.from_file(tmp_path / "nothing.ckpt")


def test_without_kornia_a_sentence_says_so(monkeypatch):
    def refuse(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(ImportError, match=r"Matched pixels by LoFTR need kornia\. Install it with: pip install kornia"):
        LoftrMatcher.from_file("loftr_outdoor.ckpt")


def test_kornias_loftr_fits_the_adapter(tmp_path):
    feature = pytest.importorskip("kornia.feature")
    torch.manual_seed(0)
    network = feature.LoFTR(pretrained=None)
    state = {f"matcher.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "loftr_outdoor.ckpt")
    matcher = LoftrMatcher.from_file(tmp_path / "loftr_outdoor.ckpt")
    matcher.network.coarse_matching.thr = 0.0  # random weights are certain of nothing
    first, second = noise(96, 128, 3), noise(96, 128, 3, seed=1)
    cells = matcher.certainty(first, second)
    found = matcher.network({
        "image0": (first @ torch.tensor([0.299, 0.587, 0.114]))[None, None],
        "image1": (second @ torch.tensor([0.299, 0.587, 0.114]))[None, None],
    })  # fmt: skip
    assert cells.shape == (12, 16)
    assert len(found["confidence"]) > 0
    assert int((cells > 0).sum()) == len(found["confidence"])
    assert cells.sum() == pytest.approx(float(found["confidence"].sum()))
