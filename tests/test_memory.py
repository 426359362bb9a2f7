"""What the memory planner predicts: against what stages take, and the sentence where memory runs out."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from cinescene_core.config import CineSceneConfig, WanConfig
from cinescene_core.memory import (
    Networks,
    ShotSize,
    free_bytes,
    host_bytes,
    peak_bytes,
    predict,
    predict_memory,
    scene_cache_bytes,
)
from cinescene_core.memory.predict import PROCESS_BYTES, UMT5_XXL_BYTES, network_bytes

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


def test_memory_at_an_address_that_served_before_counts_again():
    def work():
        kept = []
        for _ in range(100):
            torch.tensor([1.0], device="cpu").double()  # torch makes its memory unseen, and frees it
            kept.append(torch.empty(1000))
        return kept

    assert peak_bytes(work) == 100 * 4000


def test_attention_stores_no_scores():
    def work():
        heads = torch.empty(1, 2, 500, 8)
        return scaled_dot_product_attention(heads, heads, heads)

    assert peak_bytes(work) == 2 * 4 * 2 * 500 * 8  # the input and as much output; scores would be 2,000,000


def run_stages(device: str) -> tuple[int, list[tuple[str, str | None, str, int, int]]]:
    """Bytes of the process without networks; mode, type of the cache, stage, measured and predicted bytes."""
    found = run_alone("memory_stages.py", device)
    return found["process"], [tuple(row) for row in found["stages"]]


def run_alone(script: str, *arguments: str) -> Any:
    """What a script beside this file prints in a process of its own."""
    folder = Path(__file__).parent
    # Blocks of 256 KiB and more come straight from the system and go back to it, as all large tensors of a full-size
    # shot do: by default the C library decides so from 32 MiB, and keeps smaller ones in reserve.
    settings = {"MALLOC_MMAP_THRESHOLD_": str(2**18), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(folder / script), *arguments],
        env=os.environ | settings | {"PYTHONPATH": os.pathsep.join([str(folder.parent), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not LINUX, reason="only Linux forgets a peak of resident memory")
def test_cutting_a_panorama_takes_what_was_predicted_within_15_percent():
    for measured, predicted in run_alone("memory_cutting.py"):
        assert predicted == pytest.approx(measured, rel=0.15)


def check_stages(process: int, expected: int, rows: list[tuple[str, str | None, str, int, int]]) -> None:
    """Compare the stages as a whole, and without the process, which would hide an error in a small stage."""
    assert [(mode, stage) for mode, _, stage, _, _ in rows] == [
        *(("joint", stage) for stage in ("text", "scene", "sampling", "video")),
        *((mode, stage) for mode in ("cached", "per_view") for stage in ("cache", "sampling")),
    ]
    for mode, stored, stage, measured, predicted in rows:
        name = f"{stage} in mode {mode}, cache {stored}"
        assert predicted == pytest.approx(measured, rel=0.15), name
        assert predicted - expected == pytest.approx(measured - process, rel=0.15), name


@pytest.mark.skipif(not LINUX, reason="only Linux forgets a peak of resident memory")
def test_process_and_every_stage_take_what_was_predicted_within_15_percent():
    process, rows = run_stages("cpu")
    if torch.version.cuda is None:  # the constant is that of a torch for the CPU
        assert process == pytest.approx(PROCESS_BYTES, rel=0.15)
    check_stages(process, PROCESS_BYTES, rows)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_stage_takes_what_was_predicted_of_a_card_within_15_percent():
    check_stages(0, 0, run_stages("cuda")[1])


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
    assert cpu.weights - everything == PROCESS_BYTES
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


@pytest.mark.parametrize("on_cpu", [False, True])
@pytest.mark.parametrize("num_frames", [1, 9, 13, 41])
def test_a_decoder_is_predicted_from_its_first_frames_as_from_all(num_frames, on_cpu):
    networks = dataclasses.replace(TINY, vae_width=16)
    shot = dataclasses.replace(SMALL, num_frames=num_frames, context_attention="joint")
    vae = predict._vae(networks)
    whole = peak_bytes(lambda: vae.decode(torch.empty(1, *shot.latent_shape)), on_cpu)
    assert predict._decoder_peak(networks, shot, on_cpu) == whole


def test_every_video_of_a_batch_takes_as_much_and_the_scene_once():
    one, two, three = (
        predict_memory(
            TINY, dataclasses.replace(SMALL, num_frames=33, width=384, height=256, batch=batch), "cuda", ["sampling"]
        )[0].working
        for batch in (1, 2, 3)
    )
    # 9 latent frames of 16 x 24 tokens; the widest step has tokens in and the hidden layer out, in float32.
    assert three - two == pytest.approx(two - one, rel=0.05)
    assert two - one > 9 * 16 * 24 * (48 + 64) * 4
    assert two < 2 * one  # the cache is there once


# What there is.


def system(root: Path, limit: str) -> Path:
    """The files in which Linux tells of memory."""
    files = {
        "proc/meminfo": "MemTotal:       65536 kB\nMemFree:        10000 kB\nMemAvailable:   40000 kB\n",
        "proc/self/status": "Name:   python\nVmHWM:     9000 kB\nVmRSS:     5000 kB\n",
        "sys/fs/cgroup/memory.max": limit,
        "sys/fs/cgroup/memory.current": f"{30000 * 1024}\n",
        "sys/fs/cgroup/memory.stat": f"anon {9000 * 1024}\ninactive_file {12000 * 1024}\nactive_file {4096}\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_files_that_a_container_has_read_do_not_count_as_used(tmp_path):
    # Its limit of 50,000 KiB leaves 20,000, and 12,000 of the rest are files that can be read again.
    assert free_bytes("cpu", system(tmp_path, f"{50000 * 1024}\n")) == (20000 + 12000 + 5000) * 1024
    # The machine has 40,000 KiB: less than a larger limit, and all there is without one.
    for limit in (f"{90000 * 1024}\n", "max\n"):
        assert free_bytes("cpu", system(tmp_path, limit)) == (40000 + 5000) * 1024


def test_where_no_system_tells_nothing_is_known(tmp_path):
    assert free_bytes("cpu", tmp_path) is None
    assert free_bytes("mps", system(tmp_path, "max\n")) is None


@pytest.mark.skipif(not LINUX, reason="elsewhere it is not told")
def test_free_memory_is_between_what_the_process_has_and_what_the_machine_has():
    free = free_bytes("cpu")
    assert 2**26 < free <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
