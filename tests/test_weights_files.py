import json
import os
import struct
import time
import zipfile

import pytest
import torch
from weight_files import write, write_header_only

from cinescene_core.checks import CheckpointError
from cinescene_core.models.wan import CineSceneTransformer, WanConfig
from cinescene_core.weights import FileKind, TensorInfo, identify, load_tensors, read_header
from cinescene_core.weights.files import WRAPPERS, difference

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}
INFOS = {"a.weight": TensorInfo("F32", (2, 3)), "b": TensorInfo("BF16", (2,))}


def same(loaded, expected):
    assert loaded.keys() == expected.keys()
    return all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_a_header_tells_names_types_shapes_and_metadata(tmp_path):
    header = read_header(write(tmp_path / "m.safetensors", TENSORS, format="pt"))
    assert dict(header.tensors) == INFOS
    assert dict(header.metadata) == {"format": "pt"}
    assert header.container == "safetensors"


@pytest.mark.parametrize("wrapper", [*WRAPPERS, "module.model."])
def test_wrappers_around_every_name_are_dropped(tmp_path, wrapper):
    path = write(tmp_path / "m.safetensors", {wrapper + name: value for name, value in TENSORS.items()})
    assert dict(read_header(path).tensors) == INFOS
    assert same(load_tensors(path), TENSORS)


def test_a_wrapper_around_some_names_belongs_to_them(tmp_path):
    tensors = {"model.a": TENSORS["a.weight"], "b": TENSORS["b"]}
    assert list(read_header(write(tmp_path / "m.safetensors", tensors)).tensors) == ["model.a", "b"]


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_prefix_selects_one_part(tmp_path, suffix):
    tensors = {"vae.x": TENSORS["b"], "text.y": TENSORS["a.weight"]}
    path = tmp_path / f"m.{suffix}"
    write(path, tensors) if suffix == "safetensors" else torch.save(tensors, path)
    assert same(load_tensors(path, prefix="vae."), {"x": TENSORS["b"]})
    assert dict(read_header(path).part("vae.").tensors) == {"x": INFOS["b"]}
    for read in (lambda: load_tensors(path, prefix="vggt."), lambda: read_header(path).part("vggt.")):
        with pytest.raises(CheckpointError, match=rf"m.{suffix} holds no part 'vggt\.'. Use a file that does\."):
            read()


def test_five_gigabytes_are_recognised_without_reading_them(tmp_path):
    full_size = WanConfig(num_layers=15)  # half of Wan2.1 1.3B, in float64: 5.9 GB
    model = CineSceneTransformer(full_size, projector=False, device="meta")
    added = ("cam_encoder", "scene_embed")
    shapes = {n: tuple(v.shape) for n, v in model.state_dict().items() if not any(a in n for a in added)}
    path = write_header_only(tmp_path / "wan.safetensors", shapes, "F64", 8)
    assert path.stat().st_size > 5e9
    start = time.process_time()
    assert identify(read_header(path)) is FileKind.WAN_T2V
    # Reading 5 GB of zeros costs more than a second of processor time.
    assert time.process_time() - start < 0.3


def test_a_truncated_file_says_how_much_is_missing(tmp_path):
    path = write_header_only(tmp_path / "m.safetensors", {"a": (1000, 1000)}, missing=1234)
    whole = path.stat().st_size + 1234
    with pytest.raises(CheckpointError, match=rf"m.safetensors is truncated: 1,234 of its {whole:,} bytes are missing"):
        read_header(path)


def test_a_file_cut_inside_its_header_is_truncated_too(tmp_path):
    path = write(tmp_path / "m.safetensors", TENSORS)
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=f"is truncated: {8 + length - 20} of its {8 + length} bytes are missing"):
        read_header(path)


def safetensors_bytes(entries, data=b""):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


FOUR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "m.bin is empty. Download it again."),
        (b"<!DOCTYPE html><html>", "m.bin is a web page, not a model: .* Download the file itself"),
        (b"\n <html lang='en'>" + b" " * 99, "m.bin is a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2834000000\n",
            "m.bin is a Git LFS pointer to a file of 2,834,000,000 bytes, not the file. Run 'git lfs pull'",
        ),
        (b"\0" * 4096, "m.bin starts with zeros only: an unfinished file. Download it again"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 90, r"m.bin is neither safetensors nor PyTorch \(98 bytes\)"),
        (struct.pack("<Q", 10**12) + b"{}", "not a safetensors file, .*its header claims 1,000,000,000,000 bytes"),
        (safetensors_bytes(b'{"a": '), "m.bin has a damaged safetensors header"),
        (safetensors_bytes(b"{}\xff"), "m.bin has a damaged safetensors header"),
        (safetensors_bytes({"a": {"dtype": "F32"}}), "m.bin has a damaged safetensors header"),
        (safetensors_bytes({"a": 3}), "m.bin has a damaged safetensors header"),
        (safetensors_bytes({"a": FOUR | {"shape": [2]}}, b"1234"), r"a tensor of \[2\] F32 stands at bytes 0 to 4"),
        (safetensors_bytes({"a": FOUR, "b": FOUR}, b"1234"), r"a tensor of \[1\] F32 stands at bytes 0 to 4"),
        (safetensors_bytes({"a": FOUR}, b"123456"), "m.bin is damaged: 2 bytes follow the last tensor"),
    ],
)
def test_what_is_no_model_is_named(tmp_path, content, sentence):
    path = tmp_path / "m.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence):
        read_header(path)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"none.safetensors does not exist. Check the name and the folder"):
        read_header(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match=r"is a folder\. Name the model file inside it"):
        read_header(tmp_path)


@pytest.mark.parametrize("wrap", [lambda s: s, *(lambda s, k=k: {k: s, "step": 3} for k in ("state_dict", "model"))])
def test_pytorch_files_read_like_safetensors(tmp_path, wrap):
    path = tmp_path / "m.ckpt"
    torch.save(wrap({f"module.{name}": value for name, value in TENSORS.items()}), path)
    header = read_header(path)
    assert (dict(header.tensors), header.container) == (INFOS, "torch")
    assert same(load_tensors(path), TENSORS)


class RunsCode:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    path, marker = tmp_path / "m.pt", tmp_path / "ran"
    torch.save({"a": torch.zeros(1), "b": RunsCode(str(marker))}, path)
    with pytest.raises(CheckpointError, match=r"m.pt holds Python code \(\S*mkdir\) beside tensors and was not opened"):
        read_header(path)
    assert not marker.exists()


def test_old_truncated_and_empty_pytorch_files(tmp_path):
    path = tmp_path / "m.pt"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"m\.pt is a pickle in PyTorch's old format"):
        read_header(path)
    torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(CheckpointError, match=r"m\.pt is a zip archive, but not a complete PyTorch file: truncated"):
        read_header(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(CheckpointError, match=r"m\.pt is a zip archive, but not a complete PyTorch file"):
        read_header(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match=r"m\.pt is a PyTorch file without a state dict of tensors"):
        read_header(path)


def test_the_difference_counts_and_names_the_first_few():
    needed = dict.fromkeys("abcdef", (2,))
    found = {"e": (2,), "f": (3, 1), "z": (1,)}
    assert difference(needed, found) == (
        "4 missing: a, b, c, and 1 more; 1 not known: z; 1 of another shape: f is [3, 1] where [2] is needed"
    )
    assert difference(needed, needed) == ""
