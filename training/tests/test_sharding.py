"""Two processes on the CPU train what one process trains: DDP, and FSDP with a stop and a resume between."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import tiny_config

from cinescene_training.train import fit, validate

pytestmark = [
    pytest.mark.filterwarnings("ignore::cinescene_core.checks.CineSceneWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:pytorch_lightning"),
]
SCRIPT = """
import os
import sys
from pathlib import Path
from tiny_run import tiny_config
from cinescene_training.train import fit, last_checkpoint, validate

if __name__ == "__main__":
    studio, folder, strategy, stop = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    config = tiny_config(studio, run={"folder": folder, "devices": 2, "micro_batch": 1, "strategy": strategy})
    if stop == "validate":
        (folder / f"losses{os.environ.get('LOCAL_RANK', 0)}").write_text(str(validate(config, last_checkpoint(config))))
    elif stop == "stop":
        fit(config, stop_at=3)
    else:
        fit(config, resume=last_checkpoint(config) if stop == "resume" else None)
"""


def in_two_processes(tmp_path: Path, studio: Path, strategy: str, stop: str) -> None:
    """Run the script; Lightning starts its second process."""
    script = tmp_path / "run.py"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(studio), str(tmp_path / strategy), strategy, stop],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def alone(studio, tmp_path_factory):
    """The same run in one process."""
    config = tiny_config(studio, run={"folder": tmp_path_factory.mktemp("alone"), "micro_batch": 2})
    return torch.load(fit(config), weights_only=True)


def assert_near(path: Path, alone: dict, tolerance: float) -> None:
    found = torch.load(path, weights_only=True)
    assert found["global_step"] == alone["global_step"] == 6
    for name, value in alone["state_dict"].items():
        torch.testing.assert_close(found["state_dict"][name], value, rtol=0, atol=tolerance, msg=name)
    averages = [run["callbacks"]["ExponentialAverage"]["averages"] for run in (found, alone)]
    assert averages[0].keys() == averages[1].keys()
    for name, value in averages[1].items():
        torch.testing.assert_close(averages[0][name], value, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize(("strategy", "parts"), [("ddp", ["whole"]), ("fsdp", ["stop", "resume", "validate"])])
def test_two_processes_equal_one(studio, tmp_path, alone, strategy, parts):
    for part in parts:
        in_two_processes(tmp_path, studio, strategy, part)
    if "validate" in parts:
        config = tiny_config(studio, run={"folder": tmp_path / strategy, "micro_batch": 2})
        wanted = validate(config, tmp_path / strategy / "checkpoints" / "last.ckpt")
        for rank in (0, 1):
            found = ast.literal_eval((tmp_path / strategy / f"losses{rank}").read_text())
            assert found == pytest.approx(wanted, rel=1e-5)
    # The same samples; gradients are averaged in another order, and Adam magnifies the rounding of small ones.
    assert_near(tmp_path / strategy / "checkpoints" / "last.ckpt", alone, 1e-5)
