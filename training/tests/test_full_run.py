"""The page on what the full run needs says what its script computes."""

import re
import sys
from pathlib import Path

import pytest

TRAINING = Path(__file__).parents[1]
PAGE = (TRAINING / "docs" / "full_run.md").read_text(encoding="utf-8")
sys.path.insert(0, str(TRAINING / "benchmarks"))
import full_run  # noqa: E402


def row(beginning: str) -> list[float]:
    """Numbers of the row of the page that begins so."""
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {beginning}"))
    return [float(number.replace(",", "")) for number in re.findall(r"(?<= )[\d,]+\.?\d*(?= )", line.split("|", 2)[2])]


def test_the_disk_it_names_is_the_size_of_what_is_kept():
    for what, size in full_run.disk_gb().items():
        assert row(what) == [pytest.approx(size, abs=0.5)]
    # 16 channels x 48 x 84 x 2 bytes a latent frame; 20 of them for each of 46,816 clips.
    assert full_run.disk_gb()["clip latents"] == pytest.approx(46_816 * 20 * 16 * 48 * 84 * 2 / 1e9)


def test_memory_is_sixteen_bytes_and_the_average_for_each_trained_parameter():
    counted = full_run.Counted(2 * 2**30, 2**30, 0, 0, 0, 0)
    assert full_run.weights_gib(counted) == {
        "weights, float32": 8.0,
        "gradients, float32": 4.0,
        "Adam's two moments": 8.0,
        "averaged weights": 4.0,
    }


def test_what_fsdp_gathers_is_two_blocks_and_what_is_outside_them():
    width, ffn, text = 5120, 13824, 4096
    # Of a block train 4 matrices of self-attention, the projector, 2 of the feed-forward; 4 of cross-attention do not.
    trained, frozen = 5 * width**2 + 2 * width * ffn, 4 * width**2
    # Text and time embeddings, six rows of modulation; and scene_embed, 2048 channels in patches of 4, which trains.
    outside = (text + width) * width + (256 + width) * width + 6 * width**2 + 2 * 4 * 2048 * width
    wanted = 4 * (2 * (2 * trained + frozen) + outside) / 2**30
    computed = full_run.gathered_gib(full_run.MODELS["14B"])
    assert computed == pytest.approx(wanted, rel=0.01)  # biases, norms, camera, patches and head are left out above
    columns = [line.split("|") for line in PAGE.splitlines() if line.startswith("| 14B, joint |")][1]
    fixed, inputs, backward, _, gathered, over_8, over_16 = map(float, columns[2:9])
    assert gathered == pytest.approx(computed, abs=0.05)
    assert over_8 == pytest.approx(fixed / 8 + inputs + backward + computed, abs=0.15)  # each is rounded to a tenth
    assert over_16 == pytest.approx(fixed / 16 + inputs + backward + computed, abs=0.15)


def test_the_host_holds_the_network_of_every_process_and_gathers_a_checkpoint():
    counted = full_run.Counted(2e9, 1e9, 0, 0, 0, 0)
    # 8 GB a network; 8 GB of moments and 4 GB of averages.
    assert full_run.host_gb(counted) == {"start": 8 * 8.0, "checkpoint": 8.0 + 8.0 + 4.0}
    assert row("14B |") == [61.5, 492, 193]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), [("1.3B", "joint"), ("1.3B", "cached")])
def test_flops_and_memory_are_those_counted(name, mode):
    counted = full_run.count(full_run.MODELS[name], mode)
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| {name}, {mode} |")]
    assert f"| {counted.forward_tflop:,.0f} | {counted.step_tflop:,.0f} |" in rows[0]
    assert f"| {counted.checkpoint_gib:.1f} | {counted.block_gib:.1f} |" in rows[1]
    # reference figures: 840 and 675 TFLOP a forward (2 FLOP per multiply-add), four forwards a step less frozen layers
    assert counted.step_tflop == pytest.approx(4 * counted.forward_tflop, rel=0.01)
