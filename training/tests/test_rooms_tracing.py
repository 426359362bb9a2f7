"""Pictures and geometry, against first principles and an independent ray marcher."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cinescene_core.cameras import focal_length, pixel_rays, pose_from, rotation_from_angles
from cinescene_core.checks import PoseError, ShapeError
from cinescene_core.views import photograph
from cinescene_training.render import (
    SKY_DISTANCE,
    optical_flow,
    photographs,
    render,
    render_panorama,
    sample_places,
    sample_shot,
)
from cinescene_training.render import tracing as tracing_module
from cinescene_training.render.materials import CHECKER, DIAMONDS, STRIPES, Material, pattern_mix
from cinescene_training.render.subjects import ELLIPSOIDS, floor_shadow, subject_poses
from cinescene_training.render.tracing import compiled_tracer

START = torch.eye(4, dtype=torch.float64)


def _turned(yaw: float, pitch: float = 0.0, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> torch.Tensor:
    return pose_from(rotation_from_angles(yaw, pitch), torch.tensor(centre, dtype=torch.float64))


def _unfurnished(places):
    axes = places.unit_from_room.clone()
    axes[..., 3] = 1e5
    return dataclasses.replace(places, unit_from_room=axes)


@pytest.mark.parametrize(("turn", "axis"), [(0, 2), (90, 0), (180, 2), (-90, 0)])
def test_a_ray_down_a_rooms_axis_ends_at_its_half_extent(turn, axis):
    places = _unfurnished(sample_places([3, 4, 5]))
    stand = _turned(turn, centre=(0.0, -1.4, 0.0))
    poses = torch.linalg.inv(places.room_from_world) @ stand  # in the middle of the room, along one of its axes
    depth = render(places, poses[:, None], 90, 33, 33).depth[:, 0, 16, 16]
    torch.testing.assert_close(depth, places.size[:, axis], rtol=1e-6, atol=1e-6)


def test_a_ray_up_ends_at_the_ceiling_or_in_the_sky_and_one_down_on_the_floor():
    for kind in ("room", "courtyard"):
        places = _unfurnished(sample_places([3, 4], kind))
        height = torch.tensor([layout.camera_height for layout in places.layouts])
        poses = torch.stack([_turned(0, 90), _turned(0, -90)]).expand(2, 2, 4, 4)
        rendering = render(places, poses, 90, 17, 17)
        torch.testing.assert_close(rendering.depth[:, 1, 8, 8], height, rtol=1e-6, atol=1e-6)
        up = places.size[:, 1] - height if kind == "room" else torch.full((2,), SKY_DISTANCE)
        torch.testing.assert_close(rendering.depth[:, 0, 8, 8], up, rtol=1e-6, atol=1e-6)
        assert bool(rendering.sky[:, 0, 8, 8].all()) == (kind == "courtyard")


def _inside_any(points: np.ndarray, places, time: float | None) -> np.ndarray:
    """Whether world points [k, 3] are in something solid, from the layout's numbers alone."""
    layout, subjects = places.layouts[0], places.subjects
    yaw = math.radians(layout.room_yaw_degrees)
    # The room's x and z axes in the world, and the start camera's place in the room.
    right, ahead = np.array([math.cos(yaw), 0, -math.sin(yaw)]), np.array([math.sin(yaw), 0, math.cos(yaw)])
    x, z = points @ right + layout.camera[0], points @ ahead + layout.camera[1]
    up = layout.camera_height - points[:, 1]  # height above the floor
    solid = (
        (np.abs(x) > layout.half_extents[0]) | (np.abs(z) > layout.half_extents[1]) | (up < 0) | (up > layout.height)
    )
    for box_x, box_z, wide, deep, tall, degrees in layout.boxes:
        angle = math.radians(degrees)
        dx, dz = x - box_x, z - box_z
        across = dx * math.cos(angle) - dz * math.sin(angle)
        along = dx * math.sin(angle) + dz * math.cos(angle)
        solid |= (np.abs(across) < wide) & (np.abs(along) < deep) & (up < tall)
    for pillar_x, pillar_z, radius, tall in layout.pillars:
        solid |= (np.hypot(x - pillar_x, z - pillar_z) < radius) & (up < tall)
    if time is None:
        return solid
    poses = subject_poses(subjects, torch.tensor([[time]]))[0, 0].numpy()
    for part, (pose, half) in enumerate(zip(poses, subjects.half[0].numpy(), strict=True)):
        local = (points - pose[:3, 3]) @ pose[:3, :3] / half
        if part < ELLIPSOIDS:
            solid |= (local**2).sum(1) < 1
        elif part < ELLIPSOIDS + 2:
            solid |= (np.abs(local) < 1).all(1)
        else:
            solid |= (np.abs(local[:, 1]) < 1) & (np.hypot(local[:, 0], local[:, 2]) < (local[:, 1] + 1) / 2)
    return solid


@pytest.mark.parametrize("seed", [1, 2, 6, 13])
def test_depth_is_where_a_march_in_small_steps_first_enters_something(seed):
    places = sample_places([seed])
    pose = _turned(20 * seed, -15, (0.1, 0.0, -0.1)) if seed % 2 else _turned(3, -12)
    depth = render(places, pose[None, None], 100, 12, 12, time=torch.tensor([[0.8]])).depth[0, 0].flatten()
    rays = (pixel_rays(100, 12, 12).reshape(-1, 3) @ pose[:3, :3].T).numpy()
    step = 0.004
    for ray, found in zip(rays, depth.tolist(), strict=True):
        ways = np.arange(step, 30, step)
        inside = _inside_any(pose[:3, 3].numpy() + ways[:, None] * ray, places, 0.8)
        marched = ways[int(inside.argmax())]
        # A corner thinner than one step may be stepped over, so the marcher may be late but never early.
        assert found <= marched + 1e-4
        if marched - found > step + 1e-4:
            graze = _inside_any((pose[:3, 3].numpy() + (found + np.array([[1e-4]])) * ray), places, 0.8)
            assert graze[0]


def test_points_lie_on_their_rays_at_their_depth():
    places = sample_places([3], "courtyard")
    pose = _turned(35, 10, (0.2, -0.1, 0.3))
    rendering = render(places, pose[None, None], 80, 20, 12, time=torch.tensor([[1.0]]))
    rays = pixel_rays(80, 20, 12) @ pose[:3, :3].T
    expected = pose[:3, 3] + rendering.depth[0, 0, ..., None].double() * rays
    torch.testing.assert_close(rendering.points[0, 0].double(), expected, rtol=1e-6, atol=1e-5)
    sky = rendering.sky[0, 0]
    assert sky.any()
    distance = (rendering.points[0, 0].double() - pose[:3, 3]).norm(dim=-1)
    torch.testing.assert_close(distance[sky], torch.full_like(distance[sky], SKY_DISTANCE), rtol=1e-6, atol=1e-3)


def test_a_panorama_and_a_camera_see_the_same_place():
    places = sample_places([21])
    panorama = render_panorama(places, START[None], 768, 384, samples=2)
    rotations = rotation_from_angles(torch.tensor([0.0, 100.0, -130.0]), torch.tensor([0.0, 15.0, -30.0]))
    width, height = 72, 42
    sliced = photograph(panorama.rgb[0, 0], rotations, torch.full((3,), 90.0).double(), width, height)
    poses = pose_from(rotations, torch.zeros(3, 3, dtype=torch.float64))
    direct = photographs(places, poses[None], 90, width, height, samples=3)[0]
    error = (sliced - direct).abs()
    # The panorama is bilinear between pixels of its own: edges are softer by half a pixel, surfaces are not.
    assert error.mean() < 0.01
    assert error.quantile(0.95) < 0.05
    wrong = (sliced.flip(2) - direct).abs()
    assert wrong.mean() > 5 * error.mean()


def test_panorama_depth_is_the_distance_along_each_ray():
    places = sample_places([22])
    panorama = render_panorama(places, _turned(30)[None], 64, 32)
    torch.testing.assert_close(panorama.points[0, 0].norm(dim=-1), panorama.depth[0, 0], rtol=1e-5, atol=1e-5)
    # The centre of the panorama looks along the pose's z axis: between pixels 31 and 32, rows 15 and 16.
    ahead = render(places, _turned(30)[None, None], 90, 2, 2).points[0, 0].mean((0, 1))
    middle = panorama.points[0, 0, 15:17, 31:33].mean((0, 1))
    assert F.cosine_similarity(ahead, middle, dim=0) > 0.99


def test_samples_are_the_pixels_of_a_finer_picture():
    places = sample_places([8])
    fine = photographs(places, START[None, None], 90, 96, 64)
    coarse = photographs(places, START[None, None], 90, 48, 32, samples=2)
    pooled = F.avg_pool2d(fine[0].permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    torch.testing.assert_close(coarse[0], pooled, rtol=1e-5, atol=1e-6)


def _row(pattern: int) -> Material:
    numbers = (float(pattern), 1.0, 1.0, 0.0, 0.0, 0, 0, 0, 1, 1, 1, 0, 0)
    return Material(*(torch.full((1, 400), float(number)) for number in numbers))


@pytest.mark.parametrize("pattern", [CHECKER, STRIPES, DIAMONDS])
def test_patterns_fade_to_their_mean_before_they_alias(pattern):
    u = torch.linspace(0, 40, 400)[None]
    v = torch.zeros_like(u) + 0.13
    sharp, blurred = (pattern_mix(_row(pattern), u, v, torch.full_like(u, width)) for width in (0.001, 3.0))
    assert sharp.amin() < 0.05
    assert sharp.amax() > 0.95
    assert (blurred - 0.5).abs().max() < 0.02


@pytest.mark.parametrize("kind", ["room", "courtyard"])
def test_a_place_alone_is_bit_for_bit_the_place_in_a_batch(kind):
    time = torch.tensor([[0.3, 1.9]])
    poses = torch.stack([_turned(5), _turned(-40, 10, (0.2, 0.0, 0.1))])
    alone = render(sample_places([5], kind), poses[None], 90, 50, 30, time=time, samples=2)
    batch = sample_places([9, 5, 2], kind)
    together = render(batch, poses.expand(3, 2, 4, 4), 90, 50, 30, time=time.expand(3, 2), samples=2)
    for field in dataclasses.fields(alone):
        assert torch.equal(getattr(alone, field.name)[0], getattr(together, field.name)[1])
    one = photographs(batch, poses[1].expand(3, 1, 4, 4), 90, 50, 30, time=time[:, 1:].expand(3, 1), samples=2)
    assert torch.equal(one[:, 0], together.rgb[:, 1])


@pytest.mark.parametrize("seed", [0, 1, 4, 9])
def test_with_and_without_the_subject_differ_only_on_it_and_in_its_shadow(seed):
    places, time = sample_places([seed]), torch.tensor([[0.5]])
    pose = _turned(0, -20)[None, None]
    having, missing = render(places, pose, 90, 96, 96, time=time), render(places, pose, 90, 96, 96)
    x, z, radius, _ = floor_shadow(places.subjects, time)[0, 0].tolist()
    on_floor = (missing.points[..., 1] - places.layouts[0].camera_height).abs() < 1e-3
    shadow = on_floor & ((missing.points[..., 0] - x) ** 2 + (missing.points[..., 2] - z) ** 2 < (radius + 1e-3) ** 2)
    untouched = ~having.subject & ~shadow
    assert torch.equal(having.rgb[untouched], missing.rgb[untouched])
    assert torch.equal(having.depth[~having.subject], missing.depth[~having.subject])
    assert (having.depth[having.subject] < missing.depth[having.subject]).all()
    assert having.subject.sum() > 50
    assert not missing.subject.any()
    dark = shadow & ~having.subject
    assert (having.rgb[dark] <= missing.rgb[dark]).all()


def _flow_case(seed: int, move: str):
    places = sample_places([seed])
    plan = sample_shot(seed, num_frames=9, move=move)
    return places, plan.trajectory.world_from_camera[None, ::2], torch.arange(5)[None] * 0.2


@pytest.mark.parametrize(("seed", "move"), [(1, "arc_left"), (2, "truck_right"), (3, "pan_left"), (4, "dolly_out")])
def test_flow_of_the_place_is_the_projection_of_its_points(seed, move):
    places, poses, time = _flow_case(seed, move)
    flow = optical_flow(places, poses, 90, 64, 36, time=time)
    rendering = render(places, poses, 90, 64, 36, time=time)
    focal = float(focal_length(90, 64))
    for frame in range(4):
        static = ~rendering.subject[0, frame]
        points = rendering.points[0, frame].double()
        camera = torch.linalg.inv(poses[0, frame + 1])
        seen = points @ camera[:3, :3].T + camera[:3, 3]
        ahead = static & (seen[..., 2] > 0.05)
        x = focal * seen[..., 0] / seen[..., 2] + 32
        y = focal * seen[..., 1] / seen[..., 2] + 18
        columns, rows = torch.arange(64) + 0.5, torch.arange(36)[:, None] + 0.5
        error = torch.stack([x - columns, y - rows], dim=-1) - flow.flow[0, frame].double()
        assert error[ahead].abs().max() < 2e-3


@pytest.mark.parametrize(("seed", "move"), [(1, "arc_left"), (12, "truck_left"), (4, "dolly_out")])
def test_a_visible_point_is_found_in_the_next_frame_where_the_flow_says(seed, move):
    places, poses, time = _flow_case(seed, move)
    flow = optical_flow(places, poses, 90, 160, 90, time=time)
    rendering = render(places, poses, 90, 160, 90, time=time)
    for frame in range(4):
        start = torch.stack(torch.meshgrid(torch.arange(160) + 0.5, torch.arange(90) + 0.5, indexing="xy"), dim=-1)
        there = start + flow.flow[0, frame]
        visible = flow.visible[0, frame]
        assert visible.any()
        grid = (there / torch.tensor([80.0, 45.0]) - 1)[None]
        looked_up = F.grid_sample(
            rendering.rgb[0, frame + 1].permute(2, 0, 1)[None], grid, mode="bilinear", align_corners=False
        )[0].permute(1, 2, 0)
        error = (looked_up - rendering.rgb[0, frame]).abs().mean(-1)
        # Brightness constancy: surfaces are matt; only edges between pixels and a moving shadow differ.
        assert error[visible].mean() < 0.035
        hit = rendering.subject[0, frame + 1][
            there[..., 1].floor().long().clamp(0, 89), there[..., 0].floor().long().clamp(0, 159)
        ]
        same = (hit == rendering.subject[0, frame])[visible]
        assert same.float().mean() > 0.985  # nearest pixels at silhouettes


def test_flow_of_the_subject_follows_its_parts_and_what_it_hides_is_not_visible():
    from test_rooms_places import _place_where

    seed = _place_where(shape="ball", action="rolls left")
    places, time = sample_places([seed]), torch.tensor([[0.0, 0.25]])
    poses = START.expand(1, 2, 4, 4)
    flow = optical_flow(places, poses, 90, 128, 96, time=time)
    rendering = render(places, poses, 90, 128, 96, time=time)
    ball = rendering.subject[0, 0]
    static = ~ball
    assert flow.flow[0, 0][static].abs().max() < 1e-3
    hidden = static & rendering.subject[0, 1]  # the ball rolls in front of these
    assert hidden.sum() > 3
    assert not flow.visible[0, 0][hidden].any()
    assert flow.visible[0, 0][static & ~hidden].float().mean() > 0.999
    # The middle of the ball moves as its centre does; the turn adds what a rolling wheel adds at that place.
    pose = subject_poses(places.subjects, time.double())[0, :, 0]
    points = rendering.points[0, 0][ball].double()
    moved = (pose[1] @ torch.linalg.inv(pose[0]))[:3] @ torch.cat([points.T, torch.ones(1, len(points)).double()])
    focal = 64.0
    before, after = (focal * p[:2] / p[2] for p in (points.T, moved))
    body = (points - pose[0, :3, 3]).norm(dim=-1) < 1.002 * float(places.subjects.half[0, 0, 0])  # not the eyes
    error = (after - before).T - flow.flow[0, 0][ball].double()
    assert body.sum() > 50
    assert error[body].abs().max() < 2e-3


def test_bad_requests_are_refused_in_a_sentence(monkeypatch):
    places = sample_places([1])
    poses = START[None, None]
    with pytest.raises(ShapeError, match=r"world_from_camera must have shape \[1, n, 4, 4\]; got \[2, 1, 4, 4\]"):
        render(places, START.expand(2, 1, 4, 4), 90, 8, 8)
    with pytest.raises(PoseError, match="determinant is -1"):
        render(places, poses * torch.tensor([-1.0, 1, 1, 1]).double(), 90, 8, 8)
    with pytest.raises(ShapeError, match=r"time must have shape \[1, 1\]; got \[1, 2\]"):
        render(places, poses, 90, 8, 8, time=torch.zeros(1, 2))
    with pytest.raises(ValueError, match="fov_degrees must lie between 0 and 180; got 180"):
        render(places, poses, 180, 8, 8)
    with pytest.raises(ValueError, match="width must be a positive number; got 0"):
        render(places, poses, 90, 0, 8)
    with pytest.raises(ValueError, match="samples must be 1 to 8 along a pixel's side; got 9"):
        render(places, poses, 90, 8, 8, samples=9)
    with pytest.raises(ShapeError, match="twice as wide as high"):
        render_panorama(places, START[None], 60, 32)
    with pytest.raises(ShapeError, match="needs at least two frames; got 1"):
        optical_flow(places, poses, 90, 8, 8)
    compiled_tracer.cache_clear()
    monkeypatch.setattr(tracing_module.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler, and neither g\+\+ nor clang\+\+ was found"):
        render(places, poses, 90, 8, 8, compiled=True)


@pytest.mark.slow
def test_the_compiled_tracer_draws_the_same_pictures():
    places, time = sample_places([2, 3]), torch.tensor([[0.5], [1.0]])
    for moment in (None, time):
        eager = render(places, START.expand(2, 1, 4, 4), 90, 96, 64, time=moment)
        compiled = render(places, START.expand(2, 1, 4, 4), 90, 96, 64, time=moment, compiled=True)
        # Fused arithmetic rounds otherwise: a ray in ten thousand ends on the other side of an edge.
        assert ((eager.rgb - compiled.rgb).abs() > 2e-3).float().mean() < 1e-3
        assert ((eager.depth / compiled.depth - 1).abs() > 1e-4).float().mean() < 1e-3
        assert (eager.subject != compiled.subject).float().mean() < 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_pictures():
    places, time = sample_places([2, 3], "courtyard"), torch.tensor([[0.5], [1.0]])
    here = render(places, START.expand(2, 1, 4, 4), 90, 96, 64, time=time, samples=2)
    there = render(places.to("cuda"), START.expand(2, 1, 4, 4), 90, 96, 64, time=time, samples=2)
    assert ((here.rgb - there.rgb.cpu()).abs() > 2e-3).float().mean() < 1e-3
    assert ((here.depth / there.depth.cpu() - 1).abs() > 1e-4).float().mean() < 1e-3
