"""What training reads from the cache is what encoding gives; a cache that does not fit the run is refused."""

import dataclasses
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from fake_footage import (
    FRAMES,
    HEIGHT,
    PAN_DEGREES,
    SHOT,
    VGGT_SIZE,
    VIEWS,
    WIDTH,
    FakeFootage,
    cache_config,
    fake_fingerprint,
    fake_source,
    fill,
    pictures,
    shards,
    tiny_encoders,
)

from cinescene_core.cameras import rotation_from_angles
from cinescene_core.checks import FileFormatError
from cinescene_core.config import ViewConfig
from cinescene_core.models.vggt import resize_for_vggt
from cinescene_core.scene import encode_scene
from cinescene_training.config import ShotConfig, SourceConfig
from cinescene_training.data.build import fill_cache
from cinescene_training.data.cache import EncodedCache
from cinescene_training.data.shards import read_record

VIEW_CONFIG = ViewConfig(num_views=VIEWS, width=WIDTH, height=HEIGHT)
NAMES = [f"place{i}/{kind}/01" for i in range(3) for kind in ("whuman", "wohuman")]


@pytest.fixture(scope="module")
def encoders():
    return tiny_encoders()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return cache_config(tmp_path_factory.mktemp("cache"), clip_features=True)


@pytest.fixture(scope="module")
def report(config, encoders):
    return fill(config, encoders, train=FakeFootage(3), validation=FakeFootage(1, "held"))


@pytest.fixture(scope="module")
def cache(config, report):
    return EncodedCache(config.folder, "train", fake_fingerprint(config))


# What training reads


def test_a_sample_is_what_the_encoders_give(cache, encoders):
    footage = FakeFootage(3)
    assert [item.name for item in cache.items] == NAMES
    for index, item in enumerate(footage.clips):
        sample = cache.sample(index)
        assert (sample.name, sample.place, sample.caption) == (item.name, item.place, item.caption)
        assert sample.has_subject == item.has_subject
        scene = encode_scene(footage.views(item.place, VIEW_CONFIG), encoders.vggt, encoders.vae, vggt_size=VGGT_SIZE)
        assert torch.equal(sample.view_latents, scene.latents)
        assert torch.equal(sample.tokens.patch, scene.tokens.patch)
        assert torch.equal(sample.tokens.camera, scene.tokens.camera)
        assert sample.tokens.grid == scene.tokens.grid == (2, 3)
        assert torch.equal(sample.latents, encoders.vae.encode(footage.frames(item.name, FRAMES)[None])[0])
        assert torch.equal(sample.text, encoders.text.encode(item.caption)[0])


def test_the_start_view_stands_first_for_vae_and_vggt(cache, encoders):
    sample = cache.sample(0)
    # The VAE sees a clip's first frame alone, and the first frame is the start view: equal but for rounding.
    torch.testing.assert_close(sample.latents[:, 0], sample.view_latents[0], atol=1e-5, rtol=0)
    assert (sample.latents[:, 0] - sample.view_latents[1]).abs().max() > 0.01
    # Another view in front is another reference: the same pictures, other tokens.
    turned = resize_for_vggt(pictures("place0", VIEWS).roll(1, 0), VGGT_SIZE)[None]
    other = encoders.vggt.encode(turned).camera[0].roll(-1, 0)
    assert (other - sample.tokens.camera).abs().max() > 1e-3


def test_poses_are_those_of_every_fourth_frame_seen_from_the_first(cache):
    turned = rotation_from_angles(torch.tensor([0.0, PAN_DEGREES / 2], dtype=torch.float64))  # frames 0 and 4 of 0..8
    poses = cache.sample(3).poses
    assert poses.dtype == torch.float32
    torch.testing.assert_close(poses[:, :, :3], turned.float())
    assert torch.equal(poses[:, :, 3], torch.zeros(2, 3))


def test_features_of_a_clip_are_those_of_every_fourth_frame(cache, encoders):
    frames = FakeFootage().frames("place1/whuman/01", FRAMES)[[0, 4]]
    fused = encoders.vggt.encode(resize_for_vggt(frames, VGGT_SIZE)[None]).fused()[0]
    features = cache.sample(2).clip_features
    assert features.shape == (2, encoders.vggt.width, 2, 3)
    assert torch.equal(features[1, :, 1, 2], fused[1, 5])  # the last of the patches, row by row


def test_the_empty_prompt_is_there_and_zeros_are_not_stored(cache, config, encoders):
    assert torch.equal(cache.empty_text(), encoders.text.encode("")[0])
    record = read_record(config.folder / "train-00000.safetensors")
    assert dict(zip(record.captions, record.text_rows, strict=True)) == {
        "": 0,
        "a red ball rolls through the room": 7,
        "the room": 2,
    }
    assert record.text_length == 12


def test_half_precision_is_the_nearest_and_poses_keep_theirs(tmp_path, encoders, cache):
    config = cache_config(tmp_path, dtype="bfloat16")
    fill(config, encoders, train=FakeFootage(1))
    rough, exact = EncodedCache(tmp_path, "train").sample(0), cache.sample(0)
    assert torch.equal(rough.latents, exact.latents.bfloat16().float())
    assert torch.equal(rough.tokens.patch, exact.tokens.patch.bfloat16().float())
    assert torch.equal(rough.text, exact.text.bfloat16().float())
    assert torch.equal(rough.poses, exact.poses)
    assert rough.clip_features is None
    assert all(value.dtype == torch.float32 for value in (rough.latents, rough.text, rough.tokens.camera))


def test_workers_of_a_loader_and_threads_read_the_same(cache):
    wanted = [cache.sample(index).latents for index in range(len(cache))]
    copy = pickle.loads(pickle.dumps(cache))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: copy.sample(index).latents, range(len(cache))))
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
    with multiprocessing.get_context("fork").Pool(1) as workers:
        forked = workers.map(_first_value, [(cache, index) for index in range(len(cache))])
    assert forked == [float(latents.flatten()[0]) for latents in wanted]


def _first_value(job):
    cache, index = job
    return float(cache.sample(index).latents.flatten()[0])


def test_an_index_beyond_the_clips_is_refused(cache):
    with pytest.raises(IndexError, match=r"The train clips are numbered 0 to 5; got 6"):
        cache.sample(6)


def test_no_cache_and_no_such_split_are_refused(tmp_path, config, report):
    with pytest.raises(
        FileFormatError, match=r"holds no encoded clips for train\. Run cinescene-train cache with this"
    ):
        EncodedCache(tmp_path, "train")
    with pytest.raises(FileFormatError, match=r"holds no encoded clips for test\."):
        EncodedCache(config.folder, "test")
    with pytest.raises(
        ValueError, match=r"split must be one of train, validation, test; got 'trian'. Did you mean 'train'"
    ):
        EncodedCache(config.folder, "trian")


# Fingerprints


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"shot": dataclasses.replace(SHOT, num_views=4)}, r"with shot\.num_views = 3, and this run wants 4\."),
        ({"dtype": "bfloat16"}, r"with dtype = 'float32', and this run wants 'bfloat16'\."),
        ({"training_version": "9.9"}, r"with training_version = '0\.1\.0', and this run wants '9\.9'\."),
        ({"calibration_digest": "ab"}, r"with calibration_digest = '', and this run wants 'ab'\."),
    ],
)
def test_shards_of_another_fingerprint_are_refused_by_field(config, encoders, report, change, sentence):
    wanted = fake_fingerprint(config, **change)
    with pytest.raises(
        FileFormatError, match=rf"train-00000\.safetensors was encoded {sentence} Run cinescene-train cache"
    ):
        EncodedCache(config.folder, "train", wanted)
    before = shards(config.folder)
    with pytest.raises(FileFormatError, match=sentence + " Run cinescene-train cache again into another folder"):
        fill_cache(config, wanted, fake_source(train=FakeFootage(3)), lambda: encoders)
    assert shards(config.folder) == before


def test_commit_folder_and_surplus_clip_features_are_no_difference(config, cache):
    EncodedCache(config.folder, "train", fake_fingerprint(config, commit="abc", clip_features=False))
    roots = [SourceConfig(kind="multicam", root=Path(root)) for root in ("here", "there")]
    here, there = (fake_fingerprint(config, source=source) for source in roots)
    here.check(there, "It")  # the same dataset, moved
    without = dataclasses.replace(cache.fingerprint, clip_features=False)
    with pytest.raises(FileFormatError, match=r"with clip_features = False, and this run wants True"):
        without.check(cache.fingerprint, "It")


def test_shards_of_two_runs_do_not_mix(tmp_path, encoders):
    a, b = (
        cache_config(tmp_path / "a"),
        cache_config(tmp_path / "b", shot=ShotConfig(**(vars(SHOT) | {"num_views": 2}))),
    )
    fill(a, encoders, train=FakeFootage(3))
    fill(b, encoders, train=FakeFootage(3))
    (b.folder / "train-00001.safetensors").replace(a.folder / "train-00001.safetensors")
    with pytest.raises(FileFormatError, match=r"train-00001\.safetensors was encoded with shot\.num_views = 2"):
        EncodedCache(a.folder, "train")
    (a.folder / "train-00000.safetensors").replace(a.folder / "train-00001.safetensors")
    (b.folder / "train-00000.safetensors").replace(a.folder / "train-00000.safetensors")
    with pytest.raises(FileFormatError, match=r"train-00001\.safetensors is shard 0 of 2 for train; 1 of 2 for train"):
        EncodedCache(a.folder, "train")
