"""Shards: every changed bit is found, nothing is written that its record does not describe, items do not get lost."""

import dataclasses
import hashlib
import json
import random
import struct

import pytest
import torch
from fake_footage import FRAMES, SHOT, VIEWS, cache_config, fake_fingerprint
from safetensors.torch import load_file, save_file

from cinescene_core.checks import FileFormatError
from cinescene_training.config import as_record
from cinescene_training.data.cache import EncodedCache
from cinescene_training.data.fingerprint import Fingerprint
from cinescene_training.data.footage import ClipItem, PlaceItem, Problem
from cinescene_training.data.shards import (
    SHARD_KEY,
    DamagedShardError,
    ShardRecord,
    plan_shards,
    read_record,
    verify_shard,
    write_shard,
)
from cinescene_training.settings import build

CLIPS = (ClipItem(name="p/whuman/01", place="p", caption="a red ball", has_subject=True),)


def a_record(tmp_path, **changes):
    made = fake_fingerprint(cache_config(tmp_path))
    record = ShardRecord(
        fingerprint=made,
        split="train",
        number=0,
        count=1,
        plan="f" * 16,
        places=("p",),
        clips=CLIPS,
        captions=("", "a red ball"),
        text_rows=(0, 3),
        text_length=5,
        text_width=4,
        grid=(2, 3),
        feature_width=7,
        problems=(Problem(item="q", reason="No picture."),),
    )
    return dataclasses.replace(record, **changes)


def some_tensors(record, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(info.shape, generator=generator) for name, info in record.tensors().items()}


@pytest.fixture
def shard(tmp_path):
    record = a_record(tmp_path)
    path = tmp_path / "train-00000.safetensors"
    write_shard(path, some_tensors(record), record)
    return path


def test_the_record_and_every_value_come_back(shard, tmp_path):
    record = a_record(tmp_path)
    read = verify_shard(shard)
    assert dataclasses.replace(read, values="") == record
    assert len(read.values) == 64
    held, wanted = load_file(shard), some_tensors(record)
    assert held.keys() == wanted.keys()
    assert all(torch.equal(held[name], wanted[name]) for name in wanted)


def test_the_shapes_are_those_of_the_shot(tmp_path):
    shapes = {name: info.shape for name, info in a_record(tmp_path).tensors().items()}
    assert (VIEWS, FRAMES) == (3, 5)  # 48 x 32 pixels: latents of 6 x 4, two latent frames
    assert shapes == {
        "place.0.latents": (3, 16, 4, 6),
        "place.0.patch": (3, 6, 7),
        "place.0.camera": (3, 1, 7),
        "clip.0.latents": (16, 2, 4, 6),
        "clip.0.poses": (2, 3, 4),
        "text.0": (0, 4),
        "text.1": (3, 4),
    }


def test_equal_content_gives_equal_bytes(shard, tmp_path):
    record = a_record(tmp_path)
    again = tmp_path / "again.safetensors"
    write_shard(again, dict(reversed(some_tensors(record).items())), record)
    assert again.read_bytes() == shard.read_bytes()


def test_every_flipped_bit_is_found(shard):
    whole = shard.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    chance = random.Random(0)
    # All of the length, and bits spread over header and values.
    places = [*range(8), *chance.sample(range(8, 8 + length), 60), *chance.sample(range(8 + length, len(whole)), 60)]
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << chance.randrange(8)
        shard.write_bytes(content)
        with pytest.raises(DamagedShardError, match=r"train-00000\.safetensors .* Run cinescene-train cache again"):
            verify_shard(shard)
    shard.write_bytes(whole)
    verify_shard(shard)


def test_every_cut_is_found_from_the_header(shard):
    whole = shard.read_bytes()
    for length in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        shard.write_bytes(whole[:length])
        with pytest.raises(DamagedShardError, match=r"The shard train-00000\.safetensors is cut short or damaged \("):
            read_record(shard)


def _rewrite(path, change):
    """Change the envelope of a shard as someone would who does not know of the digests."""
    header_and_values = path.read_bytes()
    (length,) = struct.unpack("<Q", header_and_values[:8])
    envelope = json.loads(json.loads(header_and_values[8 : 8 + length])["__metadata__"][SHARD_KEY])
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    change(envelope, tensors)
    save_file(tensors, path, metadata={SHARD_KEY: json.dumps(envelope)})


def _digest_of(record):
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def test_a_record_that_was_edited_is_refused(shard):
    def edit(envelope, tensors):
        envelope["record"]["clips"][0]["caption"] = "a blue ball"

    _rewrite(shard, edit)
    with pytest.raises(DamagedShardError, match=r"is damaged: its record is not what its digest says\. Run cinescene"):
        read_record(shard)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda tensors: tensors.pop("clip.0.poses"),
            r"does not hold what its record says: 1 missing: clip\.0\.poses\. Run",
        ),
        (
            lambda tensors: tensors.update({"text.1": torch.zeros(2, 4)}),
            r"1 of another shape: text\.1 is \[2, 4\] where \[3, 4\] is needed",
        ),
        (
            lambda tensors: tensors.update({"clip.0.poses": torch.zeros(2, 3, 4, dtype=torch.int32)}),
            r"does not hold what its record says: clip\.0\.poses is I32\. Run",
        ),
    ],
)
def test_tensors_that_the_record_does_not_describe_are_refused(shard, change, sentence):
    _rewrite(shard, lambda envelope, tensors: change(tensors))
    with pytest.raises(DamagedShardError, match=sentence):
        read_record(shard)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda record: record["fingerprint"].update(format=2),
            r"^The shard train-00000\.safetensors is of format 2; this version reads 1\. Update the training studio",
        ),
        (
            lambda record: record.update(sound="stereo"),
            r"is of another version of the training studio \(There is no field 'sound'.*\)\. Run cinescene-train cache",
        ),
    ],
)
def test_a_shard_of_another_version_is_refused_but_not_called_damaged(shard, change, sentence):
    def edit(envelope, tensors):
        change(envelope["record"])
        envelope["digest"] = _digest_of(envelope["record"])

    _rewrite(shard, edit)
    with pytest.raises(FileFormatError, match=sentence) as caught:
        read_record(shard)
    assert not isinstance(caught.value, DamagedShardError)


def test_nothing_is_written_that_the_record_does_not_describe(tmp_path):
    record = a_record(tmp_path)
    tensors = some_tensors(record)
    tensors["text.1"] = tensors["text.1"][:2]
    with pytest.raises(ValueError, match=r"its tensors are not those of its record: 1 of another shape: text\.1"):
        write_shard(tmp_path / "a.safetensors", tensors, record)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("clip.0.latents", "p/whuman/01"),
        ("place.0.patch", "p"),
        ("text.1", "p/whuman/01"),
        ("clip.0.poses", "p/whuman/01"),
    ],
)
def test_values_that_are_not_finite_are_refused_with_clip_and_shard(tmp_path, name, item):
    record = a_record(tmp_path)
    tensors = some_tensors(record)
    tensors[name][0, 0] = torch.inf
    write_shard(tmp_path / "train-00000.safetensors", tensors, record)
    cache = EncodedCache(tmp_path, "train")
    sentence = (
        rf"^{name} of {item} in train-00000\.safetensors holds \d+ NaN or infinite values .* Delete that shard and"
    )
    with pytest.raises(FileFormatError, match=sentence):
        cache.sample(0)


def test_zeros_behind_a_caption_come_back(shard, tmp_path):
    cache = EncodedCache(tmp_path, "train")
    rows = some_tensors(a_record(tmp_path))["text.1"]
    assert torch.equal(cache.sample(0).text, torch.cat([rows, torch.zeros(2, 4)]))
    assert torch.equal(cache.empty_text(), torch.zeros(5, 4))


# Which item belongs where


def test_each_item_is_in_exactly_one_shard_whatever_the_listing_order():
    places = [PlaceItem(name=f"p{i}", environment=f"e{i // 2}") for i in range(7)]
    clips = [
        ClipItem(name=f"{place.name}/{n}", place=place.name, caption="", has_subject=False)
        for place in places
        for n in range(2)
    ]
    plans = plan_shards("test", places, clips, 3)
    assert [[place.name for place in plan.places] for plan in plans] == [["p0", "p1", "p2"], ["p3", "p4", "p5"], ["p6"]]
    assert [plan.file_name for plan in plans] == [f"test-0000{number}.safetensors" for number in range(3)]
    assert sorted(clip.name for plan in plans for clip in plan.clips) == sorted(clip.name for clip in clips)
    assert all(clip.place in {place.name for place in plan.places} for plan in plans for clip in plan.clips)
    random.Random(1).shuffle(places)
    random.Random(2).shuffle(clips)
    assert plan_shards("test", places, clips, 3) == plans
    # A caption, an item or a place more changes the digest of its shard.
    changed = [dataclasses.replace(clip, caption="new") if clip.name == "p4/1" else clip for clip in clips]
    same = [a.digest() == b.digest() for a, b in zip(plans, plan_shards("test", places, changed, 3), strict=True)]
    assert same == [True, False, True]


def test_a_shard_needs_a_place():
    with pytest.raises(ValueError, match=r"places_per_shard must be a positive number; got 0"):
        plan_shards("train", [], [], 0)


def test_a_fingerprint_survives_json(tmp_path):
    made = fake_fingerprint(cache_config(tmp_path), commit="abc-dirty", calibration_digest="12")
    assert build(Fingerprint, json.loads(json.dumps(as_record(made)))) == made
    assert made.shot == SHOT
