import dataclasses

import pytest
import torch
from weight_files import TWO_HEADS, TWO_HEADS_RECORD, assert_holds, empties, filled_model, write

from cinescene_core.checks import CheckpointError
from cinescene_core.weights import load_tensors, load_transformer, read_bundle_part, save_bundle


def test_a_bundle_is_read_part_by_part_by_the_ordinary_loaders(tmp_path):
    model, path = filled_model(TWO_HEADS), tmp_path / "nano.safetensors"
    vae = {"decoder.x": torch.arange(3.0)}
    save_bundle(
        path,
        {"transformer": model.state_dict(), "vae": vae},
        {"cinescene": dataclasses.asdict(TWO_HEADS_RECORD), "vae": {"z_dim": 16}},
    )
    loaded, config = load_transformer(path, prefix="transformer.")
    assert config == TWO_HEADS_RECORD
    assert_holds(loaded, model.state_dict())
    tensors, metadata = read_bundle_part(path, "vae")
    assert metadata == {"z_dim": 16}
    assert torch.equal(tensors["decoder.x"], vae["decoder.x"])
    assert read_bundle_part(path, "transformer")[1] == dataclasses.asdict(TWO_HEADS_RECORD)
    assert load_tensors(path, prefix="vae.").keys() == vae.keys()


def test_what_a_bundle_does_not_hold_is_refused(tmp_path):
    path = tmp_path / "nano.safetensors"
    save_bundle(path, {"vae": empties(["x"])}, {})
    with pytest.raises(CheckpointError, match=r"nano.safetensors holds no part 'text\.'"):
        read_bundle_part(path, "text")
    with pytest.raises(CheckpointError, match="there is no 'lens'"):
        read_bundle_part(path, "lens")
    for parts, metadata in (({"lens": empties(["x"])}, {}), ({"vae": {}}, {}), ({}, {"lens": {}})):
        with pytest.raises(ValueError, match=r"A bundle holds the parts .*'transformer'"):
            save_bundle(path, parts, metadata)


def test_a_record_that_is_not_json_is_refused(tmp_path):
    path = write(tmp_path / "nano.safetensors", empties(["vae.x"]), vae="{")
    with pytest.raises(CheckpointError, match=r"nano.safetensors: metadata key 'vae' is not JSON"):
        read_bundle_part(path, "vae")
