"""What is said where a shot is too large: the changes that help, and the sentence where memory runs out."""

import dataclasses
import re

import pytest
import torch
from test_memory import CACHED, FULL, GIB, SMALL, TINY, stages_of

import cinescene_core.pipeline
from cinescene_core.config import SamplingConfig
from cinescene_core.loading import Models, load_nano
from cinescene_core.memory import (
    OutOfMemory,
    advice,
    changes_that_fit,
    explaining_out_of_memory,
    is_out_of_memory,
    predict_memory,
    shortage,
)
from cinescene_core.pipeline import cache_scene, encode_place, generate
from cinescene_core.trajectory import preset_trajectory
from cinescene_core.types import Views

LARGE = dataclasses.replace(SMALL, num_frames=33, width=384, height=256)
"""Its tokens outweigh those of the prompt."""


def test_a_stage_that_no_change_helps_is_left_at_once(monkeypatch):
    predicted = []

    def counting(networks, shot, device, stages):
        predicted.append((shot, *stages))
        return predict_memory(networks, shot, device, stages)

    monkeypatch.setattr(advice, "predict_memory", counting)
    assert list(changes_that_fit(FULL, CACHED, "cuda", 6 * GIB)) == []  # its text encoder has 10.6 GiB of weights
    smaller = [(shot, stage) for shot, stage in predicted if shot != CACHED]
    assert {stage for _, stage in smaller} == {"text encoder"}
    assert len(smaller) == 5  # one shot of each kind


def test_stages_that_fit_are_not_predicted_for_every_change(monkeypatch):
    predicted = []

    def counting(networks, shot, device, stages):
        predicted.extend(stages)
        return predict_memory(networks, shot, device, stages)

    needed = stages_of(SMALL, "cuda", "scene cache", "sampling")
    assert needed[0] != needed[1]
    monkeypatch.setattr(advice, "predict_memory", counting)
    changes = list(changes_that_fit(TINY, SMALL, "cuda", max(needed) - 1, ("scene cache", "sampling")))
    fitting = ("scene cache", "sampling")[needed[0] > needed[1]]
    # Once for the shot itself, and twice for each change that is told.
    assert predicted.count(fitting) == 1 + 2 * len(changes)


def test_the_smallest_change_of_each_kind_is_found():
    needed = max(stages_of(LARGE, "cuda", "scene cache", "sampling"))
    free = int(0.8 * needed)
    found = list(changes_that_fit(TINY, LARGE, "cuda", free, ("scene cache", "sampling")))
    for change in found:
        assert change.peak == max(stages_of(change.shot, "cuda", "scene cache", "sampling")) <= free
    views = next(change for change in found if "view" in change.words)
    one_more = dataclasses.replace(LARGE, num_views=views.shot.num_views + 1)
    assert max(stages_of(one_more, "cuda", "scene cache", "sampling")) > free
    kinds = [re.sub(r"\d+", "N", change.words) for change in found]
    order = [
        "the scene cache in floatN", "the scene cache in host memory", "N views", "N x N pixels", "N frames",
    ]  # fmt: skip
    assert kinds == [kind for kind in order if kind in kinds]
    assert {"N views", "N x N pixels"} <= set(kinds)


def test_a_cache_that_cannot_move_and_the_cpu_are_not_told_to_move_it():
    needed = max(stages_of(SMALL, "cuda", "sampling"))
    moved = [c.words for c in changes_that_fit(TINY, SMALL, "cuda", needed - 1, ("sampling",))]
    stays = [c.words for c in changes_that_fit(TINY, SMALL, "cuda", needed - 1, ("sampling",), cache_moves=False)]
    assert [words for words in moved if "cache" not in words] == stays
    on_cpu = [
        c.words
        for c in changes_that_fit(TINY, SMALL, "cpu", max(stages_of(SMALL, "cpu", "sampling")) - 1, ("sampling",))
    ]
    assert "the scene cache in host memory" in moved
    assert "the scene cache in host memory" not in on_cpu


def test_the_sentence_names_stage_need_free_and_change():
    text = shortage(TINY, SMALL, "cuda", ["sampling"], stages_of(SMALL, "cuda", "sampling")[0] - 1)
    assert re.fullmatch(
        r"Out of memory in stage 'sampling': 9 frames of 96 x 64 pixels with 6 views take \d+ MiB on cuda, "
        r"where \d+ MiB is free; use the scene cache in float8 \(\d+ MiB\)\.",
        text,
    )
    for device, more in (("cuda", "a card with more memory, or the CPU"), ("cpu", "a machine with more memory")):
        assert shortage(TINY, SMALL, device, ["sampling"], 1000).endswith(f"where 0 MiB is free; use {more}.")
    assert ": 2 videos of 9 frames of" in shortage(
        TINY, dataclasses.replace(SMALL, batch=2), "cuda", ["sampling"], 1000
    )


@pytest.mark.parametrize("free", [80 * GIB, None])
def test_a_shot_that_should_have_fitted_must_shrink_by_half(free):
    text = shortage(TINY, LARGE, "cuda", ["sampling"], free)
    where = "an unknown part of it" if free is None else "80.0 GiB"
    taken, after = ("take", "") if free is None else ("were predicted to take", ", and took more")
    assert re.search(rf"6 views {taken} \d+ MiB on cuda, where {where} is free{after}; use", text)
    before = predict_memory(TINY, LARGE, "cuda", ["sampling"])[0]
    found = next(changes_that_fit(TINY, LARGE, "cuda", before.weights + before.working // 2, ["sampling"]))
    after = predict_memory(TINY, found.shot, "cuda", ["sampling"])[0]
    assert f"use {found.words} (" in text
    assert after.working <= before.working / 2


# Out of memory at each stage.


def test_what_says_that_memory_ran_out():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator is no file"))


@pytest.mark.parametrize(
    "text",
    [
        "MPS backend out of memory (MPS allocated: 17.9 GB, other allocations: 2.0 GB, max allowed: 18.1 GB).",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "unable to mmap 7340032 bytes from file <x.safetensors>: Cannot allocate memory (12)",
        "std::bad_alloc",
    ],
)
def test_what_torch_raises_as_a_plain_error_is_known_by_its_words(text):
    assert is_out_of_memory(RuntimeError(text))


def test_other_errors_stay_what_they_are():
    told = explaining_out_of_memory(lambda: TINY, lambda: SMALL, "cpu", "sampling")
    with pytest.raises(RuntimeError, match=r"^shapes$"), told:
        raise RuntimeError("shapes")


@pytest.mark.parametrize("what", ["networks", "shot", "predict_memory", "free_bytes"])
def test_an_error_that_cannot_be_explained_stays_what_it_is(monkeypatch, what):
    def fails(*_):
        raise MemoryError("while explaining")

    if what in ("predict_memory", "free_bytes"):
        monkeypatch.setattr(advice, what, fails)
    told = explaining_out_of_memory(
        fails if what == "networks" else lambda: TINY, fails if what == "shot" else lambda: SMALL, "cpu", "sampling"
    )
    with pytest.raises(torch.OutOfMemoryError, match=r"^CUDA out of memory\.$") as caught, told:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    assert not isinstance(caught.value, OutOfMemory)


@pytest.fixture(scope="module")
def models() -> Models:
    return load_nano()


@pytest.fixture(scope="module")
def views(models) -> Views:
    size = 3, models.config.height, models.config.width, 3
    return Views(torch.rand(size, generator=torch.Generator().manual_seed(1)), fov_degrees=90.0)


@pytest.mark.filterwarnings("ignore:This shot is not as the checkpoint was trained")
@pytest.mark.parametrize(
    ("stage", "name", "seen"),
    [
        ("text encoder", "models.text.encode", "20 views"),
        ("VGGT|VAE encoder", "encode_scene", "3 views"),
        ("scene cache", "build_scene_cache", "3 views"),
        ("sampling", "sample_latents", "3 views"),
        ("VAE decoder", "decode_video", "3 views"),
    ],
)
@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card"))],
)
@pytest.mark.parametrize("scarce", [False, True])
def test_a_shot_that_runs_out_of_memory_says_where_and_what_to_do(
    models, views, monkeypatch, stage, name, seen, device, scarce
):
    def fails(*_, **__):
        torch.empty(2**50, device=device)

    if name == "models.text.encode":
        monkeypatch.setattr(type(models.text), "encode", fails)
    else:
        monkeypatch.setattr(cinescene_core.pipeline, name, fails)
    monkeypatch.setattr(advice, "free_bytes", lambda _: 2**20 if scarce else 64 * GIB)
    cached = dataclasses.replace(models, config=dataclasses.replace(models.config, context_attention="cached"))
    path = preset_trajectory("pan_right", num_frames=5, fov_degrees=90.0)
    where = r"(5|17) frames of 160 x 96 pixels with " + seen
    taken = (
        "take NEED, where 1 MiB is free" if scarce else "were predicted to take NEED, where 64.0 GiB is free, and took"
    )
    needed = taken.replace("NEED", rf"([\d.]+ GiB|[2-9] MiB|\d\d+ MiB) on {device}")
    wanted = rf"^Out of memory in stage '({stage})': {where} {needed}"
    with pytest.raises(OutOfMemory, match=wanted) as caught:
        generate(cached, views, "a red robot", path, sampling=SamplingConfig(steps=1, guidance=1.0), device=device)
    assert isinstance(caught.value, torch.OutOfMemoryError)  # a host that waits for that gets it


def test_reading_a_scene_ahead_of_its_shots_says_so_too(models, views, monkeypatch):
    cached = dataclasses.replace(models, config=dataclasses.replace(models.config, context_attention="cached"))
    scene = encode_place(models, views)
    monkeypatch.setattr(cinescene_core.pipeline, "build_scene_cache", lambda *_, **__: torch.empty(2**50))
    with pytest.raises(OutOfMemory, match="stage 'scene cache': 9 frames of 160 x 96 pixels with 3 views"):
        cache_scene(cached, scene, 9)


def test_nothing_is_planned_while_memory_lasts(monkeypatch):
    monkeypatch.setattr(advice, "predict_memory", lambda *_: pytest.fail("planned"))
    with explaining_out_of_memory(lambda: pytest.fail("sized"), lambda: SMALL, "cpu", "sampling"):
        pass


def test_a_panorama_that_cannot_be_cut_for_want_of_memory_says_what_it_needs(models, monkeypatch):
    def fails(*_, **__):
        raise MemoryError

    monkeypatch.setattr(cinescene_core.pipeline, "slice_panorama", fails)
    with pytest.raises(OutOfMemory, match=r"^Out of memory in stage 'views': 17 frames of 4096 x 4096 pixels with 20"):
        encode_place(models, torch.zeros(8, 16, 3), view_config=models.view_config(width=4096, height=4096))
