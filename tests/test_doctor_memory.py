"""`cinescene doctor` on memory: a table of what the checkpoints found here take, and what makes them fit."""

import dataclasses
import re

import pytest
from tiny_models import write_full_size

import cinescene_core.cli.doctor
from cinescene_core.cli import main
from cinescene_core.config import CineSceneConfig
from cinescene_core.memory import STAGES, Networks, ShotSize, predict_memory
from cinescene_core.weights import nano_path

GIB = 2**30


def table_of(text: str) -> dict[str, list[str]]:
    """The cells behind each name in the last part of what the doctor prints."""
    lines = text.split("predicted, in GiB\n")[1].splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines}


@pytest.fixture
def on(monkeypatch):
    """Put the doctor on a device with some memory."""

    def put(device: str, free: int | None) -> None:
        monkeypatch.setattr(cinescene_core.cli.doctor, "default_device", lambda: device)
        monkeypatch.setattr(cinescene_core.cli.doctor, "free_bytes", lambda _: free)

    return put


def test_every_checkpoint_has_a_line_with_what_its_stages_take(tmp_path, capsys, on):
    on("cuda", 80 * GIB)
    write_full_size(tmp_path, context_attention="cached")
    assert main(["doctor", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "of a shot as trained takes on cuda, where 80.0 GiB is free; predicted" in said
    table = table_of(said)
    assert set(table) == {"checkpoint", "nano.safetensors", "cinescene.safetensors"}  # no VGGT, no VAE
    assert "text encoder" in said
    networks, shot = cinescene_core.cli.doctor.sizes_of(tmp_path / "cinescene.safetensors")
    assert (shot.num_frames, shot.width, shot.context_attention) == (5, 64, "cached")
    peaks = [memory.peak for memory in predict_memory(networks, shot, "cuda")]
    *stages, host = table["cinescene.safetensors"]
    assert stages == [f"{peak / GIB:.1f}" for peak in peaks]
    assert len(stages) == len(STAGES)
    # Its VGGT, VAE and text encoder are taken to be those of full size: 5.7, 0.9 and 0.1 billion parameters.
    assert stages[0] == "10.7"
    assert float(host) > 13


def test_mode_joint_has_no_cache_and_an_unknown_memory_is_not_compared(capsys, on):
    on("cpu", None)
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "takes on cpu; predicted" in said
    cells = table_of(said)["nano.safetensors"]
    assert cells[STAGES.index("scene cache")] == "-"
    assert len(cells) == len(STAGES)
    assert "too much" not in said


def test_what_does_not_fit_comes_with_changes(capsys, on):
    networks, shot = cinescene_core.cli.doctor.sizes_of(nano_path())
    needed = max(memory.peak for memory in predict_memory(networks, shot, "cuda"))
    on("cuda", needed - 1)
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"too much; one of these fits: .*\d+ x \d+ pixels \(\d+ MiB\)", said)


def test_where_no_smaller_shot_fits_that_is_said(capsys, on):
    networks, shot = cinescene_core.cli.doctor.sizes_of(nano_path())
    # Its heaviest networks are there, and nothing else.
    on("cuda", max(memory.weights for memory in predict_memory(networks, shot, "cuda")))
    assert main(["doctor"]) == 0
    assert "    too much; no smaller shot fits\n" in capsys.readouterr().out


def test_weights_that_no_smaller_shot_helps_come_with_a_way_out(tmp_path, capsys, on):
    write_full_size(tmp_path, context_attention="cached")
    on("cuda", 8 * GIB)  # the weights of Wan2.1's text encoder are 10.6 GiB
    assert main(["doctor", str(tmp_path)]) == 0
    way_out = (
        "    too much; the weights of stage 'text encoder' alone take 10.6 GiB, whatever the shot: film with "
        "--device cpu, or in ComfyUI, which keeps in the machine's memory what the card cannot hold"
    )
    assert way_out + "\n" in capsys.readouterr().out
    # As a shot of full size has it: the other stages must shrink too.
    full = dataclasses.replace(ShotSize.trained(CineSceneConfig()), context_attention="cached")
    stages = predict_memory(Networks(), full, "cuda")
    said = cinescene_core.cli.doctor.what_fits(Networks(), full, "cuda", 8 * GIB, stages)
    assert re.search(
        r"^the weights of stage 'text encoder' .*; for the other stages one of these fits: "
        r"the scene cache in host memory \(5\.4 GiB\), \d+ views",
        said,
    )
    assert "no smaller shot" not in said


def test_a_machine_that_cannot_hold_the_networks_needs_more_memory(capsys, on):
    on("cpu", GIB // 4)
    assert main(["doctor"]) == 0
    assert re.search(
        r"too much; the networks alone take 0\.5 GiB; use a machine with more memory\n", capsys.readouterr().out
    )


def test_a_checkpoint_without_its_record_is_named(tmp_path, capsys, on, monkeypatch):
    on("cuda", None)
    paths = write_full_size(tmp_path)
    monkeypatch.setattr(cinescene_core.cli.doctor, "scene_config_from", raise_sentence)
    assert main(["doctor", str(paths["--model"])]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.split(maxsplit=1) == ["cinescene.safetensors", "The record is gone."]


def raise_sentence(*_):
    raise cinescene_core.cli.doctor.CheckpointError("The record is gone.")
