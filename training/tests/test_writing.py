"""Rendered rooms as a dataset on disk: what the reader of the released layout finds there."""

import pytest
import torch

from cinescene_core.config import ViewConfig
from cinescene_training.data.layout import SceneDecoupledFootage
from cinescene_training.render import RoomFootage
from cinescene_training.render.writing import write_rooms

SIZE = {"num_frames": 5, "width": 96, "height": 64, "samples": 2, "panorama_width": 512}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A place with two moves, as rendered and as a dataset."""
    root = tmp_path_factory.mktemp("dataset")
    rooms = RoomFootage("train", 1, clips_per_place=2, **SIZE)
    assert write_rooms(root, rooms) == 1
    return rooms, SceneDecoupledFootage(root)


def pairs(written):
    """Each rendered clip with its file's name."""
    rooms, dataset = written
    names = {(clip.place, clip.name.split("/")[1], clip.name.split("/")[2][:2]): clip for clip in dataset.clips}
    return [(clip, names[tuple(clip.name.split("/"))]) for clip in rooms.clips]


def test_every_clip_is_there_with_its_words(written):
    _, dataset = written
    assert not dataset.problems
    assert len(dataset.clips) == 4
    for rendered, read in pairs(written):
        assert read.has_subject == rendered.has_subject
        assert rendered.caption if read.has_subject else True
        if read.has_subject:
            assert read.caption == rendered.caption


def test_paths_and_pictures_come_back(written):
    rooms, dataset = written
    for rendered, read in pairs(written):
        path = dataset.trajectory(read.name)
        torch.testing.assert_close(path.relative(), rooms.trajectory(rendered.name).relative(), rtol=0, atol=1e-6)
        assert float(path.fov_degrees[0]) == pytest.approx(90)
        frames = dataset.frames(read.name, 5)
        # H.264 at high quality: a few levels of 255 on average.
        assert (frames - rooms.frames(rendered.name, 5)).abs().mean() < 6 / 255


def test_the_panoramas_start_view_is_the_first_frame(written):
    rooms, dataset = written
    config = ViewConfig(num_views=3, width=96, height=64)
    place = dataset.places[0].name
    views = dataset.views(place, config)
    first = dataset.frames(next(clip.name for clip in dataset.clips if not clip.has_subject), 1)[0]
    # The panorama has five pixels a degree less than the picture at its centre: edges soften.
    assert (views.images[0] - first).abs().mean() < 8 / 255
    assert (views.images[1] - rooms.views(place, config).images[1]).abs().mean() < 8 / 255


def test_depth_and_masks_come_along(written):
    rooms, dataset = written
    for rendered, read in pairs(written):
        if read.has_subject:
            mask = dataset.subject_mask(read.name, 5)
            assert torch.equal(mask > 0.5, rooms.subject_mask(rendered.name, 5))
        else:
            depth, wanted = dataset.depth(read.name, 5), rooms.depth(rendered.name, 5)
            torch.testing.assert_close(depth, wanted, rtol=1e-3, atol=0)  # stored as float16


def test_places_that_stand_are_kept(written, tmp_path):
    rooms, dataset = written
    told = []
    assert write_rooms(dataset.root, rooms, on_place=lambda done, total: told.append((done, total))) == 0
    assert told == [(1, 1)]
