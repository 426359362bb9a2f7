"""What the memory planner predicts: against what stages take, and the sentence where memory runs out."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

import cinescene_core.pipeline
from cinescene_core.config import CineSceneConfig, SamplingConfig, WanConfig
from cinescene_core.memory import (
    Networks,
    OutOfMemory,
    ShotSize,
    advice,
    changes_that_fit,
    free_bytes,
    host_bytes,
    is_out_of_memory,
    memory_told,
    peak_bytes,
    predict_memory,
    scene_cache_bytes,
    shortage,
)
from cinescene_core.memory.predict import UMT5_XXL_BYTES, network_bytes
from cinescene_core.pipeline import Models, cache_scene, encode_place, generate, load_nano
from cinescene_core.trajectory import preset_trajectory
from cinescene_core.types import Views

LINUX = sys.platform.startswith("linux")
GIB = 2**30
FULL = Networks()
TRAINED = ShotSize.trained(CineSceneConfig())
CACHED = dataclasses.replace(TRAINED, context_attention="cached")
TINY = Networks(
    wan=WanConfig(
        width=48, num_layers=4, num_heads=2, ffn_width=64, text_width=16, frequency_width=16, feature_width=32
    ),
    dtype=torch.float32,
)
SMALL = ShotSize(
    num_frames=9, num_views=6, width=96, height=64, vggt_width=42, vggt_height=28, context_attention="cached"
)


# Counting.


def test_views_cost_nothing_and_what_is_let_go_is_gone():
    def work():
        first = torch.empty(1000)  # 4,000 bytes
        seen = first.view(10, 100).t()
        second = seen + 1  # 8,000
        del first, seen
        return second.to(torch.float64)  # the first is gone: 4,000 + 8,000

    assert peak_bytes(work) == 12_000


def test_what_was_made_before_does_not_count():
    layer = nn.Linear(100, 50, device="meta")
    # [7, 100] in and [7, 50] out; weights and their transposed view were there before.
    assert peak_bytes(lambda: layer(torch.empty(7, 100))) == 4 * 7 * 150


def test_attention_stores_no_scores():
    def work():
        heads = torch.empty(1, 2, 500, 8)
        return scaled_dot_product_attention(heads, heads, heads)

    assert peak_bytes(work) == 2 * 4 * 2 * 500 * 8  # the input and as much output; scores would be 2,000,000


def run_stages(device: str) -> list[tuple[str, str | None, str, int, int]]:
    """Mode, type of the cache, stage, measured and predicted bytes."""
    folder = Path(__file__).parent
    # Blocks of 256 KiB and more come straight from the system and go back to it, as all large tensors of a full-size
    # shot do: by default the C library decides so from 32 MiB, and keeps smaller ones in reserve.
    settings = {"MALLOC_MMAP_THRESHOLD_": str(2**18), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(folder / "memory_stages.py"), device],
        env=os.environ | settings | {"PYTHONPATH": os.pathsep.join([str(folder.parent), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(row) for row in json.loads(done.stdout.splitlines()[-1])]


def check_stages(rows: list[tuple[str, str | None, str, int, int]]) -> None:
    assert [(mode, stage) for mode, _, stage, _, _ in rows] == [
        *(("joint", stage) for stage in ("text", "scene", "sampling", "video")),
        *((mode, stage) for mode in ("cached", "per_view") for stage in ("cache", "sampling")),
    ]
    for mode, stored, stage, measured, predicted in rows:
        assert predicted == pytest.approx(measured, rel=0.15), f"{stage} in mode {mode}, cache {stored}"


@pytest.mark.skipif(not LINUX, reason="only Linux forgets a peak of resident memory")
def test_every_stage_takes_what_was_predicted_within_15_percent():
    check_stages(run_stages("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_stage_takes_what_was_predicted_of_a_card_within_15_percent():
    check_stages(run_stages("cuda"))


# Full size, against numbers from elsewhere.


def test_the_cache_of_the_full_size_model_is_two_tensors_per_block():
    # 30 blocks, keys and values, 2 x 20 frames of 24 x 42 tokens, 1,536 wide, 2 bytes.
    assert scene_cache_bytes(FULL, CACHED) == 30 * 2 * 40 * 24 * 42 * 1536 * 2
    float8 = scene_cache_bytes(FULL, dataclasses.replace(CACHED, stored="float8"))
    assert float8 == 30 * 2 * (40 * 24 * 42 * 1536 + 12 * 4)  # and one float32 scale per head
    assert scene_cache_bytes(FULL, TRAINED) == 0


def test_weights_are_those_of_the_published_networks():
    # 1.419 billion parameters of Wan2.1 1.3B in bfloat16, and CineScene's layers in bfloat16 and float32.
    added = 2048 * 1536 * 4 * 2 + 30 * 13 * 1536 * 4
    assert network_bytes(FULL, "transformer") == pytest.approx(1.419e9 * 2 + added, rel=0.005)
    assert network_bytes(FULL, "vae") == pytest.approx(127e6 * 4, rel=0.005)


def test_the_text_encoder_is_as_large_as_transformers_says():
    from transformers import UMT5Config, UMT5EncoderModel

    sizes = {"vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    with torch.device("meta"):
        network = UMT5EncoderModel(UMT5Config(**sizes))
    assert 2 * sum(values.numel() for values in network.parameters()) == UMT5_XXL_BYTES


def stages_of(shot: ShotSize, device: str, *stages: str) -> list[int]:
    return [memory.peak for memory in predict_memory(TINY, shot, device, stages)]


def test_a_card_holds_one_stages_networks_and_the_cpu_all():
    card = predict_memory(TINY, SMALL, "cuda", ["sampling"])[0]
    cpu = predict_memory(TINY, SMALL, "cpu", ["sampling"])[0]
    assert card.weights == network_bytes(TINY, "transformer")
    everything = sum(network_bytes(TINY, name) for name in ("text", "vggt", "vae", "transformer"))
    assert cpu.weights - everything == 600 * 2**20
    assert cpu.working > card.working


def test_mode_joint_has_no_cache_stage():
    joint = dataclasses.replace(SMALL, context_attention="joint")
    assert [memory.stage for memory in predict_memory(TINY, joint, "cuda", ["scene cache", "sampling"])] == ["sampling"]


def test_a_cache_in_host_memory_leaves_two_blocks_on_the_card():
    here, there = (
        stages_of(dataclasses.replace(SMALL, place=place), "cuda", "sampling")[0] for place in ("device", "host")
    )
    assert here - there == scene_cache_bytes(TINY, SMALL) * 2 // 4  # of four blocks


def test_the_host_of_a_card_holds_the_cache_that_is_not_there():
    kept = host_bytes(TINY, dataclasses.replace(SMALL, place="host")) - host_bytes(TINY, SMALL)
    assert kept == scene_cache_bytes(TINY, SMALL)


# Advice.


def test_the_smallest_change_of_each_kind_is_found():
    needed = max(stages_of(SMALL, "cuda", "scene cache", "sampling"))
    free = int(0.8 * needed)
    found = list(changes_that_fit(TINY, SMALL, "cuda", free, ("scene cache", "sampling")))
    assert found
    for change in found:
        assert change.peak == max(stages_of(change.shot, "cuda", "scene cache", "sampling")) <= free
    views = next(change for change in found if "views" in change.words)
    one_more = dataclasses.replace(SMALL, num_views=views.shot.num_views + 1)
    assert max(stages_of(one_more, "cuda", "scene cache", "sampling")) > free
    kinds = [re.sub(r"\d+", "N", change.words) for change in found]
    order = [
        "the scene cache in floatN", "the scene cache in host memory", "N views", "N x N pixels", "N frames",
    ]  # fmt: skip
    assert kinds == [kind for kind in order if kind in kinds]


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
    assert shortage(TINY, SMALL, "cuda", ["sampling"], 1000).endswith(
        "where 0 MiB is free; use a device with more memory."
    )
    assert "where an unknown part of it is free; use the scene cache" in shortage(
        TINY, SMALL, "mps", ["sampling"], None
    )


# Out of memory at each stage.


@pytest.mark.skipif(not LINUX, reason="elsewhere it is not told")
def test_free_memory_is_between_what_the_process_has_and_what_the_machine_has():
    free = free_bytes("cpu")
    assert 2**26 < free <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_what_says_that_memory_ran_out():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"^shapes$"), memory_told(lambda: TINY, lambda: SMALL, "cpu", "sampling"):
        raise RuntimeError("shapes")


@pytest.fixture(scope="module")
def models() -> Models:
    return load_nano()


@pytest.fixture(scope="module")
def views(models) -> Views:
    size = 3, models.config.height, models.config.width, 3
    return Views(torch.rand(size, generator=torch.Generator().manual_seed(1)), fov_degrees=90.0)


def fail(*_, **__):
    torch.empty(2**50)


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
@pytest.mark.parametrize("on_card", [False, True])
def test_a_shot_that_runs_out_of_memory_says_where_and_what_to_do(
    models, views, monkeypatch, stage, name, seen, on_card
):
    def card_fails(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    failing = card_fails if on_card else fail
    if name == "models.text.encode":
        monkeypatch.setattr(type(models.text), "encode", failing)
    else:
        monkeypatch.setattr(cinescene_core.pipeline, name, failing)
    cached = dataclasses.replace(models, config=dataclasses.replace(models.config, context_attention="cached"))
    path = preset_trajectory("pan_right", num_frames=5, fov_degrees=90.0)
    where = r"(5|17) frames of 160 x 96 pixels with " + seen
    wanted = rf"^Out of memory in stage '({stage})': {where} take [\d.]+ [GM]iB on cpu, where [\d.]+ GiB is free; use "
    with pytest.raises(OutOfMemory, match=wanted) as caught:
        generate(cached, views, "a red robot", path, sampling=SamplingConfig(steps=1, guidance=1.0))
    assert isinstance(caught.value, torch.OutOfMemoryError)  # a host that waits for that gets it


def test_reading_a_scene_ahead_of_its_shots_says_so_too(models, views, monkeypatch):
    cached = dataclasses.replace(models, config=dataclasses.replace(models.config, context_attention="cached"))
    scene = encode_place(models, views)
    monkeypatch.setattr(cinescene_core.pipeline, "build_scene_cache", fail)
    with pytest.raises(OutOfMemory, match="stage 'scene cache': 9 frames of 160 x 96 pixels with 3 views"):
        cache_scene(cached, scene, 9)


def test_nothing_is_planned_while_memory_lasts(monkeypatch):
    monkeypatch.setattr(advice, "predict_memory", lambda *_: pytest.fail("planned"))
    with memory_told(lambda: pytest.fail("sized"), lambda: SMALL, "cpu", "sampling"):
        pass
