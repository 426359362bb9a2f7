"""Building the cache: nothing is lost unsaid, a kill costs nothing, damage is found and mended."""

import dataclasses
import errno
import json
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch
from fake_footage import (
    FRAMES,
    HEIGHT,
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
from safetensors import SafetensorError

from cinescene_core.checks import FileFormatError
from cinescene_core.types import Trajectory, Views
from cinescene_training.data import shards as shards_module
from cinescene_training.data.build import fill_cache, write_index
from cinescene_training.data.cache import EncodedCache
from cinescene_training.data.footage import PlaceItem, Problem
from cinescene_training.data.shards import DamagedShardError


@pytest.fixture(scope="module")
def encoders():
    return tiny_encoders()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return cache_config(tmp_path_factory.mktemp("cache"), clip_features=True)


@pytest.fixture(scope="module")
def report(config, encoders):
    return fill(config, encoders, train=FakeFootage(3), validation=FakeFootage(1, "held"))


# What the build says


def test_the_report_counts_and_the_index_is_derived(config, report):
    counts = {count.split: (count.places, count.clips, count.shards, count.made) for count in report.splits}
    assert counts == {"train": (3, 6, 2, 2), "validation": (1, 2, 1, 1)}
    assert report.bytes == sum(len(content) for content in shards(config.folder).values())
    assert "train: 6 clips of 3 places in 2 shards (2 made, 0 stood)" in str(report)
    assert report.problems == ()
    index = json.loads((config.folder / "index.json").read_text())
    assert [row["clips"] for row in index["splits"]["train"]] == [4, 2]
    (config.folder / "index.json").unlink()
    EncodedCache(config.folder, "train").sample(5)  # nobody needs it to read
    write_index(config.folder)
    assert json.loads((config.folder / "index.json").read_text()) == index


def test_a_second_run_keeps_every_shard_and_loads_no_encoder(config, report):
    before, told = shards(config.folder), []

    def load():
        raise AssertionError("an encoder was loaded")

    source = fake_source(train=FakeFootage(3), validation=FakeFootage(1, "held"))
    again = fill_cache(config, fake_fingerprint(config), source, load, on_progress=lambda *news: told.append(news))
    assert [count.made for count in again.splits] == [0, 0]
    assert again.notes == ()
    assert shards(config.folder) == before
    assert told == [("train", 4, 6), ("train", 6, 6), ("validation", 2, 2)]


def test_progress_counts_clips_and_may_interrupt(tmp_path, encoders):
    told = []
    fill(cache_config(tmp_path), encoders, train=FakeFootage(2), on_progress=lambda *news: told.append(news))
    assert told == [("train", done, 4) for done in (1, 2, 3, 4)]

    def stop(split, done, total):
        raise KeyboardInterrupt

    (tmp_path / "train-00000.safetensors").unlink()
    with pytest.raises(KeyboardInterrupt):
        fill(cache_config(tmp_path), encoders, train=FakeFootage(2), on_progress=stop)
    assert shards(tmp_path) == {}


def test_listing_order_and_readers_do_not_change_a_shard(tmp_path, encoders, config, report):
    footage = FakeFootage(3)
    footage.places = footage.places[::-1]
    other = cache_config(tmp_path, clip_features=True)
    fill(other, encoders, train=footage, workers=3)
    assert all(content == shards(config.folder)[name] for name, content in shards(tmp_path).items())


def test_a_source_that_changed_is_encoded_again_and_said(tmp_path, encoders):
    config = cache_config(tmp_path)
    fill(config, encoders, train=FakeFootage(5))
    before = shards(tmp_path)
    renamed = FakeFootage(3)
    renamed.places = (*renamed.places, PlaceItem(name="place9", environment="new"))
    report = fill(config, encoders, train=renamed)
    assert [note.split(" held")[0] for note in report.notes] == [
        f"train-0000{number}.safetensors" for number in range(3)
    ]
    assert "train-00002.safetensors held items that the source no longer lists and was removed." in report.notes
    assert sorted(shards(tmp_path)) == sorted(before)[:2]
    held = [item.place for item in EncodedCache(tmp_path, "train").items[::2]]
    assert held == ["place0", "place1", "place2", "place9"]


def test_a_source_that_lost_most_of_its_places_costs_no_shard(tmp_path, encoders):
    """A disk that is mounted in half, or another dataset of as many places."""
    config = cache_config(tmp_path)
    fill(config, encoders, train=FakeFootage(4), validation=FakeFootage(1, "held"))
    before = shards(tmp_path)
    sentence = (
        rf"^{tmp_path.name} holds 5 places, and the source lists only {{}} of them now\. Check that the dataset is "
        r"there whole, its disk mounted; to encode what it lists now, name another folder\.$"
    )
    with pytest.raises(FileFormatError, match=sentence.format(2)):
        fill(config, encoders, train=FakeFootage(1), validation=FakeFootage(1, "held"))
    with pytest.raises(FileFormatError, match=sentence.format(0)):
        fill(config, encoders, train=FakeFootage(5, "other"))
    assert shards(tmp_path) == before
    assert fill(config, encoders, train=FakeFootage(2), validation=FakeFootage(1, "held")).splits[0].places == 2


# Bad items

LONG = "ball " * 13


@pytest.mark.parametrize(
    ("item", "fault", "sentence"),
    [
        ("place0/whuman/01", FileFormatError("x.mp4 is no video."), "x.mp4 is no video."),
        ("place0/whuman/01", OSError("x.mp4: input/output error"), "x.mp4: input/output error"),
        (
            "place0/whuman/01",
            torch.rand(3, HEIGHT, WIDTH, 3),
            "Its video has 3 frames of 48 x 32 pixels where 5 of 48 x 32 are needed. "
            "Convert it, or change the configured shot.",
        ),
        (
            "place0/whuman/01",
            torch.rand(FRAMES, 16, WIDTH, 3),
            "Its video has 5 frames of 48 x 16 pixels where 5 of 48 x 32 are needed. "
            "Convert it, or change the configured shot.",
        ),
        (
            "place0/whuman/01",
            torch.full((FRAMES, HEIGHT, WIDTH, 3), torch.nan),
            "Its frames holds 23040 NaN or infinite values of 23040. Repair or re-export the source.",
        ),
        (
            "place0/whuman/01 path",
            Trajectory(torch.eye(4, dtype=torch.float64).expand(4, 4, 4), torch.tensor(90.0)),
            "Its camera path has 4 poses; 5 frames need one each. Film it longer, or configure fewer frames.",
        ),
    ],
)
def test_a_bad_clip_is_named_and_its_twin_is_kept(tmp_path, encoders, item, fault, sentence):
    footage = FakeFootage(1, faults={item: fault})
    report = fill(cache_config(tmp_path), encoders, train=footage)
    assert report.problems == (Problem(item="place0/whuman/01", reason=sentence),)
    assert f"place0/whuman/01: {sentence}" in str(report)
    assert (tmp_path / "problems.txt").read_text() == f"train-00000.safetensors\tplace0/whuman/01\t{sentence}\n"
    assert [clip.name for clip in EncodedCache(tmp_path, "train").items] == ["place0/wohuman/01"]
    # It is remembered without being encoded again.
    assert fill(cache_config(tmp_path), encoders, train=footage).problems == report.problems


def test_a_zoom_and_a_long_caption_are_bad_clips(tmp_path, encoders):
    lenses = torch.linspace(90, 60, FRAMES, dtype=torch.float64)
    zoom = Trajectory(torch.eye(4, dtype=torch.float64).expand(FRAMES, 4, 4), lenses)

    class Wordy(FakeFootage):
        @property
        def clips(self):
            return tuple(
                dataclasses.replace(clip, caption=LONG) if "1/wh" in clip.name else clip for clip in super().clips
            )

    report = fill(cache_config(tmp_path), encoders, train=Wordy(2, faults={"place0/whuman/01 path": zoom}))
    assert [problem.item for problem in report.problems] == ["place0/whuman/01", "place1/whuman/01"]
    assert report.problems[0].reason.startswith("The lens of this path changes, from 90 to 60 degrees")
    assert report.problems[1].reason.startswith("The prompt has 13 words; this text encoder reads at most 12.")


def test_a_bad_place_and_a_place_without_a_good_clip_are_named(tmp_path, encoders):
    faults = {
        "place0": Views(torch.rand(2, HEIGHT, WIDTH, 3), None, 90.0),
        "place1/whuman/01": OSError("gone"),
        "place1/wohuman/01": OSError("gone too"),
    }
    listed = Problem(item="place7", reason="There is no panorama place7_pano.jpeg.")
    report = fill(cache_config(tmp_path), encoders, train=FakeFootage(3, faults=faults, problems=[listed]))
    assert report.problems == (
        listed,
        Problem(
            item="place0",
            reason="It has 2 views of 48 x 32 pixels where 3 of 48 x 32 are needed. "
            "Give it other pictures, or change the configured shot. Its 2 clips are left out.",
        ),
        Problem(item="place1/whuman/01", reason="gone"),
        Problem(item="place1/wohuman/01", reason="gone too"),
        Problem(item="place1", reason="None of its 2 clips can be used; it is left out."),
    )
    assert (tmp_path / "problems.txt").read_text().splitlines()[0] == f"listing\tplace7\t{listed.reason}"
    cache = EncodedCache(tmp_path, "train")
    assert [clip.place for clip in cache.items] == ["place2", "place2"]
    alone = encoders.vae.encode(pictures("place2", 1)[None])[0, :, 0]
    # Convolutions of several pictures at once round differently in the last digits.
    torch.testing.assert_close(cache.sample(0).view_latents[0], alone, rtol=0, atol=1e-6)


def test_latents_that_are_not_finite_are_a_problem(tmp_path, encoders):
    class Overflowing:
        def encode(self, frames):
            latents = encoders.vae.encode(frames)
            return latents * (torch.inf if frames.shape[1] > 1 else 1)

    broken = dataclasses.replace(encoders, vae=Overflowing())
    with pytest.raises(FileFormatError, match=r"The first of 3 problems is place0/whuman/01: The latents of the clip"):
        fill(cache_config(tmp_path), broken, train=FakeFootage(1))


def test_a_split_of_which_nothing_is_good_is_an_error(tmp_path, encoders):
    footage = FakeFootage(1, "held", faults={"held0": OSError("no picture.")})
    sentence = (
        r"^No clip for validation could be encoded\. The first of 1 problems is held0: no picture\. "
        r"Its 2 clips are left out\. problems\.txt names the shard of each\. After a repair, delete that shard and run"
    )
    with pytest.raises(FileFormatError, match=sentence):
        fill(cache_config(tmp_path), encoders, train=FakeFootage(1), validation=footage)
    assert len(EncodedCache(tmp_path, "train")) == 2
    with pytest.raises(
        FileFormatError, match=r"None of the validation clips could be encoded; .*problems\.txt says why"
    ):
        EncodedCache(tmp_path, "validation")


def test_a_split_that_the_source_has_no_clips_for_is_an_error(tmp_path, encoders):
    sentence = r"^No clip for test could be encoded\. The source lists none\. Add places, or hold out fewer\.$"
    with pytest.raises(FileFormatError, match=sentence):
        fill(cache_config(tmp_path), encoders, train=FakeFootage(1), test=FakeFootage(0))


# Kills, full disks and damage


def _build_in_child(config, encoders, told, writes):
    """Build, and tell of each step; of the shard after `writes` others only half is written, then nothing goes on."""
    save, made = shards_module.save_file, []

    def save_half(tensors, path, metadata):
        save(tensors, path, metadata=metadata)
        if len(made) == writes:
            os.truncate(path, path.stat().st_size // 2)
            told.send("half a shard")
            time.sleep(600)
        made.append(path)

    shards_module.save_file = save_half
    fill(config, encoders, train=FakeFootage(12), on_progress=lambda *news: told.send(news))


def _kill_a_build(config, encoders, *, writes, steps=None, pause=0.0):
    """Build in another process; kill it some time after `steps` steps, or while it writes a shard."""
    context = multiprocessing.get_context("fork")
    hear, tell = context.Pipe(duplex=False)
    process = context.Process(target=_build_in_child, args=(config, encoders, tell, writes))
    process.start()
    heard = []
    while len(heard) != steps and "half a shard" not in heard:
        heard.append(hear.recv())
    time.sleep(pause)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_build_killed_at_any_moment_goes_on_to_the_same_shards(tmp_path, encoders):
    whole, broken = cache_config(tmp_path / "whole"), cache_config(tmp_path / "broken")
    fill(whole, encoders, train=FakeFootage(12))
    chance = random.Random(5)
    for writes in (0, 1):
        _kill_a_build(broken, encoders, writes=99, steps=chance.randint(1, 6), pause=chance.uniform(0, 0.03))
        _kill_a_build(broken, encoders, writes=writes)
        assert len(list(broken.folder.glob(".train-*.safetensors"))) == 1  # the half that a kill leaves
    _kill_a_build(broken, encoders, writes=99, steps=chance.randint(3, 6), pause=chance.uniform(0, 0.03))
    standing = sorted(shards(broken.folder))
    assert 0 < len(standing) < 6
    assert all(shards(broken.folder)[name] == shards(whole.folder)[name] for name in standing)
    report = fill(broken, encoders, train=FakeFootage(12))
    assert report.notes == ()
    assert report.splits[0].made == 6 - len(standing)
    assert shards(broken.folder) == shards(whole.folder)
    assert sorted(path.name for path in broken.folder.iterdir()) == sorted(path.name for path in whole.folder.iterdir())
    EncodedCache(broken.folder, "train").verify()


def test_what_a_kill_left_half_written_is_removed(tmp_path, encoders):
    (tmp_path / ".train-00001-0123abcd.safetensors").write_bytes(b"half")
    (tmp_path / ".index-0123abcd.json").write_bytes(b"half")
    (tmp_path / ".mine.safetensors").write_bytes(b"not the cache's")
    fill(cache_config(tmp_path), encoders, train=FakeFootage(1))
    assert sorted(path.name for path in tmp_path.glob(".*")) == [".mine.safetensors"]


def test_damaged_shards_are_found_named_and_made_again(tmp_path, encoders):
    config = cache_config(tmp_path)
    fill(config, encoders, train=FakeFootage(6))
    before = shards(tmp_path)
    cut, flipped = tmp_path / "train-00000.safetensors", tmp_path / "train-00002.safetensors"
    cut.write_bytes(before[cut.name][:-100])
    content = bytearray(before[flipped.name])
    content[-5] ^= 4
    flipped.write_bytes(content)
    with pytest.raises(
        DamagedShardError, match=r"^The shard train-00000\.safetensors is cut short or damaged \(.*is truncated: 100 "
    ):
        EncodedCache(tmp_path, "train")
    cut.write_bytes(before[cut.name])
    cache = EncodedCache(tmp_path, "train")  # headers say nothing of the flipped value
    with pytest.raises(
        DamagedShardError, match=r"^1 of 3 shards are damaged: train-00002\.safetensors\. Run cinescene"
    ):
        cache.verify()
    cut.write_bytes(before[cut.name][: len(before[cut.name]) // 2])
    report = fill(config, encoders, train=FakeFootage(6))
    assert [note.split(" was damaged and was made again")[0] for note in report.notes] == [cut.name, flipped.name]
    assert report.splits[0].made == 2
    assert shards(tmp_path) == before


def test_a_full_disk_leaves_a_cache_that_the_next_run_completes(tmp_path, encoders, monkeypatch):
    config, save = cache_config(tmp_path), shards_module.save_file
    written = []

    def fill_up(tensors, path, metadata):
        if written:
            path.write_bytes(b"as much as there was room for")
            raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")
        written.append(path)
        save(tensors, path, metadata=metadata)

    monkeypatch.setattr(shards_module, "save_file", fill_up)
    with pytest.raises(OSError, match=r"^Cannot write .*train-00001\.safetensors: the disk is full\. .* Free"):
        fill(config, encoders, train=FakeFootage(4))
    assert [path.name for path in tmp_path.iterdir()] == ["train-00000.safetensors"]
    with pytest.raises(
        DamagedShardError, match=r"The shard train-00001\.safetensors is missing from .*\. Run cinescene"
    ):
        EncodedCache(tmp_path, "train")
    monkeypatch.undo()
    assert [(count.made, count.clips) for count in fill(config, encoders, train=FakeFootage(4)).splits] == [(1, 8)]
