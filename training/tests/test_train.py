"""Runs: what training changes, exact resume, validation that repeats itself, and what is refused."""

import dataclasses
import errno
import io
import math
from pathlib import Path

import pytest
import torch
from tiny_run import SIZES, tiny_config

from cinescene_core.checks import CheckpointError, FileFormatError
from cinescene_core.config import CineSceneConfig
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_core.weights import load_transformer, save_transformer
from cinescene_training.config import PAPER_TRAINABLE, SourceConfig
from cinescene_training.initialise import initialise
from cinescene_training.loss import flow_matching_loss
from cinescene_training.train import encode_rooms, fit, last_checkpoint, validate
from cinescene_training.train import test as split_test

pytestmark = [
    pytest.mark.filterwarnings("ignore::cinescene_core.checks.CineSceneWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:pytorch_lightning"),
]


def content(path):
    return torch.load(path, map_location="cpu", weights_only=True)


def assert_equal_states(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_a_resumed_run_equals_one_that_never_stopped(studio, tmp_path):
    whole = tiny_config(studio, run={"folder": tmp_path / "whole"})
    parts = tiny_config(studio, run={"folder": tmp_path / "parts"})
    fit(whole)
    stopped = fit(parts, stop_at=3)
    assert content(stopped)["global_step"] == 3
    fit(parts, resume=stopped)

    ours, theirs = content(last_checkpoint(parts)), content(last_checkpoint(whole))
    assert ours["global_step"] == theirs["global_step"] == 6
    assert_equal_states(ours["state_dict"], theirs["state_dict"])
    for name in ours["optimizer_states"][0]["state"]:
        assert_equal_states(ours["optimizer_states"][0]["state"][name], theirs["optimizer_states"][0]["state"][name])
    averages = [run["callbacks"]["ExponentialAverage"]["averages"] for run in (ours, theirs)]
    assert_equal_states(*averages)
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    assert ours["state_dict"]["network.transformer.head.head.weight"].abs().max() > 0  # it did train


def test_stopping_between_checkpoints_and_resuming_twice_changes_nothing(studio, tmp_path):
    """With accumulation: a checkpoint in the middle of a step would lose what was accumulated."""
    run = {"micro_batch": 1, "checkpoint_every": 3}
    whole = content(fit(tiny_config(studio, run=run | {"folder": tmp_path / "whole"})))
    parts = tiny_config(studio, run=run | {"folder": tmp_path / "parts"})
    for stop in (3, 4, None):
        resume = last_checkpoint(parts) if last_checkpoint(parts).exists() else None
        fit(parts, resume=resume, stop_at=stop)
        assert content(last_checkpoint(parts))["global_step"] == (stop or 6)
    assert_equal_states(content(last_checkpoint(parts))["state_dict"], whole["state_dict"])


def test_the_last_step_is_saved_wherever_it_falls(studio, tmp_path):
    config = tiny_config(studio, run={"folder": tmp_path, "steps": 5, "checkpoint_every": 3})
    assert content(fit(config))["global_step"] == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"gradient_checkpointing": True}},
        {"run": {"workers": 2}},
        {"model": {"gradient_checkpointing": True}, "run": {"compiled": False, "micro_batch": 4}},
    ],
)
def test_how_a_run_is_computed_does_not_change_what_it_learns(studio, tmp_path, changes):
    plain = tiny_config(studio, run={"folder": tmp_path / "plain", "steps": 2})
    other = tiny_config(
        studio,
        model=changes.get("model", {}),
        run={"folder": tmp_path / "other", "steps": 2} | changes.get("run", {}),
    )
    ours, theirs = (content(fit(config))["state_dict"] for config in (plain, other))
    for name, value in ours.items():
        # Micro-batches of another size sum in another order, and Adam magnifies the rounding of small gradients.
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=2e-5, msg=name)


def test_mixed_precision_learns_what_full_precision_learns(studio, tmp_path):
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        config = tiny_config(studio, run={"folder": tmp_path / precision, "precision": precision, "steps": 6})
        checkpoint = fit(config)
        assert {value.dtype for value in content(checkpoint)["state_dict"].values()} == {torch.float32}
        losses.append(validate(config, checkpoint)["validation/loss"])
    # bfloat16 keeps eight bits: a hundredth of a loss near one.
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert losses[1] != losses[0]


def test_accumulated_micro_batches_equal_one_batch(studio, tmp_path):
    states = []
    for size in (1, 4):
        config = tiny_config(studio, run={"folder": tmp_path / str(size), "micro_batch": size, "steps": 3})
        states.append(content(fit(config))["state_dict"])
    for name, value in states[0].items():
        # The same sums in another order; Adam divides by their size, so small gradients magnify rounding.
        torch.testing.assert_close(value, states[1][name], rtol=0, atol=2e-5, msg=name)


def test_only_what_the_paper_trains_changes(studio, tmp_path):
    # From a file whose head is not zero: a fresh, frozen one lets no gradient through.
    base = tmp_path / "base.safetensors"
    transformer = CineSceneTransformer(SIZES)
    initialise(transformer, seed=3)
    torch.nn.init.normal_(transformer.head.head.weight, std=0.1)
    save_transformer(base, transformer.state_dict(), CineSceneConfig(num_heads=SIZES.num_heads))
    model = {"trainable": PAPER_TRAINABLE, "start_from": base, "sizes": None}
    config = tiny_config(studio, run={"folder": tmp_path}, model=model)
    before = load_transformer(base)[0].state_dict()
    before = {f"transformer.{name}": value for name, value in before.items()}
    after = content(fit(config))["state_dict"]
    for name, value in before.items():
        changed = not torch.equal(value, after[f"network.{name}"])
        assert changed == any(part in PAPER_TRAINABLE for part in name.split(".")), name


def test_validation_repeats_itself_and_reads_the_averages(studio, tmp_path):
    config = tiny_config(studio, run={"folder": tmp_path})
    checkpoint = fit(config)
    first, second = validate(config, checkpoint), validate(config, checkpoint)
    assert first == second
    assert set(first) == {"validation/loss", "validation/loss_sigma_0.3", "validation/loss_sigma_0.9"}
    plain = dataclasses.replace(config, optimiser=dataclasses.replace(config.optimiser, ema_decay=0.0))
    changed = content(checkpoint)
    changed["callbacks"].pop("ExponentialAverage")
    changed["cinescene"]["identity"]["optimiser.ema_decay"] = 0.0
    torch.save(changed, tmp_path / "plain.ckpt")
    assert validate(plain, tmp_path / "plain.ckpt") != first


def test_a_checkpoint_of_another_run_is_refused(studio, tmp_path):
    config = tiny_config(studio, run={"folder": tmp_path, "steps": 3})
    checkpoint = fit(config)
    other = tiny_config(studio, run={"folder": tmp_path, "steps": 3}, model={"context_attention": "cached"})
    with pytest.raises(CheckpointError, match=r"trained with model.context_attention = 'joint', but this run says 'c"):
        fit(other, resume=checkpoint)


def test_shards_of_another_fingerprint_are_refused(studio, tmp_path):
    config = tiny_config(studio, run={"folder": tmp_path})
    shot = dataclasses.replace(config.cache.shot, vggt_width=70)
    other = dataclasses.replace(config, cache=dataclasses.replace(config.cache, shot=shot))
    with pytest.raises(FileFormatError, match=r"shot.vggt_width = 56, and this run wants 70.*cinescene-train cache"):
        fit(other)


def test_validation_after_training_writes_nothing_into_the_run(studio, tmp_path):
    config = tiny_config(studio, run={"folder": tmp_path / "run"}, validation={"videos": 1, "video_steps": 1})
    checkpoint = fit(config)

    def held():
        return {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}

    before = held()
    assert any("videos" in path.parts for path in before)
    validate(config, checkpoint)
    split_test(config, checkpoint)
    assert held() == before


def test_a_damaged_checkpoint_is_named_wherever_it_is_read(studio, tmp_path):
    config = tiny_config(studio, run={"folder": tmp_path / "run", "steps": 3})
    half = tmp_path / "half.ckpt"
    half.write_bytes(fit(config).read_bytes()[:1000])
    sentence = r"half\.ckpt cannot be read as a checkpoint \(.*\)\. It is damaged .* Take another one"
    for read in (lambda: fit(config, resume=half), lambda: validate(config, half), lambda: split_test(config, half)):
        with pytest.raises(CheckpointError, match=sentence):
            read()
    torch.save([1, 2], half)
    with pytest.raises(CheckpointError, match=r"half\.ckpt holds a list and no checkpoint\. Take another one"):
        fit(config, resume=half)


def test_a_full_disk_leaves_the_checkpoint_before(studio, tmp_path, monkeypatch):
    config = tiny_config(studio, run={"folder": tmp_path})
    before = fit(config, stop_at=3).read_bytes()

    class FullDisk(io.BytesIO):
        def write(self, data):
            if self.tell() > 1000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    opened = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "open", lambda path, *how, **more: FullDisk() if how == ("wb",) else opened(path, *how, **more)
        )
        with pytest.raises(OSError, match=r"Cannot write .*last\.ckpt: the disk is full\. .* Free some space"):
            fit(config, resume=last_checkpoint(config))
    assert {path.name for path in last_checkpoint(config).parent.iterdir()} == {"last.ckpt"}
    assert last_checkpoint(config).read_bytes() == before
    # What a kill in the middle of writing leaves, as `atomic_write` calls it, is gone after the next start.
    (last_checkpoint(config).parent / ".last-0123abcd.ckpt").write_bytes(b"half a file")
    fit(config, resume=last_checkpoint(config))
    assert {path.name for path in last_checkpoint(config).parent.iterdir()} == {"last.ckpt"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_ends_the_run_and_spoils_nothing(studio, tmp_path, monkeypatch, value):
    config = tiny_config(studio, run={"folder": tmp_path, "checkpoint_every": 1})
    seen = []

    def spoilt(*tensors):
        seen.append(None)
        return flow_matching_loss(*tensors) * (value if len(seen) > 4 else 1)  # two micro-batches a step

    monkeypatch.setattr("cinescene_training.module.flow_matching_loss", spoilt)
    with pytest.raises(FloatingPointError, match=r"The gradient of step 3 is not finite, .* lower optimiser\.learning"):
        fit(config)
    kept = content(last_checkpoint(config))
    assert kept["global_step"] == 2
    assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())


@pytest.mark.parametrize(("accelerator", "device"), [("cpu", "cpu"), ("auto", "cuda"), ("cuda", "cuda")])
def test_rooms_are_encoded_on_the_device_that_trains(tmp_path, monkeypatch, accelerator, device):
    used = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("cinescene_training.train.build_cache", lambda cache, **how: used.append(how["device"]))
    config = tiny_config(tmp_path, run={"accelerator": accelerator})
    encode_rooms(config)
    assert used == [device]
    source = SourceConfig(kind="panoramas", root=tmp_path)
    assert encode_rooms(dataclasses.replace(config, cache=dataclasses.replace(config.cache, source=source))) is None
    assert used == [device]


def test_a_missing_cache_says_what_to_do(tmp_path):
    with pytest.raises(FileFormatError, match=r"holds no encoded clips for train. Run cinescene-train cache"):
        fit(tiny_config(tmp_path))
