"""Which views a path sees: solid angles against formulas and rays, and what leaving the others out costs and saves."""

import dataclasses
import itertools
import math

import pytest
import torch
from tiny_shots import FRAMES, SIZE, TWO_HEADS, VIEWS, film, random_values, tiny_context, tiny_model
from torch.utils.flop_counter import FlopCounterMode

from cinescene_core.cameras import pose_from, rotation_from_angles
from cinescene_core.config import WanConfig
from cinescene_core.models.sequence import KeysValues
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_core.scene_cache import build_scene_cache, embed_scene
from cinescene_core.selection import (
    ForwardCost,
    ViewSelection,
    check_selectable,
    forward_cost,
    keep_slots,
    picture_corners,
    seen_shares,
    seen_slots,
    solid_angle,
)
from cinescene_core.trajectory import preset_trajectory
from cinescene_core.types import Trajectory, Views

WIDTH, HEIGHT = 112, 64


def ring(count: int = 20, fov: float = 90.0, yaw: float = 0.0, pitch: float = 0.0) -> Views:
    rotations = rotation_from_angles(yaw + torch.arange(count) * 360 / count, pitch)
    images = torch.zeros(count, HEIGHT, WIDTH, 3)
    return Views(images, pose_from(rotations, torch.zeros(count, 3, dtype=torch.float64)), fov)


def path_of(preset: str, amount: float, distance: float = 4.0) -> Trajectory:
    return preset_trajectory(preset, num_frames=17, amount=amount, fov_degrees=90.0, subject_distance=distance)


def shares_of(views: Views, path: Trajectory) -> tuple[float, ...]:
    return seen_shares(views, path, range(len(views)))


@pytest.mark.parametrize(("fov", "width", "height"), [(90.0, 112, 64), (40.0, 100, 100), (120.0, 64, 112)])
def test_the_solid_angle_of_a_picture_is_the_pyramids(fov, width, height):
    across = math.tan(math.radians(fov) / 2)
    down = across * height / width
    expected = 4 * math.asin(across * down / math.sqrt((1 + across**2) * (1 + down**2)))
    assert solid_angle(picture_corners(fov, width, height)) == pytest.approx(expected, rel=1e-12)


def test_six_square_views_of_ninety_degrees_are_the_sphere():
    assert 6 * solid_angle(picture_corners(90.0, 8, 8)) == pytest.approx(4 * math.pi, rel=1e-12)


def test_a_still_camera_sees_all_of_its_own_view_and_less_of_its_neighbours():
    shares = shares_of(ring(), path_of("static", 0))
    assert shares[0] == pytest.approx(1, abs=1e-12)
    # Neighbours on both sides alike, less with every 18 degrees, and nothing from 90 degrees on.
    assert shares[1:] == pytest.approx(shares[:0:-1], abs=1e-12)
    assert all(near > far for near, far in itertools.pairwise(shares[:6]))
    assert shares[5:16] == pytest.approx([0] * 11, abs=1e-12)


def test_a_pan_of_75_degrees_sees_fourteen_of_twenty_views():
    # It sees from -45 to 120 degrees; a view at a sees a - 45 to a + 45, so what is seen has -90 < a < 165.
    expected = {a // 18 for a in range(0, 360, 18) if -90 < (a if a < 180 else a - 360) < 165}
    assert len(expected) == 14
    assert set(seen_slots(shares_of(ring(), path_of("pan_right", 75)))) == expected
    mirrored = {-slot % 20 for slot in expected}
    assert set(seen_slots(shares_of(ring(), path_of("pan_left", 75)))) == mirrored


def test_where_the_place_starts_makes_no_difference():
    path = path_of("arc_right", 30)
    plain, turned = shares_of(ring(), path), shares_of(ring(yaw=77), path)
    assert turned == pytest.approx(plain, abs=1e-9)


def test_shares_follow_the_views_into_their_slots():
    views, path = ring(), path_of("pan_right", 40)
    order = (0, *reversed(range(1, 20)))
    shares = shares_of(views, path)
    assert seen_shares(views, path, order) == pytest.approx([shares[view] for view in order], abs=1e-12)


def rays_seen(views: Views, path: Trajectory, view: int, frame: int, count: int = 20000) -> float:
    """The share of a view's rays that meet what a frame sees behind its subject, ray by ray."""
    generator = torch.Generator().manual_seed(0)
    across = math.tan(math.radians(views.fov_degrees) / 2)
    down = across * HEIGHT / WIDTH
    plane = (torch.rand(count, 2, generator=generator, dtype=torch.float64) * 2 - 1) * torch.tensor([across, down])
    camera = torch.cat([plane, torch.ones(count, 1, dtype=torch.float64)], 1)
    weight = (camera**2).sum(1) ** -1.5  # solid angle per area of the picture plane
    first = torch.linalg.inv(views.world_from_camera[0])
    seeing = torch.linalg.inv(path.world_from_camera[0]) @ path.world_from_camera[frame]
    to_frame = torch.linalg.inv(seeing) @ first @ views.world_from_camera[view]
    rays, start = camera @ to_frame[:3, :3].T, to_frame[:3, 3]
    # In the frame's axes: z >= distance, |x| <= across z, |y| <= down z. Each bounds how far along the ray.
    near, far = torch.zeros(count, dtype=torch.float64), torch.full((count,), math.inf, dtype=torch.float64)
    for normal, offset in (
        ([0, 0, 1], path.subject_distance),
        ([1, 0, across], 0), ([-1, 0, across], 0), ([0, 1, down], 0), ([0, -1, down], 0),
    ):  # fmt: skip
        normal = torch.tensor(normal, dtype=torch.float64)
        rate, missing = rays @ normal, offset - float(start @ normal)
        bound = missing / rate
        near = torch.where(rate > 0, torch.maximum(near, bound), near)
        far = torch.where(rate < 0, torch.minimum(far, bound), far)
        far = torch.where((rate == 0) & (missing > 0), -1.0, far)
    return float(weight[near < far].sum() / weight.sum())


@pytest.mark.parametrize(
    ("preset", "amount", "distance"),
    [
        ("truck_right", 6.0, 3.0), ("dolly_in", 3.0, 4.0), ("dolly_out", 3.0, 4.0), ("dolly_out", 7.0, 4.0),
        ("pedestal_up", 2.0, 3.0), ("arc_left", 75.0, 3.0), ("tilt_up", 45.0, 4.0),
    ],
)  # fmt: skip
def test_a_moving_camera_sees_what_rays_say(preset, amount, distance):
    views, path = ring(8, pitch=5.0), path_of(preset, amount, distance)
    for view in (0, 1, 3, 4, 6):
        found = shares_of(views, path)[view]
        expected = max(rays_seen(views, path, view, frame) for frame in range(0, 17, 4))
        # 20,000 rays: a standard deviation of 0.0035 at most.
        assert found == pytest.approx(expected, abs=0.015)


def test_a_camera_behind_the_panorama_sees_every_view_there_is():
    # 5 m behind a place's centre, subject 4 m ahead: the centre is in sight, and so is something in all directions.
    assert seen_slots(shares_of(ring(), path_of("dolly_out", 5.0))) == tuple(range(20))


def test_a_share_may_be_asked_for_and_the_first_view_stays():
    assert seen_slots((0.0, 0.3, 0.2, 1.0, 0.0), 0.25) == (0, 1, 3)
    assert seen_slots((0.0, 1e-7, 1e-5)) == (0, 2)


# What the video then reads


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def scene_of(model, mode, slots=tuple(range(VIEWS))):
    context = tiny_context(slots)
    return embed_scene(model, context) if mode == "joint" else build_scene_cache(model, context, mode)


@torch.no_grad()
def velocity(model, scene):
    timestep, text = torch.tensor([600.0]), random_values(1, 7, TWO_HEADS.text_width)
    return model(
        random_values(1, 16, FRAMES, *SIZE), timestep, text, camera=random_values(1, FRAMES, 3, 4), context=scene
    )


@pytest.mark.parametrize("mode", ["joint", "per_view"])
def test_the_kept_views_stand_where_they_stood(model, mode):
    """Reading some of the views is a scene of them alone, at their positions: in these modes they do not mix before."""
    kept = (0, 2, 3)
    expected = velocity(model, scene_of(model, mode, kept))
    found = velocity(model, keep_slots(scene_of(model, mode), kept, VIEWS))
    # The same sums in batches of other sizes: float32 rounding remains.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * float(expected.abs().max()))
    others = velocity(model, keep_slots(scene_of(model, mode), (0, 1, 2), VIEWS))
    assert (found - others).abs().max() > 1e-3 * expected.abs().max()


def test_in_mode_cached_the_kept_views_have_read_the_others(model):
    whole = scene_of(model, "cached")
    kept = keep_slots(whole, (0, 2), VIEWS).layers(torch.device("cpu"), torch.float32)
    for part, block in zip(kept, whole.layers(torch.device("cpu"), torch.float32), strict=True):
        n = SIZE[0] * SIZE[1] // 4
        rows = [slice(slot * n, (slot + 1) * n) for slot in (0, 2, VIEWS, VIEWS + 2)]
        assert torch.equal(part.keys, torch.cat([block.keys[:, :, row] for row in rows], 2))
        assert torch.equal(part.values, torch.cat([block.values[:, :, row] for row in rows], 2))


@pytest.mark.parametrize("mode", ["joint", "cached"])
def test_a_shot_reads_the_slots_it_is_told(model, mode):
    some, all_of_them, none_told = (film(model, mode, slots=slots) for slots in ((0, 1), range(VIEWS), None))
    assert torch.equal(all_of_them, none_told)
    assert (some - none_told).abs().max() > 1e-3 * none_told.abs().max()


# What it saves


@dataclasses.dataclass
class Read:
    """A cache as the transformer asks for it."""

    blocks: list[KeysValues]

    def layers(self, device, dtype):
        return iter(self.blocks)


@pytest.mark.parametrize("projector", [True, False])
@pytest.mark.parametrize("mode", ["joint", "cached"])
@pytest.mark.parametrize("config", [TWO_HEADS, WanConfig(num_layers=3)], ids=["tiny", "three blocks of 1.3B"])
def test_the_predicted_flops_are_those_counted(config, mode, projector):
    frames, height, width, views, rows = 5, 8, 12, 6, 16
    with torch.device("meta"), torch.no_grad():
        model = CineSceneTransformer(config, projector=projector)
        positions = torch.arange(frames, frames + 2 * views, device="cpu")
        features = torch.empty(1, views, config.feature_width, 3, 5)
        scene = model.embed_context(torch.empty(1, views, 16, height, width), features, positions)
        if mode == "cached":
            scene = Read(list(model.read_context(scene, mode)))
        with FlopCounterMode(display=False) as counter:
            model(
                torch.empty(1, 16, frames, height, width),
                torch.empty(1),
                torch.empty(1, rows, config.text_width),
                camera=torch.empty(1, frames, 3, 4),
                context=scene,
            )
    predicted = forward_cost(
        config, (frames, height, width), views, text_rows=rows, context_attention=mode, projector=projector
    )
    assert predicted == (2 * views * (height // 2) * (width // 2), counter.get_total_flops())


def test_a_selection_says_what_it_saves():
    kept, whole = ForwardCost(28224, 600 * 10**9), ForwardCost(40320, 800 * 10**9)
    assert str(ViewSelection(tuple(range(14)), (1.0,) * 20, kept, whole)) == (
        "14 of 20 views are read on this path: 28,224 of 40,320 scene tokens, 600 of 800 GFLOP per forward (25% less)"
    )


# What is refused


def test_photos_have_no_cameras():
    photos = Views(torch.zeros(3, HEIGHT, WIDTH, 3))
    with pytest.raises(ValueError, match=r"cameras are known, and these are photos\. Film with all of them"):
        check_selectable(photos)
    with pytest.raises(ValueError, match="these are photos"):
        seen_shares(photos, path_of("static", 0), range(3))
