"""Planning a list: what decides a shot, what the place cannot serve, and how a panorama is cut for each row."""

import dataclasses

import pytest
import torch
from tiny_lists import LIST, SETTINGS, cached_nano, rows_of, small_scene, stand_in_for_filming, two_views

from cinescene_core.cameras import pose_from, rotation_from_angles
from cinescene_core.checks import FileFormatError
from cinescene_core.config import SamplingConfig, SpeedConfig
from cinescene_core.scene import load_scene
from cinescene_core.shots import film_shots, plan_shots
from cinescene_core.shots.film import SCENE_FOLDER
from cinescene_core.trajectory import preset_trajectory, save_trajectory

pytestmark = pytest.mark.filterwarnings("ignore::cinescene_core.checks.CineSceneWarning")


@pytest.fixture(scope="module")
def models():
    return cached_nano()


@pytest.fixture(scope="module")
def place():
    return two_views()


@pytest.fixture(scope="module")
def scene():
    return small_scene()


@pytest.fixture
def rows(tmp_path):
    return rows_of(tmp_path)


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def stand_in(monkeypatch):
    """Filming that takes no time; the names of the prompts filmed."""
    return stand_in_for_filming(monkeypatch)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("a dog", "a dag"),
        lambda text: text.replace("20,2", "20,4"),
        lambda text: text.replace("pan_left 20", "pan_left 21"),
        lambda text: text.replace("pan_left 20", "pan_right 20"),
        lambda text: text.replace("2,5", "2,9"),
        lambda text: text.replace("pan_left 20", "turn.json"),
        lambda text: text.replace("frames", "frames,negative").replace("2,5", "2,5,blur").replace(",9\n", ",9,\n"),
        lambda text: text.replace("frames", "frames,lens").replace("2,5", "2,5,60").replace(",9\n", ",9,\n"),
    ],
    ids=["prompt", "seed", "amount", "move", "frames", "path file", "negative", "lens"],
)
def test_whatever_decides_a_shot_decides_its_digest(models, scene, tmp_path, change):
    save_trajectory(preset_trajectory("pan_left", amount=20, num_frames=5), tmp_path / "turn.json")
    old, new = (plan_shots(models, scene, rows_of(tmp_path, text), SETTINGS) for text in (LIST, change(LIST)))
    same = [a.digest == b.digest for a, b in zip(old, new, strict=True)]
    assert same == [True, False, True]


def test_settings_place_and_weights_decide_it_too(models, place, scene, rows):
    def digest(models=models, place=scene, settings=SETTINGS):
        return plan_shots(models, place, rows, settings)[0].digest

    steps = dataclasses.replace(SETTINGS, sampling=SamplingConfig(steps=2, guidance=1.0))
    shuffled = dataclasses.replace(SETTINGS, shuffle_seed=1)
    other_scene = dataclasses.replace(scene, latents=scene.latents + 1)
    other_views = dataclasses.replace(place, images=1 - place.images)
    joint = dataclasses.replace(models, config=dataclasses.replace(models.config, context_attention="joint"))
    found = [digest(), digest(settings=steps), digest(settings=shuffled), digest(place=other_scene)]
    found += [digest(place=place), digest(place=other_views), digest(models=joint)]
    # Where its cameras are decides which views a path sees, of a scene as of views.
    turned = pose_from(rotation_from_angles(torch.tensor([0.0, 20.0], dtype=torch.float64)), torch.zeros(2, 3))
    for cameras in ({"world_from_camera": turned}, {"fov_degrees": 80.0}):
        views = dataclasses.replace(place, **cameras)
        found += [digest(place=views), digest(place=dataclasses.replace(scene, views=views))]
    with torch.no_grad():
        weight = models.transformer.patch_embedding.weight
        before = weight.clone()
        weight.mul_(1.01)
        found.append(digest())
        weight.copy_(before)
    assert len(set(found)) == len(found)
    assert digest() == found[0] == digest(settings=dataclasses.replace(SETTINGS, device="meta"))
    for speed, same in ((SpeedConfig(compiled=True), True), (SpeedConfig(cache_type="float8"), False)):
        assert (digest(settings=dataclasses.replace(SETTINGS, speed=speed)) == found[0]) is same


def test_a_path_of_a_file_decides_by_its_numbers(models, scene, tmp_path):
    digests = set()
    for amount, distance in ((20, 4.0), (20.0001, 4.0), (20, 20.0)):
        path = preset_trajectory("pan_left", amount=amount, num_frames=5, subject_distance=distance)
        save_trajectory(path, tmp_path / "turn.json")
        (shot,) = plan_shots(models, scene, rows_of(tmp_path, "name,prompt,path\na,a dog,turn.json\n"), SETTINGS)
        digests.add(shot.digest)
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name,prompt,path,size\na,a dog,static,128x64\n", r"row 2 'a', column 'size': the place has views of 64 x"),
        ("name,prompt,path\na,a dog,static\n", None),
    ],
)  # fmt: skip
def test_a_size_that_the_place_has_not_is_refused(models, scene, place, tmp_path, text, sentence):
    rows = rows_of(tmp_path, text)
    for given in (scene, place):
        if sentence is None:
            assert plan_shots(models, given, rows, SETTINGS)[0].size == (64, 32)
        else:
            with pytest.raises(FileFormatError, match=sentence):
                plan_shots(models, given, rows, SETTINGS)


def test_a_panorama_is_cut_for_each_size_and_lens(models, out, stand_in, tmp_path):
    panorama = torch.rand(64, 128, 3, generator=torch.Generator().manual_seed(1))
    rows = rows_of(
        tmp_path, "name,prompt,path,size,lens\na,a dog,static,64x32,\nb,a cat,static,,60\nc,a ball,static,64x32,\n"
    )
    config = models.view_config(num_views=2, width=32, height=16)
    planned = plan_shots(models, panorama, rows, SETTINGS, config)
    assert [shot.size for shot in planned] == [(64, 32), (32, 16), (64, 32)]
    film_shots(models, panorama, planned, out, SETTINGS)
    assert stand_in == ["a dog", "a ball", "a cat"]  # those of one place together
    lenses = sorted(load_scene(path).views.fov_degrees for path in (out / SCENE_FOLDER).iterdir())
    assert lenses == [60.0, 90.0]
