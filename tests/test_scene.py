"""Views to a scene, and the scene file: exact, checked, never half-written."""

import dataclasses
import errno
import json
import os
import struct
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import cinescene_core
import cinescene_core.scene
from cinescene_core.cameras import pose_from, rotation_from_angles
from cinescene_core.checks import FileFormatError, ShapeError
from cinescene_core.context import build_context
from cinescene_core.models.autoencoder import WanAutoencoder, new_autoencoder
from cinescene_core.models.vggt import VGGT, VGGTConfig, resize_for_vggt, vggt_fingerprint
from cinescene_core.scene import check_scene_target, encode_scene, load_scene, save_scene
from cinescene_core.types import Scene, SceneTokens, Views, content_digest
from cinescene_core.weights import FileKind, identify, read_header

COUNT, HEIGHT, WIDTH = 3, 32, 48
VGGT_SIZE = (42, 28)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return WanAutoencoder(new_autoencoder(base_dim=4))


@pytest.fixture(scope="module")
def vggt():
    torch.manual_seed(0)
    sizes = {"embed_dim": 32, "num_heads": 2, "position_grid": 3, "backbone_depth": 1, "depth": 2}
    return VGGT(VGGTConfig(**sizes, camera_head=False, depth_head=False)).eval()


def make_views(count=COUNT, *, photos=False):
    images = torch.rand(count, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(1))
    if photos:
        return Views(images)
    yaw = torch.arange(count, dtype=torch.float64) * 18
    return Views(images, pose_from(rotation_from_angles(yaw), torch.zeros(count, 3, dtype=torch.float64)), 90.0)


@pytest.fixture(scope="module")
def scene(vggt, vae):
    return encode_scene(make_views(), vggt, vae, vggt_size=VGGT_SIZE)


# Encoding


def test_every_view_goes_through_the_vae_alone(scene, vae):
    views = make_views()
    alone = torch.stack([vae.encode(image[None, None])[0, :, 0] for image in views.images])
    # Convolutions of several pictures at once round differently in the last digits.
    torch.testing.assert_close(scene.latents, alone, atol=1e-6 * float(alone.abs().max()), rtol=0)
    # One clip of the same views is another thing: its latents after the first mix neighbours.
    clip = vae.encode(torch.cat([views.images, views.images[-1:].expand(2, -1, -1, -1)])[None])
    assert clip.shape[2] == 2
    torch.testing.assert_close(clip[0, :, 0], alone[0], atol=1e-5, rtol=0)
    assert all((clip[0, :, 1] - view).abs().max() > 0.01 for view in alone[1:])


def test_a_views_latents_do_not_know_the_other_views(scene, vggt, vae):
    images = make_views().images.clone()
    images[1] = 0.5
    other = encode_scene(Views(images), vggt, vae, vggt_size=VGGT_SIZE)
    assert torch.equal(other.latents[[0, 2]], scene.latents[[0, 2]])
    assert (other.latents[1] - scene.latents[1]).abs().max() > 0.01
    # The scene encoder, in contrast, sees all views together.
    assert (other.tokens.patch[0] - scene.tokens.patch[0]).abs().max() > 1e-4


def test_tokens_are_those_of_the_views_together_the_first_in_front(scene, vggt):
    expected = vggt.encode(resize_for_vggt(make_views().images, VGGT_SIZE)[None])
    assert torch.equal(scene.tokens.patch, expected.patch[0])
    assert torch.equal(scene.tokens.camera, expected.camera[0])
    assert scene.tokens.grid == (2, 3)


def test_a_scene_says_where_it_came_from(scene, vggt):
    made = scene.provenance
    assert made.vggt_id == vggt_fingerprint(vggt.state_dict())
    assert made.vggt_size == VGGT_SIZE
    assert made.source == content_digest(make_views().images)
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    assert made.version == cinescene_core.__version__ == project["project"]["version"]


@pytest.mark.parametrize("count", [1, 40])
def test_one_to_forty_views(vggt, vae, count):
    scene = encode_scene(make_views(count), vggt, vae, vggt_size=(14, 14))
    assert len(scene.views) == len(scene.latents) == len(scene.tokens.patch) == count


def test_tokens_do_not_keep_the_encoders_memory(vggt, vae):
    # Of one view even a slice counts as contiguous, and its camera token would hold every patch.
    scene = encode_scene(make_views(1), vggt, vae, vggt_size=VGGT_SIZE)
    camera = scene.tokens.camera
    assert camera.untyped_storage().nbytes() == camera.numel() * camera.element_size()


@pytest.mark.parametrize(("together", "views"), [(1, [4, 5, 6]), (2, [5, 6]), (100, [6])])
def test_progress_reaches_the_end_in_steps(vggt, vae, monkeypatch, together, views):
    told = []
    width, height = make_views().size
    monkeypatch.setattr(cinescene_core.scene, "PIXELS_AT_ONCE", together * width * height)
    encode_scene(make_views(), vggt, vae, vggt_size=VGGT_SIZE, on_progress=lambda *news: told.append(news))
    assert told == [(1, 6), (3, 6), *((done, 6) for done in views)]  # two pairs of blocks, three views


def test_highlights_are_cut_as_on_a_screen(vggt, vae):
    images = make_views().images.clone()
    images[0, :8] = 7.5
    bright = encode_scene(Views(images), vggt, vae, vggt_size=VGGT_SIZE)
    screen = encode_scene(Views(images.clamp(max=1)), vggt, vae, vggt_size=VGGT_SIZE)
    assert torch.equal(bright.latents, screen.latents)
    assert torch.equal(bright.views.images, images)


@pytest.mark.parametrize(
    ("change", "size", "error", "sentence"),
    [
        (lambda i: i.index_fill(0, torch.tensor([1]), torch.nan), VGGT_SIZE, ValueError, r"The views holds? 4608 NaN"),
        (lambda i: i[:, :24], VGGT_SIZE, ValueError, r"multiples of 16 .* got 48 x 24\. Use 48 x 32"),
        (lambda i: i, (50, 28), ShapeError, r"must be multiples of 14; got 50 x 28\. Use 56 x 28"),
    ],
)
def test_views_that_cannot_be_encoded_are_refused(vggt, vae, change, size, error, sentence):
    with pytest.raises(error, match=sentence):
        encode_scene(Views(change(make_views().images)), vggt, vae, vggt_size=size)


# Files


def same(a: Scene, b: Scene) -> bool:
    """Whether two scenes agree in every value, type and field."""
    pairs = [
        (a.views.images, b.views.images),
        (a.tokens.patch, b.tokens.patch),
        (a.tokens.camera, b.tokens.camera),
        (a.latents, b.latents),
    ]
    if (a.views.world_from_camera is None) != (b.views.world_from_camera is None):
        return False
    if a.views.world_from_camera is not None:
        pairs.append((a.views.world_from_camera, b.views.world_from_camera))
    tensors = all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)
    plain = (a.views.fov_degrees, a.tokens.grid, a.provenance) == (b.views.fov_degrees, b.tokens.grid, b.provenance)
    return tensors and plain


def test_saving_and_loading_change_nothing(tmp_path, scene):
    save_scene(scene, tmp_path / "room.safetensors")
    assert same(load_scene(tmp_path / "room.safetensors"), scene)
    assert [path.name for path in tmp_path.iterdir()] == ["room.safetensors"]


def test_photos_without_poses_and_half_precision_tokens_survive(tmp_path, vggt, vae):
    scene = encode_scene(make_views(photos=True), vggt, vae, vggt_size=VGGT_SIZE)
    tokens = SceneTokens(scene.tokens.patch.bfloat16(), scene.tokens.camera.bfloat16(), scene.tokens.grid)
    scene = dataclasses.replace(scene, tokens=tokens)
    save_scene(scene, tmp_path / "photos.safetensors")
    loaded = load_scene(tmp_path / "photos.safetensors")
    assert same(loaded, scene)
    assert loaded.views.world_from_camera is None


MAPS = Path("/proc/self/maps")
"""Linux tells what is mapped where."""


def mapped(scene, path):
    """Of each tensor of a scene whether it lies in a mapping of a file."""
    lines = [line.split() for line in MAPS.read_text().splitlines() if line.endswith(str(path))]
    spans = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
    tensors = (scene.views.images, scene.tokens.patch, scene.tokens.camera, scene.latents)
    return [any(start <= tensor.data_ptr() < stop for start, stop in spans) for tensor in tensors]


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux tells what is mapped")
def test_where_a_mapped_file_cannot_be_replaced_a_scene_is_copied(tmp_path, scene, monkeypatch):
    path = tmp_path / "room.safetensors"
    save_scene(scene, path)
    monkeypatch.setattr(cinescene_core.scene, "sys", SimpleNamespace(platform="win32"))
    loaded = load_scene(path)
    assert not any(mapped(loaded, path))
    assert str(path) not in MAPS.read_text()  # nor does anything else hold the file
    assert same(loaded, scene)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets no mapped file be replaced")
def test_a_loaded_scene_is_mapped_and_outlives_its_file(tmp_path, scene):
    path = tmp_path / "room.safetensors"
    save_scene(scene, path)
    loaded = load_scene(path)
    if MAPS.exists():
        assert all(mapped(loaded, path))
    other = dataclasses.replace(scene, latents=scene.latents + 1)
    save_scene(other, path)  # replaces the file as a whole
    assert same(loaded, scene)
    path.unlink()
    assert same(loaded, scene)


def test_a_scene_file_is_recognised(tmp_path, scene):
    save_scene(scene, tmp_path / "room.safetensors")
    assert identify(read_header(tmp_path / "room.safetensors")) is FileKind.SCENE


@pytest.fixture
def altered(tmp_path, scene):
    """Write a scene file whose tensors and record were changed; `sign` renews the digest."""

    def write(change, *, sign=True):
        path = tmp_path / "room.safetensors"
        save_scene(scene, path)
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            record = json.loads(file.metadata()["cinescene_scene"])
        change(tensors, record)
        if sign:
            record.pop("digest", None)
            record["digest"] = cinescene_core.scene._file_digest(tensors, record)
        save_file(tensors, path, metadata={"cinescene_scene": json.dumps(record)})
        return path

    return write


def test_an_unchanged_rewrite_loads(altered, scene):
    assert same(load_scene(altered(lambda tensors, record: None)), scene)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, record: tensors["latents"][0, 0, 0].add_(1e-3),
        lambda tensors, record: record.update(fov_degrees=60.0),
        lambda tensors, record: record.update(grid=[3, 2]),
        lambda tensors, record: record["provenance"].update(vggt_id="another"),
    ],
    ids=["a value", "the lens", "the grid", "the provenance"],
)
def test_any_change_is_found_by_the_digest(altered, change):
    with pytest.raises(FileFormatError, match=r"room\.safetensors is damaged or was changed: .* Encode it again\."):
        load_scene(altered(change, sign=False))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t, r: r.update(format=2), r"room\.safetensors is a scene of format 2; this version reads 1\. Update"),
        (lambda t, r: r.pop("format"), r"the scene's record cannot be read \('format'\)"),
        (lambda t, r: r.update(depth=1), r"the scene's record must have the fields .*; got \['depth', 'digest'"),
        (
            lambda t, r: r.pop("grid"),
            r"the scene's record must have the fields \['digest', 'format', 'fov_degrees', 'grid', 'prov",
        ),
        (lambda t, r: r.update(provenance=None), r"the scene's provenance must have the fields .*; got None"),
        (lambda t, r: r["provenance"].update(author=""), r"the scene's provenance must .*; got \['author', 'source'"),
        (lambda t, r: t.pop("camera"), r"holds the tensors \['images', 'latents', .*\] where a scene holds \['camera'"),
        (lambda t, r: t.update(depth=torch.zeros(2)), r"holds the tensors \['camera', 'depth'"),
        (
            lambda t, r: r.update(grid=[4, 2]),
            r"no scene that can be filmed: SceneTokens\.grid \(4, 2\) does not hold 6",
        ),
        (lambda t, r: r.update(grid=6), r"no scene that can be filmed"),
        (lambda t, r: r.update(fov_degrees=200.0), r"fov_degrees must lie between 0 and 180; got 200"),
        (lambda t, r: t["patch"].fill_(torch.inf), r"patch holds \d+ NaN or infinite values"),
        (
            lambda t, r: t.update(latents=torch.zeros(3, 16, 4, 5)),
            r"Scene\.latents must have shape \[3, 16, 4, 6\]; got",
        ),
        (lambda t, r: t.update(images=t["images"].half()), r"Views\.images must be float32"),
        (lambda t, r: t["world_from_camera"].neg_(), r"Views\.world_from_camera: frame 0 is not a rigid"),
    ],
)
def test_a_scene_made_elsewhere_is_checked(altered, change, sentence):
    with pytest.raises(FileFormatError, match=sentence):
        load_scene(altered(change))


def test_other_files_are_refused_by_what_they_are(tmp_path):
    path = tmp_path / "file.safetensors"
    with pytest.raises(FileFormatError, match=r"file\.safetensors does not exist\. Check the name"):
        load_scene(path)
    save_file({"blocks.0.lora_A.weight": torch.zeros(2)}, path)
    with pytest.raises(FileFormatError, match=r"file\.safetensors is a LoRA; a shot needs a CineScene scene"):
        load_scene(path)
    path.write_bytes(b"not a model")
    with pytest.raises(FileFormatError, match=r"file\.safetensors is neither safetensors nor PyTorch"):
        load_scene(path)


def test_a_truncated_scene_is_refused(tmp_path, scene):
    path = tmp_path / "room.safetensors"
    save_scene(scene, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileFormatError, match=r"room\.safetensors is truncated: 100 of its .* Encode it again\.$"):
        load_scene(path)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (bytes(4096), "starts with zeros only: an unfinished file"),
        (struct.pack("<Q", 9) + b'{"a": 1}}', "has a damaged safetensors header .*"),
        (struct.pack("<Q", 10**12) + b"{}", "is not a safetensors file, or a damaged one: .*"),
        (struct.pack("<Q", 2) + b"{}.", "is damaged: 1 bytes follow the last tensor"),
    ],
)
def test_a_damaged_scene_is_to_be_encoded_again_not_downloaded(tmp_path, content, fault):
    (tmp_path / "room.safetensors").write_bytes(content)
    with pytest.raises(FileFormatError, match=rf"room\.safetensors {fault}\. Encode it again\.$"):
        load_scene(tmp_path / "room.safetensors")


def test_a_scene_is_not_written_where_it_cannot_be(tmp_path, scene):
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist\. Create it"):
        save_scene(scene, tmp_path / "nowhere" / "room.safetensors")
    with pytest.raises(ValueError, match=r"A scene is one \.safetensors file; got room\.pt\. Name it so\."):
        save_scene(scene, tmp_path / "room.pt")


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("room.pt", ValueError, r"A scene is one \.safetensors file; got room\.pt\. Name it so\."),
        ("nowhere/room.safetensors", FileNotFoundError, r"the folder .*nowhere does not exist\. Create it"),
    ],
)
def test_a_place_where_no_scene_can_be_written_is_told(tmp_path, name, error, sentence):
    with pytest.raises(error, match=sentence):
        check_scene_target(tmp_path / name)
    check_scene_target(tmp_path / "room.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_size_is_checked_against_the_encoders_own_patches(vae):
    class Coarse:
        patch_size, width, fingerprint = 16, 4, "coarse"

        def encode(self, images, on_block=None):
            rows, columns = images.shape[-2] // 16, images.shape[-1] // 16
            tokens = torch.zeros(1, len(images[0]), rows * columns, 4)
            return SceneTokens(tokens, tokens[:, :, :1], (rows, columns))

    assert encode_scene(make_views(), Coarse(), vae, vggt_size=(48, 32)).tokens.grid == (2, 3)
    with pytest.raises(ShapeError, match=r"must be multiples of 16; got 42 x 28\. Use 48 x 32"):
        encode_scene(make_views(), Coarse(), vae, vggt_size=VGGT_SIZE)


def test_a_full_disk_leaves_the_old_scene(tmp_path, scene, monkeypatch):
    path = tmp_path / "room.safetensors"
    save_scene(scene, path)
    before = path.read_bytes()

    def fill(tensors, name, metadata):
        Path(name).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cinescene_core.scene, "save_file", fill)
    with pytest.raises(OSError, match=r"Cannot write .*room\.safetensors: the disk is full\. Nothing was written"):
        save_scene(scene, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["room.safetensors"]


def test_a_loaded_scene_films_as_the_original(tmp_path, scene):
    from cinescene_core.config import CineSceneConfig

    config = CineSceneConfig(vggt_id=scene.provenance.vggt_id, vggt_width=42, vggt_height=28)
    save_scene(scene, tmp_path / "room.safetensors")
    loaded, original = (
        build_context(s, 2, config, (0, 2, 1)) for s in (load_scene(tmp_path / "room.safetensors"), scene)
    )
    assert torch.equal(loaded.features, original.features)
    assert torch.equal(loaded.latents, original.latents)
