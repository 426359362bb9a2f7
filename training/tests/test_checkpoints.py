"""What may go on from a checkpoint: the same settings and files, wherever they lie, and longer runs."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from fake_clips import write_file
from safetensors.torch import load_file, save_file
from tiny_run import tiny_config

from cinescene_core.checks import CheckpointError
from cinescene_core.config import CineSceneConfig
from cinescene_core.weights import nano_path, read_bundle_part, save_bundle
from cinescene_training.checkpoints import check_same_precision, check_same_run, identity, run_record
from cinescene_training.config import EncodersConfig, ModelConfig, SourceConfig
from cinescene_training.export import export
from cinescene_training.provenance import LEADING, file_digest
from cinescene_training.train import fit, validate

pytestmark = [
    pytest.mark.filterwarnings("ignore::cinescene_core.checks.CineSceneWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:pytorch_lightning"),
]


def content(path):
    return torch.load(path, map_location="cpu", weights_only=True)


def checkpoint_of(config):
    return {"cinescene": run_record(config, identity(config))}


def with_cache(config, **fields):
    return dataclasses.replace(config, cache=dataclasses.replace(config.cache, **fields))


def started_from(path, folder):
    return dataclasses.replace(tiny_config(folder), model=ModelConfig(start_from=path))


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_a_finished_run_made_longer_equals_one_that_was_long_from_the_start(studio, tmp_path):
    whole = tiny_config(studio, run={"folder": tmp_path / "whole", "steps": 6})
    short = tiny_config(studio, run={"folder": tmp_path / "parts", "steps": 4})
    longer = dataclasses.replace(short, run=dataclasses.replace(short.run, steps=6))
    finished = fit(short)
    assert content(finished)["global_step"] == 4
    ours, theirs = content(fit(longer, resume=finished)), content(fit(whole))
    assert ours["global_step"] == theirs["global_step"] == 6
    assert_equal(ours["state_dict"], theirs["state_dict"])
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    states = [run["optimizer_states"][0]["state"] for run in (ours, theirs)]
    for name in states[0]:
        assert_equal(states[0][name], states[1][name])
    assert_equal(*(run["callbacks"]["ExponentialAverage"]["averages"] for run in (ours, theirs)))
    assert ours["state_dict"]["network.transformer.head.head.weight"].abs().max() > 0  # it did train


@pytest.mark.parametrize(
    "changes",
    [{"optimiser": {"schedule": "cosine"}}, {"objective": {"order": "progressive"}}],
    ids=["cosine", "progressive"],
)
def test_a_run_whose_steps_depend_on_the_last_one_keeps_its_length(tmp_path, changes):
    had, wanted = (tiny_config(tmp_path, run={"steps": steps}, **changes) for steps in (4, 6))
    with pytest.raises(CheckpointError, match=r"trained with run\.steps = 4, but this run says 6\. Resume with"):
        check_same_run(checkpoint_of(had), wanted)


def test_a_run_does_not_become_shorter(tmp_path):
    had, wanted = (tiny_config(tmp_path, run={"steps": steps}) for steps in (6, 4))
    with pytest.raises(CheckpointError, match=r"trained with run\.steps = 6, but this run says 4\. Resume with"):
        check_same_run(checkpoint_of(had), wanted)


def test_a_run_goes_on_where_its_files_lie_now(tmp_path):
    paths = [tmp_path / name for name in ("here.safetensors", "there.safetensors")]
    write_file(paths[0], "wan")
    shutil.copyfile(paths[0], paths[1])
    shutil.copyfile(nano_path(), tmp_path / "copy.safetensors")
    (tmp_path / "lens.json").write_text("{}")
    (tmp_path / "moved.json").write_text("{}")
    source = SourceConfig(kind="scene_decoupled", root=Path("data"), calibration=tmp_path / "lens.json")
    moved = dataclasses.replace(source, root=Path("other"), calibration=tmp_path / "moved.json")
    had = with_cache(started_from(paths[0], tmp_path), source=source)
    wanted = with_cache(
        started_from(paths[1], tmp_path / "other"),
        source=moved,
        encoders=EncodersConfig(bundle=tmp_path / "copy.safetensors"),
    )
    check_same_run(checkpoint_of(had), dataclasses.replace(wanted, name="another"))

    (tmp_path / "moved.json").write_text("{ }")
    with pytest.raises(
        CheckpointError, match=r"trained with cache\.source\.calibration = '[0-9a-f]{16}', but this run"
    ):
        check_same_run(checkpoint_of(had), wanted)


def test_other_encoders_and_another_base_file_under_the_same_name_are_refused(tmp_path):
    path = tmp_path / "base.safetensors"
    held = write_file(path, "wan")
    bundle = tmp_path / "bundle.safetensors"
    parts = {part: read_bundle_part(nano_path(), part) for part in ("vae", "vggt", "text")}
    states = {part: state for part, (state, _) in parts.items()}
    save_bundle(bundle, states, {"text": parts["text"][1]})
    config = with_cache(started_from(path, tmp_path), encoders=EncodersConfig(bundle=bundle))
    checkpoint = checkpoint_of(config)
    check_same_run(checkpoint, config)

    save_file(held | {"head.head.bias": held["head.head.bias"] + 1}, path)
    with pytest.raises(
        CheckpointError,
        match=r"trained with model\.start_from = '([0-9a-f]{16})', but this run says '(?!\1)[0-9a-f]{16}'",
    ):
        check_same_run(checkpoint, config)

    states["vae"] = {name: value + 1 for name, value in states["vae"].items()}
    save_bundle(bundle, states, {"text": parts["text"][1]})
    with pytest.raises(
        CheckpointError, match=r"trained with cache\.encoders\.vae = '[0-9a-f]{16}', but this run says '"
    ):
        check_same_run(checkpoint, config)


@pytest.mark.parametrize(("had", "wanted"), [("32-true", "bf16-mixed"), ("bf16-mixed", "32-true")])
def test_a_run_goes_on_in_its_precision_alone_and_is_measured_in_any(studio, tmp_path, had, wanted):
    first = tiny_config(studio, run={"folder": tmp_path, "steps": 4, "precision": had})
    second = dataclasses.replace(first, run=dataclasses.replace(first.run, precision=wanted))
    stopped = fit(first, stop_at=2)
    before = stopped.read_bytes()
    with pytest.raises(
        CheckpointError, match=rf"trained with run\.precision = '{had}', but this run says '{wanted}'\. Resume with"
    ):
        fit(second, resume=stopped)
    assert stopped.read_bytes() == before
    ours, theirs = (validate(config, stopped)["validation/loss"] for config in (second, first))
    assert ours == pytest.approx(theirs, rel=0.01)  # bfloat16 keeps eight bits
    files = [tmp_path / f"{config.run.precision}.safetensors" for config in (first, second)]
    for config, file in zip((first, second), files, strict=True):
        export(config, stopped, file)
    assert_equal(*(load_file(file) for file in files))
    assert content(fit(first, resume=stopped))["global_step"] == 4


def test_a_base_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.safetensors does not exist"):
        identity(started_from(tmp_path / "gone.safetensors", tmp_path))


def test_a_checkpoint_of_another_program_is_refused(tmp_path):
    for other in ({}, {"cinescene": "yes"}, {"cinescene": {"digest": "0" * 16}}):
        with pytest.raises(CheckpointError, match=r"was not made by cinescene-train\. Resume from a \.ckpt"):
            check_same_run(other, tiny_config(tmp_path))
        with pytest.raises(CheckpointError, match=r"was not made by cinescene-train\. Resume from a \.ckpt"):
            check_same_precision(other, tiny_config(tmp_path).run)


def test_a_files_digest_is_of_its_content(tmp_path):
    path = tmp_path / "base.safetensors"
    write_file(path, "cinescene", CineSceneConfig(num_heads=1))
    held, digest = load_file(path), file_digest(path)
    assert len(digest) == 16
    metadata = {"cinescene": CineSceneConfig(num_heads=1).to_json()}
    backwards = dict(reversed(list(held.items())))
    large = next(name for name, value in held.items() if value.numel() > LEADING)
    nudged = {name: value.clone() for name, value in held.items()}
    nudged[large].view(-1)[LEADING - 1] += 1

    def saved(tensors, said):
        save_file(tensors, tmp_path / "other.safetensors", metadata=said)
        return file_digest(tmp_path / "other.safetensors")

    assert saved(backwards, metadata) == digest
    others = [
        saved(nudged, metadata),
        saved({name: value.bfloat16() for name, value in held.items()}, metadata),
        saved({f"{name}.x": value for name, value in held.items()}, metadata),
        saved({name: value[None] for name, value in held.items()}, metadata),
        saved(held, {"cinescene": CineSceneConfig(num_heads=1, context_attention="cached").to_json()}),
    ]
    assert len({digest, *others}) == 6
