"""DeepSpeed in two processes on the CPU trains what one process without it trains; its files are the others' files."""

import os
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


def config_of(studio: Path, folder: Path, precision: str = "32-true"):
    run = {"folder": folder, "micro_batch": 2, "precision": precision}
    return tiny_config(studio, run=run, optimiser={"clip_norm": CLIP_NORM})


@pytest.fixture(scope="module")
def alone(studio, tmp_path_factory):
    """Configurations of the same run in one process, trained, by precision."""
    configs = {name: config_of(studio, tmp_path_factory.mktemp("alone"), name) for name in ("32-true", "bf16-mixed")}
    for config in configs.values():
        fit(config)
    return configs


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
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=tolerance, msg=str(name))
    assert found["optimizer_states"][0]["param_groups"] == wanted["optimizer_states"][0]["param_groups"]
    assert found["lr_schedulers"] == wanted["lr_schedulers"]


def gradient_norms(folder: Path) -> list[float]:
    events = EventAccumulator(str(folder / "logs"))
    events.Reload()
    return [event.value for event in events.Scalars("train/gradient_norm")]


@needs_deepspeed
@pytest.mark.parametrize(
    ("strategy", "parts"), [("deepspeed_stage_1", ["whole"]), ("deepspeed_stage_2", ["stop", "resume"])]
)
def test_two_processes_equal_one(studio, tmp_path, alone, strategy, parts):
    for part in parts:
        train(tmp_path, studio, strategy, part)
    # As under DDP: gradients are averaged in another order, and Adam magnifies the rounding of small ones.
    assert_near(content(config_of(studio, tmp_path)), content(alone["32-true"]), 1e-5)


@needs_deepspeed
def test_steps_are_clipped_by_the_norm_of_the_whole_gradient(studio, tmp_path, alone):
    train(tmp_path, studio, "deepspeed_stage_2", "whole")
    wanted = gradient_norms(alone["32-true"].run.folder)
    assert min(wanted) > CLIP_NORM
    assert gradient_norms(tmp_path) == pytest.approx(wanted, rel=1e-5)


@needs_deepspeed
@pytest.mark.parametrize("order", [("deepspeed_stage_2", "ddp"), ("ddp", "deepspeed_stage_2")])
def test_a_run_goes_on_under_another_strategy(studio, tmp_path, alone, order):
    for strategy, part in zip(order, ("stop", "resume"), strict=True):
        train(tmp_path, studio, strategy, part)
    assert_near(content(config_of(studio, tmp_path)), content(alone["32-true"]), 1e-5)


@needs_deepspeed
def test_bfloat16_is_autocast_over_float32_weights(studio, tmp_path, alone):
    train(tmp_path, studio, "deepspeed_stage_2", "whole", precision="bf16-mixed")
    found, mixed, exact = content(config_of(studio, tmp_path)), content(alone["bf16-mixed"]), content(alone["32-true"])
    moments = [
        {number: state["exp_avg"] for number, state in run["optimizer_states"][0]["state"].items()}
        for run in (found, mixed, exact)
    ]
    assert {value.dtype for value in found["state_dict"].values()} == {torch.float32}
    assert {value.dtype for value in moments[0].values()} == {torch.float32}

    def distance(one: dict, other: dict) -> float:
        difference = sum((one[number] - other[number]).square().sum() for number in other)
        return float(difference / sum(value.square().sum() for value in other.values())) ** 0.5

    # The same layers in bfloat16: far nearer to autocast without DeepSpeed than bfloat16 is to float32.
    assert distance(moments[0], moments[1]) < distance(moments[1], moments[2]) / 4


@needs_deepspeed
def test_its_checkpoint_validates_and_exports_as_any(studio, tmp_path, alone):
    train(tmp_path, studio, "deepspeed_stage_2", "whole")
    config = config_of(studio, tmp_path)
    ours, theirs = (validate(run, last_checkpoint(run)) for run in (config, alone["32-true"]))
    assert ours == pytest.approx(theirs, rel=1e-5)
    ours, theirs = (load_trained(run, last_checkpoint(run))[0] for run in (config, alone["32-true"]))
    for (name, value), wanted in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=0, atol=1e-5, msg=name)


@needs_deepspeed
def test_a_gradient_that_is_not_finite_ends_the_run(studio, tmp_path):
    done = in_two_processes(tmp_path, studio, "deepspeed_stage_2", "whole", rate=1e30)
    assert done.returncode != 0
    assert "The gradient of step 2 is not finite, and DeepSpeed cannot take it." in done.stderr


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="DeepSpeed is installed")
def test_without_deepspeed_the_settings_are_refused(studio, tmp_path):
    config = tiny_config(studio, run={"folder": tmp_path, "strategy": "deepspeed_stage_2"})
    with pytest.raises(ValueError, match=r"'deepspeed_stage_2' needs DeepSpeed, which is not installed\. Install"):
        strategy_of(config)
