"""Rendered rooms as a dataset on disk: what the reader of the released layout finds there."""

from pathlib import Path

import pytest
import torch

from cinescene_core.checks import FileFormatError
from cinescene_core.config import ViewConfig
from cinescene_training.data.footage import WITH_SUBJECT
from cinescene_training.data.layout import SceneDecoupledFootage
from cinescene_training.data.listing import SceneFiles, environment_of
from cinescene_training.render import RoomFootage, place_seed, render, sample_places, writing
from cinescene_training.render.blender import CyclesSettings
from cinescene_training.render.options import BlenderConfig, RenderConfig, RoomsConfig, jobs_of, load_render_config
from cinescene_training.render.version import RENDER_VERSION
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
    # The view is sampled twice, by the panorama and from it, and the frame is compressed: edges soften.
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


def test_the_sky_is_infinitely_far_in_files(tmp_path):
    yards = RoomFootage("train", 1, kind="courtyard", clips_per_place=1, **SIZE)
    write_rooms(tmp_path, yards)
    dataset = SceneDecoupledFootage(tmp_path)
    depth = dataset.depth(dataset.clips[0].name, 5)
    poses = yards.trajectory(yards.clips[0].name).world_from_camera[None]
    sky = render(sample_places([place_seed("train", 0)], "courtyard"), poses, 90.0, 96, 64).sky[0]
    assert sky.any()
    assert torch.equal(depth.isinf(), sky)


def test_places_that_stand_are_kept(written, tmp_path):
    rooms, dataset = written
    told = []
    assert write_rooms(dataset.root, rooms, on_place=lambda done, total: told.append((done, total))) == 0
    assert told == [(1, 1)]


def test_a_dataset_is_of_one_size_and_one_way_of_rendering(tmp_path, monkeypatch):
    size = SIZE | {"width": 32, "height": 32, "samples": 1, "panorama_width": 64}
    write_rooms(tmp_path, RoomFootage("train", 1, clips_per_place=1, **size))
    before = (tmp_path / "render.json").read_bytes()
    for changes, field in (
        ({"width": 64}, "width = 32, and this run wants 64"),
        ({"num_frames": 9}, "num_frames = 5, and this run wants 9"),
        ({"samples": 2}, "rooms.supersampling = 1, and this run wants 2"),
    ):
        with pytest.raises(FileFormatError, match=rf"was rendered with {field}\. Render into another folder, or with"):
            write_rooms(tmp_path, RoomFootage("train", 2, clips_per_place=1, **(size | changes)))
    with pytest.raises(FileFormatError, match=r"with rooms\.clips_per_place = 1, and this run wants 2"):
        write_rooms(tmp_path, RoomFootage("train", 2, clips_per_place=2, **size))
    with monkeypatch.context() as patch:
        patch.setattr(writing, "RENDER_VERSION", RENDER_VERSION + 1)
        with pytest.raises(FileFormatError, match=r"with rooms\.render_version = "):
            write_rooms(tmp_path, RoomFootage("train", 2, clips_per_place=1, **size))
    assert (tmp_path / "render.json").read_bytes() == before
    # More places, of any split and kind, are what the folder is for.
    assert write_rooms(tmp_path, RoomFootage("test", 1, kind="courtyard", clips_per_place=1, **size)) == 1
    assert [place.name for place in SceneDecoupledFootage(tmp_path).places] == [
        "courtyard_test_000000",
        "room_train_000000",
    ]
    (tmp_path / "render.json").write_text("{")
    with pytest.raises(FileFormatError, match=r"render\.json is not JSON .* Restore it, or render into another folder"):
        write_rooms(tmp_path, RoomFootage("train", 1, clips_per_place=1, **size))
    (tmp_path / "render.json").write_text("[]")
    with pytest.raises(FileFormatError, match=r"render\.json must hold settings by name\. Restore it"):
        write_rooms(tmp_path, RoomFootage("train", 1, clips_per_place=1, **size))
    (tmp_path / "render.json").unlink()
    with pytest.raises(FileFormatError, match=r"holds room_train_000000, and no render\.json says how it was"):
        write_rooms(tmp_path, RoomFootage("train", 1, clips_per_place=1, **size))


def test_a_set_is_rendered_in_one_way(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "render_blender", lambda job, on_picture: stand(job))

    def sets(blender, **changes):
        return jobs_of(render_config(out=tmp_path, blender=blender, **changes))

    assert writing.write_sets(sets({"moves": ("pan_left=20",)})) == 1
    assert writing.write_sets(sets({"moves": ("pan_left=20",), "seeds": (0, 1)})) == 1  # another place of the set
    on_a_card = CyclesSettings(device="CUDA")
    assert writing.write_sets(sets({"moves": ("pan_left=20",), "cycles": on_a_card})) == 0
    with pytest.raises(FileFormatError, match=r"with blender\.courtyard\.moves = \['pan_left=20'\], and this run"):
        writing.write_sets(sets({"seeds": (2,)}))
    with pytest.raises(FileFormatError, match=r"with blender\.courtyard\.cycles\.samples = 64, and this run wants 8"):
        writing.write_sets(sets({"moves": ("pan_left=20",), "cycles": CyclesSettings(samples=8)}))
    with pytest.raises(FileFormatError, match=r"with fps = 15\.0, and this run wants 12\.0"):
        writing.write_sets(sets({"moves": ("pan_left=20",), "seeds": (2,)}, fps=12.0))
    (tmp_path / "render.json").unlink()
    with pytest.raises(FileFormatError, match=r"holds scene0_1x1_loc1_scene_courtyard, and no render\.json says"):
        writing.write_sets(sets({"seeds": (2, 1)}))


def stand(job):
    """As if the place had been rendered."""
    last = SceneFiles(Path(job.root), job.name).camera_file(WITH_SUBJECT)
    last.parent.mkdir(parents=True)
    last.touch()


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
    rendered, told = [], []

    def render(job, on_picture):
        rendered.append(job.seed)
        on_picture(1, 2)
        on_picture(2, 2)

    monkeypatch.setattr(writing, "render_blender", lambda job, on_picture: stand(job))
    assert writing.write_sets(jobs[1:2]) == 1
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
    for name in ("places", "supersampling"):
        with pytest.raises(ValueError, match=f"{name} must be a positive number; got 0"):
            RoomsConfig(**{name: 0})


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
