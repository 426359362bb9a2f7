"""Runs: what training changes, exact resume, validation that repeats itself, and what is refused."""

import dataclasses

import pytest
import torch
from tiny_run import tiny_config

from cinescene_core.checks import CheckpointError, FileFormatError
from cinescene_training.config import PAPER_TRAINABLE
from cinescene_training.network import build_network
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


def test_accumulated_micro_batches_equal_one_batch(studio, tmp_path):
    states = []
    for size in (1, 4):
        config = tiny_config(studio, run={"folder": tmp_path / str(size), "micro_batch": size, "steps": 3})
        states.append(content(fit(config))["state_dict"])
    for name, value in states[0].items():
        # The same sums in another order; Adam divides by their size, so small gradients magnify rounding.
        torch.testing.assert_close(value, states[1][name], rtol=0, atol=2e-5, msg=name)


def test_only_what_the_paper_trains_changes(studio, tmp_path):
    config = tiny_config(studio, run={"folder": tmp_path}, model={"trainable": PAPER_TRAINABLE})
    before = build_network(config.model, config.run.seed)[0].state_dict()
    after = content(fit(config))["state_dict"]
    for name, value in before.items():
        changed = not torch.equal(value, after[f"network.{name}"])
        wanted = any(part in PAPER_TRAINABLE for part in name.split("."))
        # With the head at zero and frozen nothing flows back to the rest.
        assert changed <= wanted, name


def test_validation_repeats_itself_and_reads_the_averages(studio, tmp_path):
    config = tiny_config(studio, run={"folder": tmp_path})
    checkpoint = fit(config)
    first, second = validate(config, checkpoint), validate(config, checkpoint)
    assert first == second
    assert set(first) == {"validation/loss", "validation/loss_sigma_0.3", "validation/loss_sigma_0.9"}
    plain = dataclasses.replace(config, optimiser=dataclasses.replace(config.optimiser, ema_decay=0.0))
    changed = content(checkpoint)
    changed["callbacks"].pop("ExponentialAverage")
    changed["cinescene"]["digest"] = plain.digest()
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
