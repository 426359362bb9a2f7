"""Runs: what training changes, exact resume, validation that repeats itself, and what is refused."""

import dataclasses

import pytest
import torch
from tiny_run import SIZES, tiny_config

from cinescene_core.checks import CheckpointError, FileFormatError
from cinescene_core.config import CineSceneConfig
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_core.weights import load_transformer, save_transformer
from cinescene_training.config import PAPER_TRAINABLE
from cinescene_training.initialise import initialise
from cinescene_training.train import fit, last_checkpoint, validate

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


def test_a_missing_cache_says_what_to_do(tmp_path):
    with pytest.raises(FileFormatError, match=r"holds no encoded clips for train. Run cinescene-train cache"):
        fit(tiny_config(tmp_path))
