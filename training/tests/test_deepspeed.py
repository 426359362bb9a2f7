"""DeepSpeed in two processes on the CPU trains what one process without it trains; its files are the others' files."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import tiny_config

from cinescene_training.export import load_trained
from cinescene_training.strategies import strategy_of
from cinescene_training.train import fit, last_checkpoint, validate

pytestmark = [
    pytest.mark.filterwarnings("ignore::cinescene_core.checks.CineSceneWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:pytorch_lightning"),
]
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install 'cinescene-training[deepspeed]'"
)
CLIP_NORM = 0.1
"""Shorter than the gradients of the tiny run, so that every step is clipped."""
SCRIPT = f"""
import sys
from pathlib import Path
from tiny_run import tiny_config
from cinescene_training.train import fit, last_checkpoint

if __name__ == "__main__":
    studio, folder, strategy, stop, precision, rate = sys.argv[1:]
    config = tiny_config(
        Path(studio),
        run={{"folder": Path(folder), "devices": 2, "micro_batch": 1, "strategy": strategy, "precision": precision}},
        optimiser={{"clip_norm": {CLIP_NORM}, "learning_rate": float(rate)}},
    )
    if stop == "stop":
        fit(config, stop_at=3)
    else:
        fit(config, resume=last_checkpoint(config) if stop == "resume" else None)
"""


def in_two_processes(folder: Path, studio: Path, strategy: str, stop: str, precision="32-true", rate=1e-3):
    """Run the script; Lightning starts its second process."""
    folder.mkdir(exist_ok=True)
    script = folder / "run.py"
    script.write_text(SCRIPT, encoding="utf-8")
    settings = {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    # On its first run on a machine DeepSpeed compiles its communication between processes.
    return subprocess.run(
        [sys.executable, str(script), str(studio), str(folder), strategy, stop, precision, str(rate)],
        env=os.environ | settings, capture_output=True, text=True, timeout=400,
    )  # fmt: skip


def train(*arguments, **options) -> None:
    done = in_two_processes(*arguments, **options)
    assert done.returncode == 0, done.stdout + done.stderr


def config_of(studio: Path, folder: Path, **run):
    """The same run in one process."""
    return tiny_config(studio, run={"folder": folder, "micro_batch": 2} | run, optimiser={"clip_norm": CLIP_NORM})


@pytest.fixture(scope="module")
def alone(studio, tmp_path_factory):
    """The run in one process without DeepSpeed."""
    config = config_of(studio, tmp_path_factory.mktemp("alone"))
    fit(config)
    return config


@pytest.fixture(scope="module")
def whole(studio, tmp_path_factory):
    """The run in two processes, by stage."""
    configs = {stage: config_of(studio, tmp_path_factory.mktemp(f"stage{stage}")) for stage in (1, 2)}
    for stage, config in configs.items():
        train(config.run.folder, studio, f"deepspeed_stage_{stage}", "whole")
    return configs


@pytest.fixture(scope="module")
def stopped(studio, tmp_path_factory):
    """The checkpoint of two processes that stopped after three of six steps."""
    config = config_of(studio, tmp_path_factory.mktemp("stopped"))
    train(config.run.folder, studio, "deepspeed_stage_2", "stop")
    return last_checkpoint(config)


def content(config) -> dict:
    return torch.load(last_checkpoint(config), weights_only=True)


def assert_near(found: dict, wanted: dict, tolerance: float) -> None:
    """Weights, averages and AdamW's state, by value and by type."""
    assert found["global_step"] == wanted["global_step"] == 6
    parts = [
        (run["state_dict"], run["callbacks"]["ExponentialAverage"]["averages"], run["optimizer_states"][0]["state"])
        for run in (found, wanted)
    ]
    for ours, theirs in zip(*parts, strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=tolerance)
    assert found["optimizer_states"][0]["param_groups"] == wanted["optimizer_states"][0]["param_groups"]
    assert found["lr_schedulers"] == wanted["lr_schedulers"]


def gradient_norms(config) -> list[float]:
    events = EventAccumulator(str(config.run.folder / "logs"))
    events.Reload()
    return [event.value for event in events.Scalars("train/gradient_norm")]


@needs_deepspeed
@pytest.mark.parametrize("stage", [1, 2])
def test_two_processes_equal_one(alone, whole, stage):
    # As under DDP: gradients are averaged in another order, and Adam magnifies the rounding of small ones.
    assert_near(content(whole[stage]), content(alone), 1e-5)


@needs_deepspeed
@pytest.mark.parametrize("stage", [1, 2])
def test_steps_are_clipped_by_the_norm_of_the_whole_gradient(alone, whole, stage):
    wanted = gradient_norms(alone)
    assert len(wanted) == 3
    assert min(wanted) > CLIP_NORM
    assert gradient_norms(whole[stage]) == pytest.approx(wanted, rel=1e-5)


@needs_deepspeed
def test_a_resumed_run_equals_one_that_never_stopped(studio, tmp_path, whole, stopped):
    config = config_of(studio, tmp_path)
    last_checkpoint(config).parent.mkdir()
    shutil.copy(stopped, last_checkpoint(config))
    train(tmp_path, studio, "deepspeed_stage_2", "resume")
    assert_near(content(config), content(whole[2]), 0)


@needs_deepspeed
def test_one_process_without_deepspeed_goes_on_from_its_checkpoint(studio, tmp_path, alone, stopped):
    config = config_of(studio, tmp_path)
    fit(config, resume=stopped)
    assert_near(content(config), content(alone), 1e-5)


@needs_deepspeed
def test_it_goes_on_from_the_checkpoint_of_one_process_without_it(studio, tmp_path, alone):
    config = config_of(studio, tmp_path)
    fit(config, stop_at=3)
    train(tmp_path, studio, "deepspeed_stage_2", "resume")
    assert_near(content(config), content(alone), 1e-5)


@needs_deepspeed
def test_bfloat16_is_autocast_over_float32_weights(studio, tmp_path, alone):
    # One clip at a time, for bfloat16 gradients of two at once are rounded once.
    wanted = config_of(studio, tmp_path / "alone", precision="bf16-mixed", micro_batch=1)
    fit(wanted)
    train(tmp_path, studio, "deepspeed_stage_2", "whole", precision="bf16-mixed")
    found = content(config_of(studio, tmp_path))
    assert_near(found, content(wanted), 1e-5)
    exact = content(alone)["state_dict"]
    assert max(float((value - exact[name]).abs().max()) for name, value in found["state_dict"].items()) > 1e-4


@needs_deepspeed
def test_its_checkpoint_validates_and_exports_as_any(alone, whole):
    ours, theirs = (validate(config, last_checkpoint(config)) for config in (whole[2], alone))
    assert ours == pytest.approx(theirs, rel=1e-5)
    ours, theirs = (load_trained(config, last_checkpoint(config))[0].state_dict() for config in (whole[2], alone))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5)


@needs_deepspeed
def test_a_gradient_that_is_not_finite_ends_the_run(studio, tmp_path):
    done = in_two_processes(tmp_path, studio, "deepspeed_stage_2", "whole", rate=1e30)
    assert done.returncode != 0
    assert "The gradient of step 2 is not finite, and a step along it would spoil every weight." in done.stderr


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="DeepSpeed is installed")
def test_without_deepspeed_the_settings_are_refused(studio, tmp_path):
    config = tiny_config(studio, run={"folder": tmp_path, "strategy": "deepspeed_stage_2"})
    with pytest.raises(ValueError, match=r"'deepspeed_stage_2' needs DeepSpeed, which is not installed\. Install"):
        strategy_of(config)
