"""Files of the scene encoder: official ones by name, converted ones, and everything that is neither."""

import errno
import json

import pytest
import torch
from golden_vggt import case_images, error, fill, golden
from safetensors import safe_open
from safetensors.torch import save_file

from cinescene_core.checks import CheckpointError
from cinescene_core.models.vggt import VGGT, VGGTConfig
from cinescene_core.weights import vggt as files
from cinescene_core.weights.vggt import METADATA_KEY, convert_vggt, load_vggt, vggt_fingerprint

PARITY = 1e-5  # as in test_vggt.py
BF16 = 0.02
FINGERPRINT = (
    "a1424c0455bea776"  # of the golden tiny weights, computed with numpy; scenes record it, so it may not change
)
NEEDED = r"Use model\.safetensors or model\.pt of facebook/VGGT-1B .* 'cinescene convert-vggt'"


@pytest.fixture(scope="module")
def official():
    """The tensors of an official file in small: both heads, and two this project does not use."""
    state = fill(VGGT(VGGTConfig.tiny())).state_dict()
    unused = {"point_head.norm.weight": torch.ones(128), "track_head.tracker.norm.weight": torch.ones(7)}
    return {name: value.clone() for name, value in (state | unused).items()}


@pytest.fixture
def path(official, tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(official, file)
    return file


# ---- loading -----------------------------------------------------------------------------------


def test_the_aggregator_alone_is_loaded_unless_heads_are_asked_for(path):
    model = load_vggt(path)
    assert {name.split(".")[0] for name in model.state_dict()} == {"aggregator"}
    assert error(model.encode(case_images("a")).patch, golden("a__final")[:, :, 5:]) < PARITY


def test_heads_that_are_asked_for_are_loaded(path):
    model = load_vggt(path, heads=("camera", "depth"))
    pictures = case_images("a")
    assert error(model.cameras(model.encode(pictures)), golden("a__pose")) < PARITY
    depth, _ = model.depth(model.aggregate(pictures, model.config.depth_layers), model.grid_of(pictures))
    assert error(depth[..., None], golden("a__depth")) < PARITY
    assert model.config == VGGTConfig.tiny()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"model": {f"module.model.{name}": value for name, value in state.items()}},
    ],
)
def test_pytorch_files_and_their_wrappers_are_opened(official, tmp_path, wrap):
    file = tmp_path / "model.pt"
    torch.save(wrap(official), file)
    assert load_vggt(file).fingerprint == FINGERPRINT


def test_prefixed_safetensors_are_opened(official, tmp_path):
    file = tmp_path / "wrapped.safetensors"
    save_file({f"module.{name}": value for name, value in official.items()}, file)
    assert load_vggt(file).fingerprint == FINGERPRINT


def test_a_part_of_a_larger_file_is_opened(official, tmp_path):
    file = tmp_path / "bundle.safetensors"
    save_file({f"vggt.{name}": value for name, value in official.items()} | {"vae.conv1.weight": torch.ones(1)}, file)
    assert load_vggt(file, prefix="vggt.").fingerprint == FINGERPRINT


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_matrices_get_the_precision_that_was_asked_for(path, dtype):
    model = load_vggt(path, dtype=dtype)
    assert model.aggregator.frame_blocks[0].mlp.fc1.weight.dtype == dtype
    assert model.aggregator.frame_blocks[0].norm1.weight.dtype == torch.promote_types(dtype, torch.float32)
    assert error(model.encode(case_images("a")).patch, golden("a__final")[:, :, 5:]) < BF16


def test_matrices_keep_the_precision_of_the_file(official, tmp_path):
    file = tmp_path / "half.safetensors"
    save_file({name: value.half() for name, value in official.items()}, file)
    model = load_vggt(file)
    assert model.aggregator.frame_blocks[0].mlp.fc1.weight.dtype == torch.float16
    assert error(model.encode(case_images("a")).patch, golden("a__final")[:, :, 5:]) < BF16


def test_the_model_no_longer_needs_its_file(path):
    model = load_vggt(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert model.fingerprint == FINGERPRINT


def test_a_hosts_attention_and_layers_reach_the_network(path):
    def attention(q, k, v):
        return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v

    class Layers:
        """A namespace of its own, with torch's classes."""

        Linear, LayerNorm, Conv2d = type("Own", (torch.nn.Linear,), {}), torch.nn.LayerNorm, torch.nn.Conv2d

    model = load_vggt(path, operations=Layers, attention=attention)
    block = model.aggregator.global_blocks[0]
    assert type(block.mlp.fc1) is Layers.Linear
    assert block.attn.attention is attention
    assert error(model.encode(case_images("a")).patch, golden("a__final")[:, :, 5:]) < PARITY


def test_progress_counts_the_tensors(path):
    calls = []
    model = load_vggt(path, on_tensor=lambda done, total: calls.append((done, total)))
    count = len(model.state_dict())
    assert calls == [(i, count) for i in range(1, count + 1)]


# ---- files that do not fit ---------------------------------------------------------------------


def changed(official, tmp_path, change):
    tensors = dict(official)
    change(tensors)
    file = tmp_path / "changed.safetensors"
    save_file(tensors, file)
    return file


def drop(*endings):
    def change(tensors):
        for name in [name for name in tensors if name.endswith(endings)]:
            del tensors[name]

    return change


def put(name, *shape):
    return lambda tensors: tensors.update({name: torch.zeros(*shape)})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            drop("frame_blocks.1.attn.qkv.bias", "global_blocks.4.ls2.gamma"),
            r"2 missing: aggregator\.frame_blocks\.1\.attn\.qkv\.bias, aggregator\.global_blocks\.4\.ls2\.gamma",
        ),
        (
            drop(".ls1.gamma"),
            r"12 missing: aggregator\.patch_embed\.blocks\.0\.ls1\.gamma, .*, .*, and 9 more",
        ),
        (
            put("aggregator.camera_token", 1, 2, 1, 65),
            r"1 of another shape: aggregator\.camera_token is \[1, 2, 1, 65\] where \[1, 2, 1, 64\] is needed",
        ),
        (put("aggregator.extra.weight", 3), r"1 not known: aggregator\.extra\.weight"),
        (drop("pos_embed"), r"lacks aggregator\.patch_embed\.pos_embed, which shows a size"),
        (put("aggregator.frame_blocks.0.attn.q_norm.weight", 20), "must divide into 3 heads"),
        (put("aggregator.frame_blocks.0.attn.q_norm.weight", 32), "of another shape: .*q_norm"),
    ],
)
def test_what_is_missing_or_wrong_is_named_before_anything_is_read(official, tmp_path, monkeypatch, change, sentence):
    monkeypatch.setattr(files, "load_tensors", lambda *a, **k: pytest.fail("read values of a file that does not fit"))
    file = changed(official, tmp_path, change)
    with pytest.raises(
        CheckpointError, match=rf"changed\.safetensors is no VGGT that can be loaded: .*{sentence}.*{NEEDED}"
    ):
        load_vggt(file)


def test_a_head_the_file_lacks_is_named(official, tmp_path):
    file = changed(official, tmp_path, lambda tensors: [tensors.pop(n) for n in list(tensors) if "depth_head" in n])
    assert load_vggt(file, heads=("camera",)).config.camera_head
    with pytest.raises(CheckpointError, match=f"holds no depth head; .*{NEEDED}"):
        load_vggt(file, heads=("depth",))


def test_a_damaged_head_is_named_only_when_it_is_wanted(official, tmp_path):
    file = changed(official, tmp_path, drop("camera_head.token_norm.bias"))
    assert load_vggt(file).fingerprint == FINGERPRINT
    with pytest.raises(CheckpointError, match=r"1 missing: camera_head\.token_norm\.bias"):
        load_vggt(file, heads=("camera",))


def test_another_model_is_refused_by_what_it_is(tmp_path):
    file = tmp_path / "flux.safetensors"
    save_file({"double_blocks.0.weight": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match="is a FLUX or HunyuanVideo model; the scene encoder needs a VGGT file"):
        load_vggt(file)


def test_an_unknown_head_is_refused(path):
    with pytest.raises(ValueError, match=r"heads may name 'camera' and 'depth'; got \['points'\]"):
        load_vggt(path, heads=("points",))


def test_weights_one_cannot_compute_in_are_refused(official, tmp_path):
    file = tmp_path / "fp8.safetensors"
    save_file({name: value.to(torch.float8_e4m3fn) for name, value in official.items()}, file)
    with pytest.raises(
        CheckpointError, match=r"stored as torch\.float8_e4m3fn, in which the scene encoder cannot compute"
    ):
        load_vggt(file)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_truncated_file_is_refused(official, tmp_path, suffix):
    file = tmp_path / f"cut.{suffix}"
    save_file(official, file) if suffix == "safetensors" else torch.save(official, file)
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size * 2 // 3)
    with pytest.raises(CheckpointError, match=r"cut\..* truncated.* Download it again"):
        load_vggt(file)


# ---- conversion --------------------------------------------------------------------------------


def test_a_converted_file_loads_to_what_its_source_loads_to_in_bf16(path, tmp_path):
    target = tmp_path / "small.safetensors"
    convert_vggt(path, target)
    converted, source = load_vggt(target), load_vggt(path, dtype=torch.bfloat16)
    for name, value in source.state_dict().items():
        assert torch.equal(converted.state_dict()[name], value), name
    assert error(converted.encode(case_images("a")).patch, golden("a__final")[:, :, 5:]) < BF16


def test_a_converted_file_keeps_the_fingerprint_and_says_where_it_is_from(path, official, tmp_path):
    target = tmp_path / "small.safetensors"
    assert convert_vggt(path, target, licence="CC-BY-NC-4.0") == FINGERPRINT
    assert load_vggt(target).fingerprint == vggt_fingerprint(official) == FINGERPRINT
    with safe_open(target, framework="pt") as file:
        record = json.loads(file.metadata()[METADATA_KEY])
        assert {name.split(".")[0] for name in file.keys()} == {"aggregator"}  # noqa: SIM118 (not a dict)
    assert record == {
        "format": 1,
        "licence": "CC-BY-NC-4.0",
        "source": "model.safetensors",
        "fingerprint": FINGERPRINT,
    }


def test_other_weights_have_another_fingerprint(official):
    other = dict(official) | {"aggregator.camera_token": official["aggregator.camera_token"] * 1.01}
    assert vggt_fingerprint(other) != FINGERPRINT
    with pytest.raises(CheckpointError, match=r"lacks aggregator\.camera_token, which its fingerprint needs"):
        vggt_fingerprint({name: value for name, value in official.items() if name != "aggregator.camera_token"})


def test_a_converted_file_keeps_the_heads_that_were_asked_for(path, tmp_path):
    target = tmp_path / "small.safetensors"
    convert_vggt(path, target, heads=("camera",))
    source, converted = load_vggt(path, heads=("camera",)), load_vggt(target, heads=("camera",))
    for name, value in source.camera_head.state_dict().items():
        assert torch.equal(converted.camera_head.state_dict()[name], value), name
    with pytest.raises(CheckpointError, match="holds no depth head"):
        load_vggt(target, heads=("depth",))


def test_nothing_half_made_is_left_when_writing_fails(path, tmp_path, monkeypatch):
    target = tmp_path / "out" / "small.safetensors"
    target.parent.mkdir()
    target.write_bytes(b"an earlier file")

    def full_disk(tensors, filename, metadata=None):
        filename.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "save_file", full_disk)
    with pytest.raises(OSError, match=r"small\.safetensors: the disk is full\. Nothing was written under that name"):
        convert_vggt(path, target)
    assert [file.name for file in target.parent.iterdir()] == ["small.safetensors"]
    assert target.read_bytes() == b"an earlier file"


def test_interrupting_a_conversion_leaves_nothing(path, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_vggt(path, tmp_path / "small.safetensors", on_tensor=stop)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("target", "sentence"),
    [("model.safetensors", "is the source itself"), ("small.pt", r"got small\.pt. Name it \.safetensors")],
)
def test_targets_that_cannot_be_are_refused(path, tmp_path, target, sentence):
    with pytest.raises(ValueError, match=sentence):
        convert_vggt(path, tmp_path / target)


@pytest.mark.parametrize(
    ("record", "sentence"),
    [('{"format": 2}', "'format' is 2; this version knows 1"), ("{}", "has no readable 'format'")],
)
def test_records_of_another_format_are_refused(official, tmp_path, record, sentence):
    file = tmp_path / "later.safetensors"
    save_file(official, file, metadata={METADATA_KEY: record})
    with pytest.raises(CheckpointError, match=sentence):
        load_vggt(file)
