"""Rendered rooms as a dataset on disk: what the reader of the released layout finds there."""

from pathlib import Path

import pytest
import torch

from cinescene_core.config import ViewConfig
from cinescene_training.data.footage import WITH_SUBJECT
from cinescene_training.data.layout import SceneDecoupledFootage
from cinescene_training.data.listing import SceneFiles, environment_of
from cinescene_training.render import RoomFootage, writing
from cinescene_training.render.blender import CyclesSettings
from cinescene_training.render.options import BlenderConfig, RenderConfig, RoomsConfig, jobs_of, load_render_config
from cinescene_training.render.writing import write_rooms
from cinescene_training.settings import SettingsError

CONFIGS = Path(__file__).parents[1] / "configs"
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
        assert read.caption == rendered.caption
    acted, empty = (next(clip.caption for clip in dataset.clips if clip.has_subject == has) for has in (True, False))
    assert acted.endswith(f" in {empty}")  # the twin says of the place what the clip with the subject says


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


def render_config(**changes):
    return RenderConfig(**{"out": "data", "blender": BlenderConfig(**changes.pop("blender", {})), **changes})


def test_sets_are_named_as_one_environment_of_the_released_dataset_and_keep_every_setting():
    blender = {"seeds": (3, 5), "moves": ("pan_left=20",), "depth": False, "cycles": CyclesSettings(samples=7)}
    jobs = jobs_of(render_config(blender=blender, fps=12.0, fov_degrees=60.0, num_frames=9, panorama_width=512))
    assert [(job.seed, job.name) for job in jobs] == [
        (3, "scene0_1x1_loc3_scene_courtyard"),
        (5, "scene0_1x1_loc5_scene_courtyard"),
    ]
    assert {environment_of(job.name) for job in jobs} == {"courtyard"}
    for job in jobs:
        assert (job.fps, job.fov_degrees, job.num_frames, job.panorama_width) == (12.0, 60.0, 9, 512)
        assert (job.width, job.height, job.moves, job.depth, job.cycles.samples) == (
            672,
            384,
            ("pan_left=20",),
            False,
            7,
        )


def test_sets_that_stand_are_kept_and_pictures_are_counted_over_the_rest(tmp_path, monkeypatch):
    jobs = jobs_of(render_config(out=tmp_path, blender={"seeds": (0, 1, 2)}))
    stood = SceneFiles(tmp_path, jobs[1].name).camera_file(WITH_SUBJECT)
    stood.parent.mkdir(parents=True)
    stood.touch()
    rendered, told = [], []

    def render(job, on_picture):
        rendered.append(job.seed)
        on_picture(1, 2)
        on_picture(2, 2)

    monkeypatch.setattr(writing, "render_blender", render)
    assert writing.write_sets(jobs, lambda done, total: told.append((done, total))) == 2
    assert rendered == [0, 2]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rooms": RoomsConfig()}, "give either 'rooms' or 'blender'"),
        ({"num_frames": 80}, r"num_frames must be 4n \+ 1"),
        ({"width": 671}, "width must be even, as videos are; got 671. Use 672."),
        ({"panorama_width": 0}, "panorama_width must be a positive number; got 0"),
        ({"fps": 0.0}, "fps must be a positive number"),
        ({"fov_degrees": 180.0}, "fov_degrees must lie between 0 and 180; got 180.0"),
        ({"blender": {"seeds": ()}}, r"seeds must be one or more different numbers, 0 or more; got \[\]"),
        ({"blender": {"seeds": (1, 1)}}, r"different numbers, 0 or more; got \[1, 1\]"),
        ({"blender": {"source": "a.blend", "seeds": (1,)}}, "seeds vary scripted sets only, and a.blend is one place"),
    ],
)
def test_what_cannot_be_rendered_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        render_config(**changes)
    with pytest.raises(ValueError, match="supersampling must be a positive number; got 0"):
        RoomsConfig(supersampling=0)


@pytest.mark.parametrize("name", ["render_rooms", "render_blender"])
def test_the_shipped_files_are_the_released_size(name):
    config = load_render_config(CONFIGS / f"{name}.yaml")
    # reference: 81 frames at 15 frames per second; 672 x 384 as trained; seven paths a place.
    assert (config.width, config.height, config.num_frames, config.fps) == (672, 384, 81, 15.0)
    paths = config.rooms.clips_per_place if config.rooms else len(config.blender.moves)
    assert paths == 7


def test_a_section_refuses_settings_of_the_other():
    """Nothing is given and ignored: rooms have no light paths, a set no split."""
    for file, field in (("render_rooms", "rooms.samples=4"), ("render_blender", "blender.split=test")):
        with pytest.raises(SettingsError, match=f"There is no field '{field.split('=')[0]}'"):
            load_render_config(CONFIGS / f"{file}.yaml", [field])
