"""Cosines, the Frechet distance, and CLIP from a folder: by hand, by CLIP's own scores, and what is refused."""

import builtins
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from cinescene_core.checks import CheckpointError, CineSceneWarning, ShapeError
from cinescene_core.metrics import (
    ClipEncoder,
    adjacent_similarity,
    average,
    frame_similarity,
    frechet_distance,
    text_similarity,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "geometry.json").read_text(encoding="utf-8"))["image_metrics"]
ROUNDED = 2e-6  # the golden file keeps six decimals
LONGEST = 12  # tokens the tiny CLIP reads


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# ---- cosines --------------------------------------------------------------------------------


def test_golden_clip_v():
    golden = GOLDEN["clip_cos"]
    a, b = torch.tensor(golden["a"], dtype=torch.float64), torch.tensor(golden["b"], dtype=torch.float64)
    values = frame_similarity(a, b)
    assert values.tolist() == pytest.approx([1 / math.sqrt(2), 24 / 25])
    assert average([values]).value == pytest.approx(golden["clip_v"], abs=ROUNDED)
    torch.testing.assert_close(frame_similarity(7 * a, 0.1 * b), values)  # lengths do not matter


def test_neighbours_and_prompts_by_hand():
    frames = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 1.0]])
    assert adjacent_similarity(frames).tolist() == pytest.approx([math.sqrt(0.5), 0.0], abs=1e-12)
    text = text_similarity(frames, torch.tensor([0.0, 2.0]))
    assert text.tolist() == pytest.approx([0, math.sqrt(0.5), math.sqrt(0.5)], abs=1e-12)
    assert text_similarity(frames, torch.tensor([-1.0, 0.0])).tolist()[0] == -1  # not clipped at 0


def test_any_feature_function_will_do():
    # Mean colours as features: grey levels are parallel, red and green are at right angles.
    mean_colour = lambda frames: frames.mean((1, 2))  # noqa: E731
    grey, red, green = (torch.tensor(colour).expand(2, 4, 4, 3) for colour in ([0.2] * 3, [1.0, 0, 0], [0, 1.0, 0]))
    assert frame_similarity(mean_colour(grey), mean_colour(3 * grey)).tolist() == pytest.approx([1, 1])
    assert frame_similarity(mean_colour(red), mean_colour(green)).tolist() == [0, 0]


def test_features_that_do_not_fit_are_refused():
    good = torch.ones(3, 4)
    with pytest.raises(ShapeError, match=r"truth must have shape \[3, 4\]; got \[2, 4\]"):
        frame_similarity(good, good[:2])
    with pytest.raises(ShapeError, match=r"text must have shape \[4\]; got \[5\]"):
        text_similarity(good, torch.ones(5))
    with pytest.raises(ShapeError, match=r"at least 2 frames to compare neighbours; got 1\. Give a video"):
        adjacent_similarity(good[:1])
    with pytest.raises(ShapeError, match=r"features is empty: \[0, 4\]"):
        adjacent_similarity(good[:0])
    with pytest.raises(
        ValueError, match=r"truth: the features of frame 1 are all zero, which has no direction\. Check"
    ):
        frame_similarity(good, torch.tensor([[1.0] * 4, [0.0] * 4, [1.0] * 4]))
    with pytest.raises(ValueError, match=r"result holds 12 NaN"):
        frame_similarity(good * math.nan, good)


# ---- Frechet --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["frechet_1d", "frechet_2d"])
def test_golden_frechet_distances(key):
    golden = GOLDEN[key]
    of = lambda name, shape: torch.tensor(golden[name], dtype=torch.float64).reshape(shape)  # noqa: E731
    width = 1 if key.endswith("1d") else 2
    spread = "var" if width == 1 else "cov"
    got = frechet_distance(
        of("mu1", width), of(f"{spread}1", (width, width)), of("mu2", width), of(f"{spread}2", (width, width))
    )
    assert got == pytest.approx(golden["value"], abs=ROUNDED)


def test_two_by_two_in_closed_form():
    # trace((A B)^(1/2)) of 2 x 2 matrices is sqrt(trace(A B) + 2 sqrt(det(A B))).
    a, b = (torch.cov(noise(2, 9, seed=seed).double()) for seed in (1, 2))
    shared = ((a @ b).trace() + 2 * torch.linalg.det(a @ b).sqrt()).sqrt()
    mean = torch.tensor([0.3, -1.0], dtype=torch.float64)
    expected = float(mean.square().sum() + (a + b).trace() - 2 * shared)
    assert frechet_distance(mean, a, torch.zeros(2), b) == pytest.approx(expected, abs=1e-9)


def test_a_distribution_is_at_distance_zero_from_itself_even_without_full_rank():
    few = torch.cov(noise(8, 3).double())  # rank 2 of 8
    assert frechet_distance(torch.ones(8), few, torch.ones(8), few) == pytest.approx(0, abs=1e-7)


def test_what_is_no_covariance_is_refused():
    zero, one = torch.zeros(2), torch.eye(2)
    with pytest.raises(ValueError, match=r"covariance_a is not a covariance: it must be symmetric without negative"):
        frechet_distance(zero, torch.tensor([[1.0, 0.5], [0.0, 1.0]]), zero, one)
    with pytest.raises(ValueError, match=r"covariance_b is not a covariance: .* Compute it with torch\.cov"):
        frechet_distance(zero, one, zero, -one)
    with pytest.raises(ShapeError, match=r"covariance_b must have shape \[2, 2\]; got \[3, 3\]"):
        frechet_distance(zero, one, zero, torch.eye(3))


# ---- CLIP -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP release in small: random weights, a tokenizer of letters."""
    folder = tmp_path_factory.mktemp("releases") / "tiny-clip"
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: row for row, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shared = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": len(words), "max_position_embeddings": LONGEST}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    config = CLIPConfig(
        text_config=shared | text | ends, vision_config=shared | {"image_size": 32, "patch_size": 8}, projection_dim=12
    )
    torch.manual_seed(0)
    network = CLIPModel(config)
    for parameter in network.parameters():  # far enough from 0 that pictures and prompts differ
        torch.nn.init.normal_(parameter, std=0.2)
    network.logit_scale.data.fill_(1.5)
    network.save_pretrained(folder)
    statistics = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    return folder


@pytest.fixture(scope="module")
def clip(clip_folder):
    return ClipEncoder.from_folder(clip_folder)


def test_clip_t_is_what_clip_itself_says(clip):
    frames = noise(5, 32, 32, 3)
    images, text = clip.encode_images(frames), clip.encode_text("a red ball")
    start, end = clip.tokenizer.bos_token_id, clip.tokenizer.eos_token_id
    letter = lambda word: [ord(c) - ord("a") for c in word[:-1]] + [ord(word[-1]) - ord("a") + 26]  # noqa: E731
    tokens = [start, *letter("a"), *letter("red"), *letter("ball"), end]
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in ([0.4, 0.5, 0.6], [0.2, 0.25, 0.3]))
    with torch.no_grad():
        output = clip.network(input_ids=torch.tensor([tokens]), pixel_values=(frames.permute(0, 3, 1, 2) - mean) / std)
    cosines = output.logits_per_image[:, 0] / math.exp(1.5)
    torch.testing.assert_close(text_similarity(images, text).float(), cosines, atol=1e-5, rtol=0)
    assert cosines.std() > 1e-3


@pytest.mark.parametrize(("height", "width"), [(48, 85), (100, 40), (20, 33)])
def test_pictures_are_prepared_as_transformers_does_it(clip, height, width):
    processor = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    prepare = processor(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.25, 0.3],
    )
    levels = (64 + 127 * noise(height, width, 3, seed=height)).round()  # nothing overshoots 0 or 255
    wanted = prepare(levels.numpy().astype(np.uint8), return_tensors="pt", input_data_format="channels_last")
    got = clip._pixels((levels / 255)[None])
    # Pillow rounds to 8 bits after each of its two passes; a level is 1 / 255 / 0.2 = 0.02 here.
    torch.testing.assert_close(got, wanted["pixel_values"], atol=0.03, rtol=0)


def test_batches_change_nothing(clip):
    frames = noise(19, 40, 40, 3)
    whole = clip.encode_images(frames)
    alone = torch.cat([clip.encode_images(frame[None]) for frame in frames])
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=0)
    assert clip.name == "CLIP tiny-clip"


def test_the_features_of_transformers_4_are_the_same(clip, monkeypatch):
    # Releases before 5 return the projected features themselves.
    frames = noise(2, 32, 32, 3)
    expected = clip.encode_images(frames), clip.encode_text("ball")
    for name in ("get_image_features", "get_text_features"):
        method = getattr(clip.network, name)
        monkeypatch.setattr(clip.network, name, lambda method=method, **inputs: method(**inputs).pooler_output)
    assert torch.equal(clip.encode_images(frames), expected[0])
    assert torch.equal(clip.encode_text("ball"), expected[1])


def test_a_prompt_that_is_too_long_is_cut_and_said_so(clip):
    short = "b" * (LONGEST - 2)
    fits = clip.encode_text(short)
    with pytest.warns(CineSceneWarning, match=r"has 15 tokens and CLIP reads 12: the last 3 are not scored\. Shorten"):
        cut = clip.encode_text(short[:-1] + "bbbb")
    assert fits.shape == cut.shape == (12,)


def test_an_empty_prompt_is_refused(clip):
    with pytest.raises(ValueError, match=r"The prompt is empty: CLIP-T has nothing to compare\. Give the text"):
        clip.encode_text(" ")


def copy_of(folder, target):
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_incomplete_folders_are_refused(tmp_path, clip_folder):
    with pytest.raises(
        CheckpointError, match=r"nowhere.config\.json does not exist\. Name the folder of a CLIP release"
    ):
        ClipEncoder.from_folder(tmp_path / "nowhere")
    folder = copy_of(clip_folder, tmp_path / "a")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json does not exist\."):
        ClipEncoder.from_folder(folder)
    (folder / "preprocessor_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds no CLIP that can be loaded: 'image_mean' Download it again"):
        ClipEncoder.from_folder(folder)
    (folder / "preprocessor_config.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json cannot be read \("):
        ClipEncoder.from_folder(folder)
    (folder / "preprocessor_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"must hold a JSON object\."):
        ClipEncoder.from_folder(folder)


def test_a_folder_without_weights_is_refused(tmp_path, clip_folder):
    folder = copy_of(clip_folder, tmp_path / "a")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no CLIP that can be loaded: .* Download it again\.$"):
        ClipEncoder.from_folder(folder)


def test_missing_tensors_are_refused_instead_of_initialised(tmp_path, clip_folder):
    folder = copy_of(clip_folder, tmp_path / "a")
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors of CLIP, the first is visual_projection\.weight\."):
        ClipEncoder.from_folder(folder)


def test_another_network_is_refused(tmp_path, clip_folder):
    folder = copy_of(clip_folder, tmp_path / "a")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "siglip"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"holds a network of type 'siglip', not CLIP\. Use a folder such as"):
        ClipEncoder.from_folder(folder)


def test_without_transformers_a_sentence_names_the_extra(monkeypatch, clip_folder):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "transformers":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(
        ImportError, match=re.escape('CLIP scores need transformers. Install it with: pip install "cin')
    ):
        ClipEncoder.from_folder(clip_folder)
