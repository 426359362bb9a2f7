"""LPIPS: an implementation in numpy, torchmetrics with the published heads, and files that are refused."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cinescene_core.checks import CheckpointError
from cinescene_core.metrics import Lpips

CONVOLUTIONS = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def alexnet_tensors(seed=0):
    """torchvision's names and shapes with random values that keep the size of a signal."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for place, (out, inputs, side) in CONVOLUTIONS.items():
        scale = (2 / (inputs * side**2)) ** 0.5
        tensors[f"features.{place}.weight"] = scale * torch.randn(out, inputs, side, side, generator=generator)
        tensors[f"features.{place}.bias"] = 0.1 * torch.randn(out, generator=generator)
    return tensors | {"classifier.1.weight": torch.zeros(2, 3), "classifier.1.bias": torch.zeros(2)}


def head_tensors(seed=1):
    widths = [shape[0] for shape in CONVOLUTIONS.values()]
    return {f"lin{k}.model.1.weight": noise(1, width, 1, 1, seed=seed + k) for k, width in enumerate(widths)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Both files as they are published: zip for the backbone, the format of before 2020 for the heads."""
    folder = tmp_path_factory.mktemp("lpips")
    torch.save(alexnet_tensors(), folder / "alexnet.pth")
    torch.save(head_tensors(), folder / "alex.pth", _use_new_zipfile_serialization=False)
    return folder / "alexnet.pth", folder / "alex.pth"


@pytest.fixture(scope="module")
def lpips(files):
    return Lpips.from_files(*files)


def by_hand(result, truth, tensors, heads):
    """LPIPS of two [h, w, 3] pictures in numpy, from the definition."""

    def convolve(x, place, stride, padding):
        weight, bias = (tensors[f"features.{place}.{kind}"].double().numpy() for kind in ("weight", "bias"))
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
        windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
        return np.maximum(np.einsum("cyxij,ocij->oyx", windows, weight) + bias[:, None, None], 0)

    def pool(x):
        return np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max((-1, -2))

    def unit_maps(picture):
        x = 2 * picture.double().numpy().transpose(2, 0, 1) - 1
        x = (x - np.reshape([-0.030, -0.088, -0.188], (3, 1, 1))) / np.reshape([0.458, 0.448, 0.450], (3, 1, 1))
        maps = [convolve(x, 0, 4, 2)]
        maps.append(convolve(pool(maps[-1]), 3, 1, 2))
        maps.append(convolve(pool(maps[-1]), 6, 1, 1))
        maps.append(convolve(maps[-1], 8, 1, 1))
        maps.append(convolve(maps[-1], 10, 1, 1))
        return [m / (np.sqrt((m**2).sum(0)) + 1e-10) for m in maps]

    total = 0.0
    for k, (a, b) in enumerate(zip(unit_maps(result), unit_maps(truth), strict=True)):
        weight = heads[f"lin{k}.model.1.weight"].double().numpy()[0, :, 0, 0]
        total += np.einsum("c,cyx->yx", weight, (a - b) ** 2).mean()
    return total


def test_the_definition_in_numpy_gives_the_same(lpips):
    truth, result = noise(2, 47, 39, 3, seed=2), noise(2, 47, 39, 3, seed=3)
    expected = [by_hand(a, b, alexnet_tensors(), head_tensors()) for a, b in zip(result, truth, strict=True)]
    assert lpips.distance(result, truth).tolist() == pytest.approx(expected, rel=2e-5)  # float32 sums


def test_the_smallest_picture_is_31_pixels(lpips):
    truth, result = noise(1, 31, 31, 3, seed=2), noise(1, 31, 31, 3, seed=3)
    expected = by_hand(result[0], truth[0], alexnet_tensors(), head_tensors())
    assert lpips.distance(result, truth).tolist() == pytest.approx([expected], rel=2e-5)


def test_zero_to_itself_symmetric_and_growing_with_noise(lpips):
    truth = 0.2 + 0.6 * noise(1, 48, 64, 3)
    change = noise(1, 48, 64, 3, seed=1) - 0.5
    assert lpips.distance(truth, truth).tolist() == [0]
    steps = [float(lpips.distance(truth + size * change, truth)) for size in (0.02, 0.1, 0.4)]
    assert 0 < steps[0] < steps[1] < steps[2]
    other = truth + 0.4 * change
    assert lpips.distance(other, truth).tolist() == pytest.approx(lpips.distance(truth, other).tolist(), rel=1e-6)


def test_frames_are_scored_one_by_one_and_nothing_is_trained(lpips):
    truth, result = noise(3, 40, 40, 3), noise(3, 40, 40, 3, seed=1)
    alone = [float(lpips.distance(a[None], b[None])) for a, b in zip(result, truth, strict=True)]
    assert lpips.distance(result, truth).tolist() == alone
    assert not any(parameter.requires_grad for parameter in lpips.parameters())


def test_the_published_heads_give_what_torchmetrics_gives(monkeypatch, tmp_path):
    theirs = pytest.importorskip("torchmetrics.functional.image.lpips")
    heads = Path(theirs.__file__).parent / "lpips_models" / "alex.pth"
    torch.save(alexnet_tensors(), tmp_path / "alexnet.pth")
    ours = Lpips.from_files(tmp_path / "alexnet.pth", heads)
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda *args: torch.nn.Sequential(*ours.features))
    real = torch.load
    monkeypatch.setattr(torch, "load", lambda path, map_location: real(path, map_location="cpu"))
    network = theirs._LPIPS(net="alex")
    truth, result = noise(2, 64, 80, 3), noise(2, 64, 80, 3, seed=1)
    with torch.no_grad():
        expected = network(result.permute(0, 3, 1, 2), truth.permute(0, 3, 1, 2), normalize=True).flatten()
    # It adds 1e-8 under the root, where LPIPS adds 1e-10 to the length.
    torch.testing.assert_close(ours.distance(result, truth).float(), expected, rtol=1e-4, atol=0)


def test_safetensors_will_do_for_both(tmp_path, lpips):
    save_file(alexnet_tensors(), tmp_path / "alexnet.safetensors")
    save_file(head_tensors(), tmp_path / "heads.safetensors")
    other = Lpips.from_files(tmp_path / "alexnet.safetensors", tmp_path / "heads.safetensors")
    truth, result = noise(1, 40, 40, 3), noise(1, 40, 40, 3, seed=1)
    assert torch.equal(other.distance(result, truth), lpips.distance(result, truth))


# ---- files ----------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path, files):
    with pytest.raises(CheckpointError, match=r"none\.pth does not exist\. Check the name and the folder\."):
        Lpips.from_files(tmp_path / "none.pth", files[1])
    with pytest.raises(CheckpointError, match=r"heads\.pth does not exist\."):
        Lpips.from_files(files[0], tmp_path / "heads.pth")


def test_files_in_the_wrong_place_are_refused(files):
    with pytest.raises(
        CheckpointError,
        match=r"alex\.pth is not torchvision's AlexNet \(alexnet-owt-7be5be79\.pth\): 10 missing: 0\.weight, 0\.bias",
    ):
        Lpips.from_files(files[1], files[1])
    with pytest.raises(
        CheckpointError, match=r"alexnet\.pth is not LPIPS's heads for AlexNet \(v0\.1/alex\.pth\): 5 mi"
    ):
        Lpips.from_files(files[0], files[0])


def test_heads_of_another_network_are_refused(tmp_path, files):
    vgg = {f"lin{k}.model.1.weight": torch.ones(1, c, 1, 1) for k, c in enumerate((64, 128, 256, 512, 512))}
    torch.save(vgg, tmp_path / "vgg.pth", _use_new_zipfile_serialization=False)
    sentence = r"4 of another shape: lin1\.model\.1\.weight is \[1, 128, 1, 1\] where \[1, 192, 1, 1\] is needed"
    with pytest.raises(CheckpointError, match=sentence):
        Lpips.from_files(files[0], tmp_path / "vgg.pth")


def test_spoilt_values_are_refused(tmp_path, files):
    heads = head_tensors()
    heads["lin2.model.1.weight"][0, 5] = torch.nan
    torch.save(heads, tmp_path / "heads.pth")
    with pytest.raises(CheckpointError, match=r"heads\.pth holds NaN or infinity in lin2\.model\.1\.weight\. Download"):
        Lpips.from_files(files[0], tmp_path / "heads.pth")


class Trap:
    """A pickle that would write a file when it is opened."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_old_files_run_no_code(tmp_path, files):
    sprung = tmp_path / "sprung"
    trap = tmp_path / "trap.pth"
    trap.write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    with pytest.raises(CheckpointError, match=r"trap\.pth is in PyTorch's old format and could not be read as tensors"):
        Lpips.from_files(files[0], trap)
    assert not sprung.exists()


@pytest.mark.parametrize("kept", [100, 3000])
def test_a_truncated_old_file_is_refused(tmp_path, files, kept):
    short = tmp_path / "short.pth"
    short.write_bytes(files[1].read_bytes()[:kept])
    with pytest.raises(
        CheckpointError, match=r"short\.pth is in PyTorch's old format and could not be read .* Download"
    ):
        Lpips.from_files(files[0], short)


def test_an_old_file_without_a_state_dict_is_refused(tmp_path, files):
    torch.save([torch.zeros(2)], tmp_path / "list.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"list\.pth holds no state dict of tensors\. Use the network's weights"):
        Lpips.from_files(files[0], tmp_path / "list.pth")


def test_other_files_are_told_apart(tmp_path, files):
    page = tmp_path / "page.pth"
    page.write_text("<!DOCTYPE html><html></html>")
    with pytest.raises(CheckpointError, match=r"page\.pth is a web page, not a model"):
        Lpips.from_files(page, files[1])
    with zipfile.ZipFile(tmp_path / "archive.pth", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(CheckpointError, match=r"archive\.pth is a zip archive, but not a complete PyTorch file"):
        Lpips.from_files(tmp_path / "archive.pth", files[1])
