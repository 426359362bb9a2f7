"""Rendered places as a dataset."""

import threading
import time
import warnings

import pytest
import torch

from cinescene_core.config import ViewConfig
from cinescene_core.views import slice_panorama
from cinescene_training.data.footage import Footage
from cinescene_training.render import RoomFootage, place_seed, render, sample_places, sample_shots, shots
from cinescene_training.render.version import RENDER_VERSION


@pytest.fixture(scope="module")
def footage() -> RoomFootage:
    return RoomFootage(
        "train", 2, clips_per_place=3, num_frames=9, width=48, height=32, samples=2, panorama_width=384
    )  # fmt: skip


def test_it_is_footage_and_lists_twins_by_name(footage):
    as_protocol: Footage = footage
    assert [place.name for place in as_protocol.places] == ["room_train_000000", "room_train_000001"]
    assert [clip.name for clip in as_protocol.clips[:4]] == [
        "room_train_000000/whuman/01", "room_train_000000/wohuman/01",
        "room_train_000000/whuman/02", "room_train_000000/wohuman/02",
    ]  # fmt: skip
    assert len(as_protocol.clips) == 2 * 3 * 2
    assert not as_protocol.problems
    places = sample_places([place_seed("train", 1)])
    with_subject, without = as_protocol.clips[6:8]
    assert with_subject.has_subject
    assert with_subject.caption == places.captions[0]
    assert not without.has_subject
    assert without.caption == places.place_captions[0]


def test_twins_share_their_path_and_differ_by_the_subject(footage):
    name, twin = "room_train_000001/whuman/02", "room_train_000001/wohuman/02"
    path, other = footage.trajectory(name), footage.trajectory(twin)
    assert torch.equal(path.world_from_camera, other.world_from_camera)
    assert len(path) == 9
    assert footage.plan(name).move in path.provenance
    having, missing = footage.frames(name, 5), footage.frames(twin, 5)
    assert having.shape == (5, 32, 48, 3)
    mask = footage.subject_mask(name, 5)
    assert mask.any()
    assert not footage.subject_mask(twin, 5).any()
    assert (having - missing).abs().mean(-1)[mask].mean() > 5 * (having - missing).abs().mean(-1)[~mask].mean()


def test_the_first_view_is_frame_0_without_the_subject_and_the_ring_is_the_panoramas(footage):
    config = ViewConfig(num_views=4, fov_degrees=90, width=48, height=32)
    views = footage.views("room_train_000000", config)
    start = footage.frames("room_train_000000/wohuman/03", 1)
    assert torch.equal(views.images[0], start[0])
    sliced = slice_panorama(footage.panorama("room_train_000000"), config)
    # The panorama is softer by its own bilinear lookup.
    assert (sliced.images - views.images).abs().mean() < 0.02
    torch.testing.assert_close(sliced.world_from_camera, views.world_from_camera)


def test_depth_is_that_of_the_renderer(footage):
    name = "room_train_000001/whuman/01"
    places = sample_places([place_seed("train", 1)])
    poses = footage.trajectory(name).world_from_camera[None, :3]
    expected = render(places, poses, 90, 48, 32, time=torch.arange(3)[None] / 15)
    assert torch.equal(footage.depth(name, 3), expected.depth[0])
    assert torch.equal(footage.subject_mask(name, 3), expected.subject[0])


def test_frames_come_out_the_same_whenever_and_however_many_are_asked_for(footage):
    name = "room_train_000001/whuman/03"
    assert torch.equal(footage.frames(name, 5)[:2], footage.frames(name, 2))


def test_courtyards_have_names_of_their_own():
    footage = RoomFootage("test", 1, kind="courtyard", clips_per_place=1, num_frames=5, width=32, height=16, samples=1)
    assert footage.clips[0].name == "courtyard_test_000000/whuman/01"
    assert footage.clips[0].caption.split(" with ")[0].endswith("courtyard")
    assert footage.frames(footage.clips[0].name, 1).shape == (1, 16, 32, 3)


def test_threads_that_plan_at_once_leave_the_filters_of_warnings_as_they_were(monkeypatch):
    plan, both_are_in, first_is_out = shots.preset_trajectory, threading.Event(), threading.Event()

    def overlapping(*args, **settings):
        """The first waits for the second to come in, which goes out after it; with a lock neither waits for ever."""
        if threading.current_thread().name == "first":
            both_are_in.wait(0.5)
        else:
            both_are_in.set()
            first_is_out.wait(10)
        return plan(*args, **settings)

    monkeypatch.setattr(shots, "preset_trajectory", overlapping)
    before = list(warnings.filters)
    first, second = (
        threading.Thread(target=sample_shots, args=(1, 1), kwargs={"num_frames": 5}, name=name)
        for name in ("first", "second")
    )
    first.start()
    time.sleep(0.1)
    second.start()
    first.join()
    first_is_out.set()
    second.join()
    assert warnings.filters == before


def test_bad_requests_are_refused_in_a_sentence(footage):
    with pytest.raises(
        ValueError, match=r"no clip 'room_train_000009/whuman/01' in this footage; clips are named like"
    ):
        footage.frames("room_train_000009/whuman/01", 1)
    with pytest.raises(ValueError, match="There is no clip 'room_train_000000/whuman/04'"):
        footage.trajectory("room_train_000000/whuman/04")
    with pytest.raises(ValueError, match="There is no clip 'room_train_000000/whuman/03/old'"):
        footage.trajectory("room_train_000000/whuman/03/old")
    with pytest.raises(ValueError, match="There is no place 'here' in this footage; places are named like"):
        footage.views("here", ViewConfig())
    with pytest.raises(ValueError, match="has 9 frames; got a request for 10"):
        footage.frames("room_train_000000/whuman/01", 10)
    with pytest.raises(ValueError, match="clips_per_place must be 1 to 14, one per move; got 0"):
        RoomFootage("train", 1, clips_per_place=0)
    with pytest.raises(ValueError, match="split must be one of"):
        RoomFootage("training", 1)
    with pytest.raises(ValueError, match="kind of place must be one of"):
        RoomFootage("train", 1, kind="cave")
    with pytest.raises(ValueError, match="The train split has places 0 to"):
        RoomFootage("train", 0)


@pytest.mark.parametrize(
    ("kind", "caption", "quarters", "travelled"),
    [
        (
            "room",
            "a pink cone slides backward in a white zigzag room with five boxes",
            [[0.6664, 0.3664], [0.5423, 0.3674]],
            0.557604,
        ),
        (
            "courtyard",
            "a blue snowman spins in a red striped courtyard with three boxes",
            [[0.5995, 0.4971], [0.4625, 0.4514]],
            2.137889,
        ),
    ],
)
def test_the_pictures_of_this_version(kind, caption, quarters, travelled):
    """Where this fails and the change is meant, raise RENDER_VERSION and write down what the new one makes."""
    assert RENDER_VERSION == 1
    yard = RoomFootage("train", 1, kind=kind, clips_per_place=2, num_frames=5, width=48, height=32)
    clip = yard.clips[2]
    assert clip.caption == caption
    end = yard.trajectory(clip.name).world_from_camera[-1, :3, 3]
    torch.testing.assert_close(end, torch.tensor([travelled, 0, 0]).double(), rtol=0, atol=1e-5)
    last = yard.frames(clip.name, 5)[-1]
    found = last.reshape(2, 16, 2, 24, 3).mean((1, 3, 4))  # a quarter of the picture each
    # Another processor may put an edge on the other side of a sample: of 1536 in a quarter, a few.
    torch.testing.assert_close(found, torch.tensor(quarters), rtol=0, atol=2e-3)
