"""Small encoders in one file: what a run's `encoders.bundle` reads."""

import pytest
import torch
from safetensors.torch import save_file

from cinescene_core.checks import CheckpointError
from cinescene_core.weights import nano_path, read_bundle_part
from cinescene_training.bundle import make_bundle
from cinescene_training.config import EncodersConfig
from cinescene_training.data.encoders import load_encoders
from cinescene_training.render import VOCABULARY


@pytest.fixture
def parts(tmp_path):
    """Files of a VAE and a VGGT."""
    paths = []
    for part in ("vae", "vggt"):
        paths.append(tmp_path / f"{part}.safetensors")
        save_file(read_bundle_part(nano_path(), part)[0], paths[-1])
    return paths


def test_the_encoders_come_back_and_every_caption_is_known(parts, tmp_path):
    make_bundle(*parts, tmp_path / "bundle.safetensors", text_width=24)
    made = load_encoders(EncodersConfig(bundle=tmp_path / "bundle.safetensors"))
    nano = load_encoders(EncodersConfig(bundle=nano_path()))
    assert made.vggt.fingerprint == nano.vggt.fingerprint
    frames = torch.rand(1, 1, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made.vae.encode(frames), nano.vae.encode(frames))
    rows = made.text.encode(" ".join(VOCABULARY[:20]))  # a word outside the vocabulary would warn, and so fail
    assert rows.shape[-1] == 24
    assert len({tuple(row) for row in rows[0, :20].tolist()}) == 20


def test_the_same_words_get_the_same_rows_in_every_bundle(parts, tmp_path):
    rows = []
    for name in ("one", "two"):
        make_bundle(*parts, tmp_path / f"{name}.safetensors", text_width=8)
        rows.append(read_bundle_part(tmp_path / f"{name}.safetensors", "text")[0]["embedding.weight"])
    assert torch.equal(*rows)


def test_a_missing_part_is_named(parts, tmp_path):
    with pytest.raises((CheckpointError, FileNotFoundError), match=r"none\.safetensors"):
        make_bundle(tmp_path / "none.safetensors", parts[1], tmp_path / "bundle.safetensors", text_width=8)
