"""Places: the same everywhere, unlike each other, and free where cameras travel."""

import functools
import math

import numpy as np
import pytest
import torch

from cinescene_training.data.footage import SPLITS
from cinescene_training.render import (
    SPLIT_SEEDS,
    VOCABULARY,
    Places,
    photographs,
    place_seed,
    render,
    sample_places,
    sample_shot,
    sample_shots,
)
from cinescene_training.render.captions import ACTIONS, SHAPES, SUBJECT_COLOURS
from cinescene_training.render.dice import Dice
from cinescene_training.render.layout import MOVES
from cinescene_training.render.materials import COLOURS, TEXTURES
from cinescene_training.render.places import front_face
from cinescene_training.render.rendering import views_of
from cinescene_training.render.subjects import axis_rotation, subject_poses
from cinescene_training.render.tracing import trace

START = torch.eye(4, dtype=torch.float64)


@pytest.fixture(scope="module")
def many() -> Places:
    """Six hundred rooms."""
    return sample_places(range(600))


def test_dice_give_the_published_stream_of_pcg64():
    # numpy.random.Generator(PCG64(SeedSequence([7, 3]))).random(), as numpy documents it to stay.
    expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence([7, 3]))).random(3)
    dice = Dice(7, 3)
    assert [dice.uniform() for _ in range(3)] == expected.tolist()


def test_a_seed_means_the_same_place_for_ever():
    # Written down when the layout was settled: data made with another release must match data made with this one.
    layout = sample_places([17]).layouts[0]
    expected = [1.9376177497927418, 1.6577903684753872, 0.5362490799657275, 3.388320238136531, 3.193994982566963]
    assert (layout.shape, layout.action, len(layout.boxes)) == ("snowman", "waves", 3)
    numbers = [
        layout.distance,
        layout.camera_height,
        layout.amounts["dolly_out"],
        layout.height,
        layout.half_extents[0],
    ]
    np.testing.assert_allclose(numbers, expected, rtol=1e-9)


def test_a_place_is_the_same_in_any_company_and_the_global_generators_stay_untouched():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    alone, together = sample_places([5]), sample_places([9, 5, 2])
    assert torch.equal(before, torch.get_rng_state())
    assert together.captions[1] == alone.captions[0]
    assert torch.equal(together.materials[1], alone.materials[0])
    assert torch.equal(together.unit_from_room[1], alone.unit_from_room[0])
    assert torch.equal(together.subjects.root[1], alone.subjects.root[0])


def _wall_pictures(kind: str, seeds: range) -> torch.Tensor:
    """Each wall of each place seen straight on from the middle of the room: [places, 4, h, w, 3]."""
    places = sample_places(seeds, kind)
    world_from_room = torch.linalg.inv(places.room_from_world)
    poses = []
    for turn in (0, 90, 180, 270):
        stand = START.clone()
        angle = math.radians(turn)
        stand[0, 0], stand[0, 2], stand[2, 0], stand[2, 2] = (
            math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle),
        )  # fmt: skip
        stand[1, 3] = -1.5
        poses.append(world_from_room @ stand)
    return photographs(places, torch.stack(poses, dim=1), 90, 48, 28, samples=2)


@pytest.mark.parametrize("kind", ["room", "courtyard"])
def test_no_two_walls_of_a_place_alias_and_no_two_places_do(kind):
    pictures = _wall_pictures(kind, range(100, 112)).flatten(2)
    whitened = pictures - pictures.mean(-1, keepdim=True)
    whitened = whitened / whitened.norm(dim=-1, keepdim=True)
    within = torch.einsum("pad,pbd->pab", whitened, whitened)[:, ~torch.eye(4, dtype=torch.bool)]
    starts = whitened[:, 0]
    across = (starts @ starts.T)[~torch.eye(12, dtype=torch.bool)]
    assert within.max() < 0.9  # 1 is the same picture; walls share the shading of floor and ceiling
    assert within.mean() < 0.5
    assert across.max() < 0.9
    # Nor are they the same up to brightness: the pictures differ by many codes.
    apart = (pictures[:, :, None] - pictures[:, None]).abs().mean(-1)[:, ~torch.eye(4, dtype=torch.bool)]
    assert apart.min() > 0.03


def test_every_texture_shape_colour_and_action_occurs_and_every_caption_stays_in_the_vocabulary(many):
    places = many
    words = {word for text in (*places.captions, *places.place_captions) for word in text.split()}
    assert words <= set(VOCABULARY)
    assert len(VOCABULARY) == len(set(VOCABULARY)) < 100
    assert set(TEXTURES) <= words
    assert set(SHAPES) <= words
    assert set(SUBJECT_COLOURS) <= words
    seen = {(layout.shape, layout.action) for layout in places.layouts}
    assert seen == {(shape, action) for shape in SHAPES for action in ACTIONS[shape]}
    courts = sample_places(range(5), "courtyard")
    assert all(set(text.split()) <= set(VOCABULARY) and " courtyard " in text for text in courts.captions)
    assert all(place in text and action in text for place, action, text in zip(
        courts.place_captions, courts.action_captions, courts.captions, strict=True))  # fmt: skip


def test_the_caption_counts_the_boxes_and_names_the_wall_ahead():
    places = sample_places(range(40))
    counts = ("no boxes", "one box", "two boxes", "three boxes", "four boxes", "five boxes")
    for index, layout in enumerate(places.layouts):
        assert places.place_captions[index].endswith(counts[len(layout.boxes)])
        _, colour, texture, *_ = places.place_captions[index].split()
        row = places.materials[index][:, front_face(layout)]
        assert int(row[0]) == TEXTURES[texture]
        code = row[5:8].sqrt()
        nearest = min(COLOURS, key=lambda name: (code - torch.tensor(COLOURS[name])).norm().item())
        assert nearest == colour


def test_the_front_wall_is_the_one_a_ray_down_the_axis_meets():
    places = sample_places(range(60))
    places.unit_from_room[..., 3] = 1e5  # furniture far away
    views = views_of(places, START.expand(60, 1, 4, 4), None)
    surface = trace(torch.tensor([[0.0], [0.0], [1.0]]), views).surface[:, 0]
    assert surface.tolist() == [front_face(layout) for layout in places.layouts]
    assert surface.unique().tolist() == [0, 1, 4, 5]


@pytest.mark.parametrize("kind", ["room", "courtyard"])
def test_every_camera_of_every_move_is_inside_the_room_and_outside_all_solids(kind):
    for seed in range(25):
        places = sample_places([seed], kind)
        layout, to_room = places.layouts[0], places.room_from_world[0]
        for plan in sample_shots(seed, len(MOVES), num_frames=41, kind=kind):
            poses = plan.trajectory.world_from_camera
            centres = (to_room @ poses)[:, :3, 3].numpy()
            assert (np.abs(centres[:, 0]) < layout.half_extents[0] - 0.3).all()
            assert (np.abs(centres[:, 2]) < layout.half_extents[1] - 0.3).all()
            assert (centres[:, 1] < -0.14).all()  # above the floor
            assert (centres[:, 1] > -layout.height + 0.25).all()
            for x, z, wide, deep, _, yaw in layout.boxes:
                angle = math.radians(yaw)
                dx, dz = centres[:, 0] - x, centres[:, 2] - z
                # The box's z axis points to (sin yaw, cos yaw), its x axis to (cos yaw, -sin yaw).
                along_x, along_z = (
                    dx * math.cos(angle) - dz * math.sin(angle),
                    dx * math.sin(angle) + dz * math.cos(angle),
                )
                assert (np.maximum(np.abs(along_x) - wide, np.abs(along_z) - deep) > 0.2).all()
            for x, z, radius, _ in layout.pillars:
                assert (np.hypot(centres[:, 0] - x, centres[:, 2] - z) > radius + 0.3).all()


def test_no_camera_enters_the_subject_even_where_a_dolly_goes_past_it():
    passed = 0
    for seed in range(120):
        places = sample_places([seed])
        plan = sample_shot(seed, num_frames=81, move="dolly_in")
        time = torch.arange(81, dtype=torch.float64)[None] / plan.trajectory.fps
        parts = subject_poses(places.subjects, time)[0]  # [n, m, 4, 4]
        centres = plan.trajectory.world_from_camera[:, :3, 3]
        local = (parts[..., :3, :3].mT @ (centres[:, None] - parts[..., :3, 3])[..., None])[..., 0]
        # Every part lies inside the box of its half sizes: the distance from that box is a lower bound.
        outside = (local.abs() - places.subjects.half[0]).clamp(min=0).norm(dim=-1)
        assert outside.min() > 0.05, (seed, places.captions[0])
        passed += plan.trajectory.travel() > plan.subject_distance
    assert passed > 15  # a quarter of the range lies beyond the subject


def test_amounts_fill_the_whole_range_of_the_paper(many):
    paper = {
        "arc_left": (75, 75), "arc_right": (75, 75), "pan_left": (75, 75), "pan_right": (75, 75),
        "arc_up": (10, 45), "arc_down": (10, 45), "tilt_up": (10, 45), "tilt_down": (10, 45),
        "truck_left": (1 / 4, 2), "truck_right": (1 / 4, 2), "dolly_in": (1 / 4, 5 / 4), "dolly_out": (1 / 4, 2),
        "pedestal_up": (1 / 4, 2 / 3), "pedestal_down": (1 / 4, 2 / 3),
    }  # fmt: skip
    assert set(MOVES) == set(paper)
    layouts = many.layouts
    for move, (low, high) in paper.items():
        relative = move.split("_")[0] in ("dolly", "truck", "pedestal")
        found = np.array([layout.amounts[move] / (layout.distance if relative else 1) for layout in layouts])
        assert (found > low - 1e-9).all()
        assert (found < high + 1e-9).all()
        if high > low:
            share = np.sort((found - low) / (high - low))
            # Kolmogorov-Smirnov against the uniform distribution: 1.63 / sqrt(n) is the 1 % level.
            assert np.abs(share - (np.arange(600) + 0.5) / 600).max() < 1.63 / math.sqrt(600)
            assert share[0] < 0.02
            assert share[-1] > 0.98
    yaws = np.array([layout.start_yaw_degrees for layout in layouts])
    assert -45 <= yaws.min() < -42
    assert 42 < yaws.max() <= 45


def test_the_start_yaw_is_the_angle_between_the_subjects_front_and_the_camera():
    places = sample_places(range(30))
    poses = subject_poses(places.subjects, torch.zeros(30, 1))
    for index, layout in enumerate(places.layouts):
        if layout.action in ("dances", "spins") or layout.shape == "ball":
            continue
        # The body slot's z axis is the way it faces; the camera looks along +z, so facing it is -z.
        slot = 7 if layout.shape in ("robot", "cube") else 9 if layout.shape == "cone" else 0
        forward = poses[index, 0, slot, :3, 2]
        angle = math.degrees(math.atan2(float(forward[0]), -float(forward[2])))
        assert abs(abs(angle) - abs(layout.start_yaw_degrees)) < 1e-6


@functools.cache
def _place_where(**wanted: str) -> int:
    for seed in range(3000):
        layout = sample_places([seed]).layouts[0]
        if all(getattr(layout, name) == value for name, value in wanted.items()):
            return seed
    raise AssertionError(wanted)


def _mask_middle(seed: int, time: list[float]) -> torch.Tensor:
    """Mean pixel (x, y) of the subject from the start camera at each time."""
    poses = START.expand(1, len(time), 4, 4)
    mask = render(sample_places([seed]), poses, 90, 112, 112, time=torch.tensor([time])).subject[0]
    return torch.stack([frame.nonzero().float().mean(0).flip(0) for frame in mask])


@pytest.mark.parametrize("shape", ["person", "ball", "cube"])
def test_left_and_right_in_a_caption_are_left_and_right_in_the_picture(shape):
    verb = {"person": "walks", "ball": "rolls", "cube": "slides"}[shape]
    for word, sign in (("left", -1), ("right", 1)):
        seed = _place_where(shape=shape, action=f"{verb} {word}")
        middle = _mask_middle(seed, [0.0, 2.0, 4.0])
        steps = middle.diff(dim=0)
        assert (steps[:, 0] * sign > 3).all()


def test_forward_comes_nearer_and_a_jump_goes_up():
    seed = _place_where(shape="person", action="walks forward")
    places = sample_places([seed])
    root = subject_poses(places.subjects, torch.tensor([[0.0, 5.0]]))[0, :, 0, :3, 3]
    assert root[1, 2] < root[0, 2] - 0.3
    seed = _place_where(shape="robot", action="jumps")
    rate = float(sample_places([seed]).subjects.rate[0])
    low, high, again = _mask_middle(seed, [0.0, math.pi / rate, 2 * math.pi / rate])[:, 1]
    assert high < low - 3  # y points down
    assert abs(again - low) < 1


def test_a_rolling_ball_rolls_without_slipping():
    seed = _place_where(shape="ball", action="rolls right")
    subjects = sample_places([seed]).subjects
    step = 1e-4
    poses = subject_poses(subjects, torch.tensor([[1.0, 1.0 + step]], dtype=torch.float64))[0, :, 0]
    radius = float(subjects.half[0, 0, 0])
    contact = poses[0, :3, 3] + torch.tensor([0.0, radius, 0.0], dtype=torch.float64)  # where it touches the floor
    moved = poses[1] @ torch.linalg.inv(poses[0]) @ torch.cat([contact, torch.ones(1, dtype=torch.float64)])
    assert (moved[:3] - contact).norm() / step < 1e-3 * float(subjects.velocity[0].norm()) + 1e-4
    assert abs(float(contact[1]) - sample_places([seed]).layouts[0].camera_height) < 1e-9


def test_rodrigues_is_the_matrix_exponential():
    axis = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    axis = axis / axis.norm()
    x, y, z = axis.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    torch.testing.assert_close(axis_rotation(axis, torch.tensor(0.7).double()), torch.linalg.matrix_exp(0.7 * cross))


def test_the_subject_stands_on_the_floor():
    places = sample_places(range(40))
    poses = subject_poses(places.subjects, torch.zeros(40, 1))[:, 0]
    half = places.subjects.half
    # Height of an ellipsoid's lowest point below its middle is |half * (R^T down)|; boxes and cones reach at least it.
    reach = (poses[..., 1, :3] * half).norm(dim=-1)
    there = half[..., 0] != 0.01  # empty slots are far below
    lowest = torch.where(there, poses[..., 1, 3] + reach, -torch.inf).amax(1)
    floor = torch.tensor([layout.camera_height for layout in places.layouts], dtype=torch.float64)
    assert ((lowest - floor).abs() < 0.12).all()


def test_the_colour_of_the_caption_is_the_colour_of_the_pixels():
    right = 0
    seeds = range(40)
    places = sample_places(seeds)
    rendering = render(places, START.expand(40, 1, 4, 4), 90, 96, 96, time=torch.zeros(40, 1))
    for index in range(40):
        mask = rendering.subject[index, 0]
        assert mask.sum() > 20, places.captions[index]
        mean = rendering.rgb[index, 0][mask].mean(0)
        mean = mean / mean.norm()
        chroma = {name: torch.tensor(COLOURS[name]) / torch.tensor(COLOURS[name]).norm() for name in SUBJECT_COLOURS}
        nearest = max(chroma, key=lambda name: float(mean @ chroma[name]))
        right += nearest == places.subject_colours[index]
    assert right >= 36  # shading, eyes and a snowman's nose move the mean a little


def test_splits_never_meet_and_refuse_what_they_do_not_have():
    assert tuple(SPLIT_SEEDS) == SPLITS
    ranges = list(SPLIT_SEEDS.values())
    for index, seeds in enumerate(ranges):
        for other in ranges[index + 1 :]:
            assert seeds[-1] < other[0] or other[-1] < seeds[0]
    assert place_seed("test", 3) == SPLIT_SEEDS["test"][3]
    assert place_seed("test", 3) not in SPLIT_SEEDS["train"]
    with pytest.raises(
        ValueError, match=r"split must be one of train, validation, test; got 'tset'. Did you mean 'test'"
    ):
        place_seed("tset", 0)
    with pytest.raises(ValueError, match="The test split has places 0 to 1048575; got place 1048576"):
        place_seed("test", 2**20)
    with pytest.raises(ValueError, match="got place -1"):
        place_seed("train", -1)


def test_bad_requests_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="got no seed; give one per place"):
        sample_places([])
    with pytest.raises(ValueError, match="seed must be 0 or more; got -4"):
        sample_places([-4])
    with pytest.raises(ValueError, match="kind of place must be one of room, courtyard; got 'cave'"):
        sample_places([1], "cave")
    with pytest.raises(ValueError, match=r"move must be one of .*; got 'crane'"):
        sample_shot(1, move="crane")
    with pytest.raises(ValueError, match="1 to 14 shots with different moves; got 15"):
        sample_shots(1, 15)
    with pytest.raises(ValueError, match="num_frames must be 4n"):
        sample_shot(1, num_frames=80)


def test_shots_of_a_place_share_subject_and_start_and_differ_in_their_moves():
    shots = sample_shots(11, 7, num_frames=5)
    assert len({shot.move for shot in shots}) == 7
    assert len({(shot.caption, shot.subject_distance, shot.start_yaw_degrees) for shot in shots}) == 1
    assert all(torch.equal(shot.trajectory.world_from_camera[0], START) for shot in shots)
    assert sample_shot(11, num_frames=5).move == shots[0].move
    assert sample_shot(11, num_frames=5, move="static").trajectory.travel() == 0
    assert len({sample_shot(seed, num_frames=5).move for seed in range(150)}) == len(MOVES)
