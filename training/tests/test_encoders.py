"""The frozen encoders: loaded from a bundle or the full-size files, and told apart by their weights."""

import dataclasses
from pathlib import Path

import pytest
import torch
from fake_footage import FRAMES, HEIGHT, WIDTH, cache_config, pictures, tiny_encoders
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from cinescene_core.checks import CheckpointError, FileFormatError
from cinescene_core.loading import load_nano
from cinescene_core.weights import nano_path, read_bundle_part, save_bundle
from cinescene_core.weights.vae_keys import has_diffusers_names, to_diffusers
from cinescene_training.config import EncodersConfig, SourceConfig, as_record
from cinescene_training.data import fingerprint
from cinescene_training.data.encoders import EncoderDigests, encoder_digests, load_encoders
from cinescene_training.data.fingerprint import Fingerprint, fingerprint_of
from cinescene_training.render.version import RENDER_VERSION
from cinescene_training.settings import build


def write_bundle(path, encoders):
    """A bundle of three encoders and no transformer."""
    parts = {"vae": encoders.vae.network, "vggt": encoders.vggt, "text": encoders.text}
    states = {name: {key: value.clone() for key, value in part.state_dict().items()} for name, part in parts.items()}
    save_bundle(path, states, {"text": encoders.text.record()})
    return EncodersConfig(bundle=path)


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    """A VGGT file and a Wan2.1 folder in small."""
    folder = tmp_path_factory.mktemp("files")
    encoders = tiny_encoders()
    save_file(encoders.vggt.state_dict(), folder / "vggt.safetensors")
    wan = folder / "wan"
    encoders.vae.network.save_pretrained(wan / "vae")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁a", -1.0), ("▁ball", -2.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(wan / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 2}
        UMT5EncoderModel(UMT5Config(vocab_size=len(pieces), **sizes)).save_pretrained(wan / "text_encoder")
    return EncodersConfig(vggt=folder / "vggt.safetensors", wan=wan)


def test_a_bundle_needs_no_transformer(tmp_path):
    made = tiny_encoders()
    loaded = load_encoders(write_bundle(tmp_path / "b.safetensors", made))
    frames = pictures("clip", FRAMES)[None]
    assert torch.equal(loaded.vae.encode(frames), made.vae.encode(frames))
    assert loaded.vggt.fingerprint == made.vggt.fingerprint
    assert torch.equal(loaded.text.encode("the red ball"), made.text.encode("the red ball"))


def test_nano_is_the_embedded_one():
    loaded, nano = load_encoders(EncodersConfig(bundle=Path("nano"))), load_nano()
    picture = torch.rand(1, 1, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.vae.encode(picture), nano.vae.encode(picture))
    assert loaded.vggt.fingerprint == nano.vggt.fingerprint
    assert torch.equal(loaded.text.encode("a red ball"), nano.text.encode("a red ball"))


def test_full_size_files_give_wans_own_encoders(full_size):
    loaded, made = load_encoders(full_size), tiny_encoders()
    frames = pictures("clip", FRAMES)[None]
    assert torch.equal(loaded.vae.encode(frames), made.vae.encode(frames))
    assert loaded.vggt.fingerprint == made.vggt.fingerprint
    rows = loaded.text.encode("a ball")
    assert torch.equal(loaded.caption_rows("a ball"), rows[0])
    assert loaded.unknown_words(["a zebra"]) == []
    assert rows.shape == (1, 512, 16)
    assert torch.equal(rows[:, 2:], torch.zeros(1, 510, 16, dtype=rows.dtype))


def test_digests_are_of_the_weights_not_of_their_file(tmp_path, full_size):
    made = tiny_encoders()
    bundle = encoder_digests(write_bundle(tmp_path / "a.safetensors", made))
    assert encoder_digests(write_bundle(tmp_path / "elsewhere.safetensors", tiny_encoders())) == bundle
    files = encoder_digests(full_size)
    assert (files.vae, files.vggt) == (bundle.vae, bundle.vggt)  # the same networks in other files
    assert bundle.vggt == made.vggt.fingerprint


def test_original_and_diffusers_names_of_the_vae_agree(tmp_path):
    parts = {part: read_bundle_part(nano_path(), part) for part in ("vae", "vggt", "text")}
    assert not has_diffusers_names(parts["vae"][0])
    states = {part: state for part, (state, _) in parts.items()}
    states["vae"] = {to_diffusers(name): value for name, value in states["vae"].items()}
    save_bundle(tmp_path / "b.safetensors", states, {"text": parts["text"][1]})
    renamed = encoder_digests(EncodersConfig(bundle=tmp_path / "b.safetensors"))
    assert renamed == encoder_digests(EncodersConfig(bundle=Path("nano")))


def _nudge(parameter):
    with torch.no_grad():
        parameter.view(-1)[-1] += 0.5


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("vae", lambda made: _nudge(made.vae.network.encoder.conv_in.weight)),
        ("vggt", lambda made: _nudge(made.vggt.aggregator.camera_token)),
        ("text", lambda made: _nudge(made.text.embedding.weight)),
        ("text", lambda made: setattr(made.text, "words", made.text.words[::-1])),
    ],
    ids=["vae", "vggt", "text", "words"],
)
def test_a_changed_encoder_has_another_digest(tmp_path, part, change):
    before = encoder_digests(write_bundle(tmp_path / "a.safetensors", tiny_encoders()))
    made = tiny_encoders()
    change(made)
    after = encoder_digests(write_bundle(tmp_path / "b.safetensors", made))
    differ = [name for name in EncoderDigests.__annotations__ if getattr(before, name) != getattr(after, name)]
    assert differ == [part]


@pytest.mark.parametrize("changed", ["encoder.block.1.layer.0.layer_norm.weight", "tokenizer"])
def test_a_changed_umt5_has_another_digest(full_size, changed):
    folder = full_size.wan
    name = "tokenizer/tokenizer.json" if changed == "tokenizer" else "text_encoder/model.safetensors"
    before, file = encoder_digests(full_size), folder / name
    content = file.read_bytes()
    if changed == "tokenizer":
        file.write_bytes(content.replace(b"ball", b"call"))
    else:
        tensors = {key: value.clone() for key, value in load_file(file).items()}
        tensors[changed] += 1
        save_file(tensors, file)
    try:
        after = encoder_digests(full_size)
    finally:
        file.write_bytes(content)
    assert before.text != after.text
    assert (before.vae, before.vggt) == (after.vae, after.vggt)


def test_missing_files_and_parts_are_named(tmp_path, full_size):
    made = tiny_encoders()
    save_bundle(tmp_path / "half.safetensors", {"vggt": made.vggt.state_dict()}, {})
    with pytest.raises(CheckpointError, match=r"half\.safetensors holds no part 'vae\.'"):
        load_encoders(EncodersConfig(bundle=tmp_path / "half.safetensors"))
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors does not exist"):
        encoder_digests(EncodersConfig(bundle=tmp_path / "nowhere.safetensors"))
    wrong = EncodersConfig(vggt=full_size.vggt, wan=tmp_path)
    with pytest.raises(
        CheckpointError, match=r"vae holds no \.safetensors file\. Name the folder of a Wan2\.1 release"
    ):
        encoder_digests(wrong)


def test_the_fingerprint_of_a_configuration_reads_the_calibrations_content(tmp_path):
    config = cache_config(tmp_path)
    assert fingerprint_of(config).encoders == encoder_digests(config.encoders)
    real = SourceConfig(kind="scene_decoupled", root=tmp_path)
    calibrated = dataclasses.replace(config, source=dataclasses.replace(real, calibration=tmp_path / "c.json"))
    digests = []
    for text in ("{}", "{ }"):
        (tmp_path / "c.json").write_text(text)
        digests.append(fingerprint_of(calibrated).calibration_digest)
    assert digests[0] != digests[1]
    moved = dataclasses.replace(config, source=dataclasses.replace(real, calibration=tmp_path / "d.json"))
    (tmp_path / "d.json").write_text("{ }")
    fingerprint_of(moved).check(fingerprint_of(calibrated), "It")  # another place, the same content
    gone = dataclasses.replace(config, source=dataclasses.replace(real, calibration=tmp_path / "none.json"))
    with pytest.raises(
        FileNotFoundError, match=r"There is no calibration .*none\.json\. Run cinescene-train calibrate, "
    ):
        fingerprint_of(gone)


def test_rooms_of_another_renderer_are_another_source_and_files_are_not(tmp_path, monkeypatch):
    rooms = cache_config(tmp_path)
    files = dataclasses.replace(rooms, source=SourceConfig(kind="panoramas", root=tmp_path))
    before = [fingerprint_of(config) for config in (rooms, files)]
    monkeypatch.setattr(fingerprint, "RENDER_VERSION", RENDER_VERSION + 1)
    after = [fingerprint_of(config) for config in (rooms, files)]
    sentence = f"with render_version = {RENDER_VERSION}, and this run wants {RENDER_VERSION + 1}. Run cinescene-train"
    with pytest.raises(FileFormatError, match=sentence):
        before[0].check(after[0], "It")
    before[1].check(after[1], "It")
    unversioned = as_record(before[0])
    del unversioned["render_version"]
    with pytest.raises(FileFormatError, match="with render_version = 0"):  # of before pictures had a version
        build(Fingerprint, unversioned).check(before[0], "It")
