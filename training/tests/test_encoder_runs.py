"""Runs of the encoders: what goes on from a checkpoint, what decays, and validation that devices share."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_vae_training import config_for as vae_config
from test_vggt_training import config_for as vggt_config

from cinescene_core.checks import CheckpointError
from cinescene_training.checkpoints import RECORD, check_same_identity, run_record
from cinescene_training.config import OptimiserConfig
from cinescene_training.encoders.batches import drawn_count
from cinescene_training.encoders.fitting import RECORD_KEY, identity
from cinescene_training.encoders.vae_module import VAEModule, fit_vae
from cinescene_training.encoders.vggt_module import fit_vggt

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:pytorch_lightning")
SCRIPT = """
import dataclasses
import sys
from pathlib import Path
from test_encoder_runs import config_of
from cinescene_training.encoders.vae_module import fit_vae

if __name__ == "__main__":
    config = config_of(Path(sys.argv[1]))
    fit_vae(dataclasses.replace(config, run=dataclasses.replace(config.run, devices=2)))
"""


def measured(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()[RECORD_KEY])["measured"]


def with_run(config, **fields):
    return dataclasses.replace(config, run=dataclasses.replace(config.run, **fields))


def check(had, wanted):
    check_same_identity({RECORD: run_record(had, identity(had))}, identity(wanted))


# What goes on


def test_a_run_goes_on_where_the_file_it_started_from_lies_now(tmp_path):
    files = [tmp_path / name for name in ("here.safetensors", "there.safetensors")]
    torch.manual_seed(0)
    save_file({"weight": torch.rand(3, 4)}, files[0])
    shutil.copyfile(files[0], files[1])
    had, wanted = (vggt_config(tmp_path / path.stem, sizes=None, start_from=path) for path in files)
    check(had, dataclasses.replace(with_run(wanted, workers=4, checkpoint_every=9), name="another"))
    saved = run_record(had, identity(had))
    save_file({"weight": load_file(files[0])["weight"] + 1}, files[0])
    sentence = r"trained with start_from = '([0-9a-f]{16})', but this run says '(?!\1)[0-9a-f]{16}'\. Resume with"
    with pytest.raises(CheckpointError, match=sentence):
        check_same_identity({RECORD: saved}, identity(had))
    with pytest.raises(CheckpointError, match=r"trained with sizes\.\w+ = .*, but this run says None"):
        check(vggt_config(tmp_path), wanted)
    files[1].unlink()
    with pytest.raises(CheckpointError, match=r"there\.safetensors does not exist"):
        identity(wanted)


@pytest.mark.parametrize("changes", [{"steps": 8}, {"batch_size": 4}, {"seed": 4}])
def test_another_length_batch_or_seed_is_another_run(tmp_path, changes):
    (name, wanted), had = *changes.items(), vae_config(tmp_path)
    with pytest.raises(CheckpointError, match=rf"trained with run\.{name} = \d, but this run says {wanted}\. Resume"):
        check(had, with_run(had, **changes))


@pytest.mark.parametrize(("fit", "config_for"), [(fit_vae, vae_config), (fit_vggt, vggt_config)])
def test_a_run_goes_on_in_its_precision_alone(tmp_path, fit, config_for):
    config = config_for(tmp_path, statistics_clips=1) if fit is fit_vae else config_for(tmp_path)
    path = fit(config, stop_at=1)
    before, checkpoint = path.read_bytes(), tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(
        CheckpointError, match=r"trained with run\.precision = '32-true', but this run says 'bf16-mixed'\. Resume with"
    ):
        fit(with_run(config, precision="bf16-mixed"), resume=checkpoint)
    assert path.read_bytes() == before


def test_a_checkpoint_of_another_program_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"was not made by cinescene-train\. Resume from a \.ckpt of the run"):
        fit_vae(vae_config(tmp_path), resume=tmp_path / "other.ckpt")


# The optimiser


def test_one_number_per_channel_does_not_decay(tmp_path):
    module = VAEModule(vae_config(tmp_path))
    decaying, constant = module.configure_optimizers()["optimizer"].param_groups
    assert (decaying["weight_decay"], constant["weight_decay"]) == (0.01, 0.0)
    gains = [p for name, p in module.named_parameters() if name.endswith(("bias", "gamma"))]
    assert max(gain.ndim for gain in gains) > 1  # Wan's gains are [channels, 1, 1, 1]
    assert {id(parameter) for parameter in constant["params"]} == {id(gain) for gain in gains}
    assert len(decaying["params"]) + len(gains) == len(list(module.parameters()))


# Validation, and devices


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_every_validation_sample_counts_once_whatever_the_batches(tmp_path, micro_batch):
    config = with_run(vae_config(tmp_path, validation_samples=3), micro_batch=micro_batch)
    module, logged = VAEModule(config), {}
    module.log = lambda name, value: logged.__setitem__(name, float(value))
    module.all_gather = lambda tensor: tensor
    module.on_validation_epoch_start()
    with torch.no_grad():
        # As two devices share three samples: the last ones are padding.
        for numbers in {1: ([0], [2], [1], [3]), 2: ([0, 1], [2, 3])}[micro_batch]:
            module.validation_step(numbers, 0)
        clips = module.clips([0, 1, 2], "validation", 5)
        squared = ((module.reconstruct(clips, torch.zeros(()))[0].clamp(-1, 1) - clips) / 2).square()
    module.on_validation_epoch_end()
    # Without noise a clip is decoded from its posterior's mean, as the validation decodes it.
    decibels = [-10 * float(clip.mean().log10()) for clip in squared]
    assert max(decibels) - min(decibels) > 0.1
    assert logged["validation/psnr_all"] == pytest.approx(sum(decibels) / 3, rel=1e-5)


def config_of(folder):
    """Steps too small to matter: gradients and validation are compared, and Adam would magnify their rounding."""
    optimiser = OptimiserConfig(learning_rate=1e-9)
    return with_run(vae_config(folder, optimiser=optimiser, validation_samples=3), micro_batch=1)


def gradient_norms(folder):
    events = EventAccumulator(str(folder / "logs")).Reload()
    return [event.value for event in events.Scalars("train/gradient_norm")]


def test_two_processes_train_and_measure_as_one_does(tmp_path):
    """On three validation samples, and with steps of single pictures, which do not reach every layer."""
    assert {drawn_count((1, 5), 3, step) for step in range(4)} == {1, 5}
    wanted = measured(fit_vae(config_of(tmp_path / "alone")))
    script = tmp_path / "run.py"
    script.write_text(SCRIPT, encoding="utf-8")
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "two")],
        env=os.environ | settings, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert measured(tmp_path / "two" / "vae.safetensors") == pytest.approx(wanted, rel=1e-5)
    norms = gradient_norms(tmp_path / "alone")
    assert len(norms) == 4
    assert gradient_norms(tmp_path / "two") == pytest.approx(norms, rel=1e-4)  # summed in another order
