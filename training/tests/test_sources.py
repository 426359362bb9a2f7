"""The configured source as footage: who trains, who validates, and that a real one becomes a cache."""

import dataclasses
import math

import pytest
import torch
from fake_footage import FRAMES, HEIGHT, WIDTH, cache_config

from cinescene_core.checks import FileFormatError
from cinescene_core.video import save_image
from cinescene_training.config import ShotConfig, SourceConfig
from cinescene_training.data import sources
from cinescene_training.data.build import build_cache
from cinescene_training.data.cache import EncodedCache
from cinescene_training.data.fingerprint import fingerprint_of
from cinescene_training.data.footage import PlaceItem
from cinescene_training.data.sources import open_source

SHOT = ShotConfig(width=WIDTH, height=HEIGHT, num_frames=FRAMES, num_views=2, vggt_width=42, vggt_height=28)


def panoramas(folder, count):
    """A folder of small panoramas, each of another grey, and one file that is none."""
    folder.mkdir()
    for index in range(count):
        save_image(torch.full((128, 256, 3), 0.4 * (index + 1) / count), folder / f"pano{index}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def config_of(folder, **source):
    return cache_config(folder, source=SourceConfig(**source), shot=SHOT)


def test_rooms_of_three_splits_share_no_place(tmp_path):
    config = config_of(tmp_path, kind="rooms", places=4, validation_places=2, clips_per_place=2)
    source = open_source(config)
    assert [(side.split, len(side.places), len(side.clips)) for side in source.sides] == [
        ("train", 4, 16),  # two paths, each with and without the subject
        ("validation", 2, 8),
        ("test", 2, 8),
    ]
    frames = [side.footage.frames(side.clips[0].name, FRAMES) for side in source.sides]
    assert {tuple(clip.shape) for clip in frames} == {(FRAMES, HEIGHT, WIDTH, 3)}
    assert all((a - b).abs().max() > 0.05 for a, b in zip(frames, [*frames[1:], frames[0]], strict=True))
    assert {float(side.footage.trajectory(side.clips[0].name).fps) for side in source.sides} == {SHOT.fps}


def test_a_dataset_holds_whole_environments_out(tmp_path):
    root = panoramas(tmp_path / "panoramas", 6)
    source = open_source(config_of(tmp_path, kind="panoramas", root=root, validation_places=1, clips_per_place=2))
    names = {side.split: [place.name for place in side.places] for side in source.sides}
    assert {split: len(held) for split, held in names.items()} == {"train": 4, "validation": 1, "test": 1}
    assert sorted(name for held in names.values() for name in held) == [f"pano{index}" for index in range(6)]
    assert all({clip.place for clip in side.clips} == set(names[side.split]) for side in source.sides)
    assert [problem.item for problem in source.problems] == ["broken.png"]


def test_a_dataset_can_be_all_for_testing(tmp_path):
    """The paper's out-of-domain test: every panorama, along moves of one's own."""
    root = panoramas(tmp_path / "panoramas", 3)
    moves = ("pan_left=40", "tilt_up")
    config = config_of(tmp_path / "cache", kind="panoramas", root=root, only="test", clips_per_place=2, moves=moves)
    (side,) = open_source(config).sides
    assert (side.split, len(side.places)) == ("test", 3)
    ends = {clip.name: side.footage.trajectory(clip.name).world_from_camera[-1, :3, 2] for clip in side.clips}
    turned = {
        (name.split("_", 1)[1], round(math.degrees(math.atan2(x, z))), round(math.degrees(math.asin(-y))))
        for name, (x, y, z) in ends.items()
    }
    assert turned == {("pan_left", -40, 0), ("tilt_up", 0, 45)}
    report = build_cache(config)
    assert [(count.split, count.places, count.clips) for count in report.splits] == [("test", 3, 6)]
    wanted = fingerprint_of(config)
    assert len(EncodedCache(config.folder, "test", wanted)) == 6
    with pytest.raises(FileFormatError, match=r"source\.only puts every place into test, so there are no clips for tr"):
        EncodedCache(config.folder, "train", wanted)
    held_out = config_of(config.folder, **(vars(config.source) | {"only": None}))
    with pytest.raises(FileFormatError, match=r"with source\.only = 'test', and this run wants None"):
        EncodedCache(config.folder, "test", fingerprint_of(held_out))


def test_a_real_source_becomes_a_cache(tmp_path):
    root = panoramas(tmp_path / "panoramas", 3)
    config = config_of(tmp_path / "cache", kind="panoramas", root=root, validation_places=1, clips_per_place=2)
    report = str(build_cache(config))
    assert "train: 2 clips of 1 places in 1 shards (1 made, 0 stood)" in report
    assert "1 items are not in the cache:\n  broken.png: " in report
    cache = EncodedCache(config.folder, "train", fingerprint_of(config))
    cache.verify()
    sample = cache.sample(0)
    # A panorama of one grey: all views are one picture, and a clip starts with it. Cutting rounds the pixels; a step
    # of one grey level moves these latents by 0.01 and more.
    for latents in (sample.view_latents[1], sample.latents[:, 0]):
        torch.testing.assert_close(latents, sample.view_latents[0], atol=1e-5, rtol=0)
    other = EncodedCache(config.folder, "test").sample(0)
    assert (other.view_latents - sample.view_latents).abs().max() > 0.05


def test_too_much_held_out_and_nothing_to_read_are_refused(tmp_path):
    root = panoramas(tmp_path / "panoramas", 4)
    with pytest.raises(
        ValueError,
        match=r"has 4 places that can be read; holding out 2 .* Lower source\.validation_places, or .* "
        r"Items that cannot be read: 1, the first broken\.png: ",
    ):
        open_source(config_of(tmp_path, kind="panoramas", root=root, validation_places=2))
    for path in root.glob("pano*"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"has no place that can be read\. The first problem is broken\.png: "):
        open_source(config_of(tmp_path, kind="panoramas", root=root, validation_places=1))


def test_a_clip_of_an_unlisted_place_is_a_problem(tmp_path, monkeypatch):
    root = panoramas(tmp_path / "panoramas", 4)
    config = config_of(tmp_path, kind="panoramas", root=root, validation_places=1, clips_per_place=1)

    class Homeless(sources.PanoramaFootage):
        @property
        def clips(self):
            found = super().clips
            return (*found, dataclasses.replace(found[0], name="lost/01", place="lost"))

    monkeypatch.setattr(sources, "PanoramaFootage", Homeless)
    source = open_source(config)
    assert ("lost/01", "Its place lost is not among the dataset's places.") in [
        (problem.item, problem.reason) for problem in source.problems
    ]
    assert PlaceItem(name="lost", environment="lost") not in [p for side in source.sides for p in side.places]
