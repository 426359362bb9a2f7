"""The scripted set: its subject and its start view. Runs where Blender's Python package is installed."""

import math

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason='needs Blender: pip install "cinescene-training[blender]"')

from mathutils import Vector  # noqa: E402

from cinescene_training.render.blender import BlenderJob, set_courtyard  # noqa: E402
from cinescene_training.render.blender.film_set import FilmSet, open_set  # noqa: E402
from cinescene_training.render.blender.set_subject import draw_costume  # noqa: E402


@pytest.fixture
def bare(monkeypatch):
    """The set without its walls and plants, which no test here needs and which take seconds to build."""
    monkeypatch.setattr(set_courtyard, "build_place", lambda collection, rng: None)


def opened(seed: int) -> FilmSet:
    return open_set(BlenderJob(root="", name="place", seed=seed))


def seed_of(action: str, who: str) -> int:
    drawn = ((seed, draw_costume(np.random.default_rng(seed))) for seed in range(500))
    return next(seed for seed, costume in drawn if (costume.action, costume.who) == (action, who))


def world(name: str) -> np.ndarray:
    return np.array(bpy.data.objects[name].matrix_world)


def test_the_camera_starts_four_metres_before_the_subject_within_45_degrees(bare):
    angles = []
    for seed in range(6):
        film_set = opened(seed)
        assert film_set.subject_distance == pytest.approx(4.0, abs=1e-5)
        assert film_set.world_from_start[1, 3] == pytest.approx(-1.6, abs=1e-6)
        # The subject faces Blender's -y, that is -z here; the camera looks back at it.
        x, _, z = film_set.world_from_start[:3, 2].tolist()
        angles.append(math.degrees(math.atan2(x, z)))
    assert max(map(abs, angles)) <= 45
    assert max(angles) - min(angles) > 30


def test_captions_name_who_performs_and_what_they_do(bare):
    film_set = opened(seed_of("wave", "man"))
    caption, action = film_set.captions
    assert action.startswith("a ")
    assert " man in a " in action
    assert action.endswith("jacket waves a hand")
    assert caption == f"{action} in {set_courtyard.PLACE_CAPTION}"


def test_a_walk_passes_over_the_mark_on_feet_that_stand_on_the_floor(bare):
    film_set = opened(seed_of("walk", "man"))
    shins = [bpy.data.objects[f"{side} shin"] for side in ("left", "right")]
    shoes = [child for shin in shins for child in shin.children]
    soles = [np.array([[*vertex.co, 1] for vertex in shoe.data.vertices]) for shoe in shoes]
    path, feet = [], []
    for seconds in np.arange(0, 6.01, 1 / 15):
        film_set.go_to(float(seconds))
        path.append(world("subject")[:3, 3])
        feet.append([(sole @ np.array(shoe.matrix_world).T)[:, :3] for shoe, sole in zip(shoes, soles, strict=True)])
    np.testing.assert_allclose(path[45], set_courtyard.MARK, atol=1e-5)
    # 0.6 m/s for 6 s, the way it faces: Blender's -y.
    np.testing.assert_allclose(path[-1] - path[0], (0, -3.6, 0), atol=1e-5)
    lowest = np.array([[foot[:, 2].min() for foot in pair] for pair in feet])
    np.testing.assert_allclose(lowest.min(1), 0, atol=0.005)
    # The foot that stands does not slide on the whole: the other one and the body move, it stays.
    middle = np.array([[foot[:, 1].mean() for foot in pair] for pair in feet])
    standing = lowest.argmin(1)[:-1]
    slide = np.diff(middle, axis=0)[np.arange(len(standing)), standing] * 15
    assert abs(slide.mean()) < 0.1


def test_a_wave_lifts_one_hand_over_the_shoulder_and_a_turn_goes_once_around(bare):
    film_set = opened(seed_of("wave", "woman"))
    film_set.go_to(3.0)
    bpy.context.view_layer.update()
    hands = {side: world(f"{side} forearm") @ (0, -0.3, 0, 1) for side in ("left", "right")}
    shoulder = world("right arm")[2, 3]
    assert hands["right"][2] > shoulder + 0.15
    assert hands["left"][2] < shoulder - 0.4
    # The subject's right hand is on the left of the person who looks at it.
    assert hands["right"][0] < hands["left"][0]

    film_set = opened(seed_of("turn", "man"))
    turned = 0.0
    before = None
    for seconds in np.linspace(0, 6, 61):
        film_set.go_to(float(seconds))
        facing = world("subject")[:2, 1]
        now = math.atan2(facing[1], facing[0])
        if before is not None:
            turned += (now - before + math.pi) % math.tau - math.pi
        before = now
    assert math.degrees(turned) == pytest.approx(360, abs=1e-3)


def test_the_place_is_one_place_whatever_the_seed(monkeypatch):
    built = []
    monkeypatch.setattr(set_courtyard, "build_place", lambda collection, rng: built.append(rng.bit_generator.state))
    for seed in (3, 4):
        opened(seed)
    assert built[0] == built[1]


def test_walls_stand_where_the_set_says_and_the_way_to_the_subject_is_free():
    film_set = opened(0)
    film_set.show_subject(False)
    graph, eye = bpy.context.evaluated_depsgraph_get(), Vector(set_courtyard.EYE)
    # Straight down the floor; right and back the walls, whose relief comes a little forward; up the open sky.
    for way, distance in (((0, 0, -1), 1.6), ((1, 0, 0), 7.0), ((0, -1, 0), 4.3), ((0, 0, 1), None)):
        hit, where, *_ = film_set.scene.ray_cast(graph, eye, Vector(way))
        assert hit == (distance is not None), way
        if distance is not None:
            assert distance - 1.6 < (where - eye).length < distance + 0.6, way
    mark = Vector(set_courtyard.MARK) + Vector((0, 0, 1))
    for angle in range(-45, 46, 5):
        start = mark + 4 * Vector((-math.sin(math.radians(angle)), -math.cos(math.radians(angle)), 0.15))
        hit, *_ = film_set.scene.ray_cast(graph, start, mark - start, distance=(mark - start).length)
        assert not hit, f"something stands between the camera at {angle} degrees and the mark"
