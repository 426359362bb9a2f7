"""The renderer against geometry that is known beforehand. Runs where Blender's Python package is installed."""

import math
import sys

import pytest
import torch

bpy = pytest.importorskip("bpy", reason='needs Blender: pip install "cinescene-training[blender]"')

from bpy_extras.object_utils import world_to_camera_view  # noqa: E402
from mathutils import Matrix, Vector  # noqa: E402

from cinescene_core.cameras import focal_length, pixel_rays, pose_from, rotation_from_angles  # noqa: E402
from cinescene_core.checks import FileFormatError, PoseError  # noqa: E402
from cinescene_core.config import ViewConfig  # noqa: E402
from cinescene_core.panorama import directions_to_pixels  # noqa: E402
from cinescene_training.data.layout import SceneDecoupledFootage  # noqa: E402
from cinescene_training.render.blender import BlenderJob, CyclesSettings, render_blender  # noqa: E402
from cinescene_training.render.blender.axes import points_to_blender, pose_to_blender  # noqa: E402
from cinescene_training.render.blender.cycles import Cycles  # noqa: E402
from cinescene_training.render.blender.film_set import FilmSet, find_set, open_set  # noqa: E402
from cinescene_training.render.blender.job import plan_paths  # noqa: E402
from cinescene_training.render.blender.renderer import place_path, render_panorama  # noqa: E402

SETTINGS = CyclesSettings(samples=1, denoise=False)
CAMERA = (2.0, -3.0, 1.5)
"""Blender's axes, in the file's units."""
HEADING, PITCH = 30.0, 10.0
"""Degrees to the right of Blender's +y, and above the horizon."""
UNIT = 0.5
"""Metres per unit of the file."""


def glowing(name: str, colour: tuple[float, float, float]):
    material = bpy.data.materials.new(name)
    tree = material.node_tree
    emission = tree.nodes.new("ShaderNodeEmission")
    emission.inputs["Color"].default_value = (*colour, 1.0)
    tree.links.new(emission.outputs[0], tree.nodes["Material Output"].inputs["Surface"])
    return material


def add_cube(collection, name, centre, size, colour):
    bpy.ops.mesh.primitive_cube_add(size=size, location=centre)
    cube = bpy.context.object
    cube.name = name
    cube.data.materials.append(glowing(name, colour))
    for other in list(cube.users_collection):
        other.objects.unlink(cube)
    collection.objects.link(cube)
    return cube


def ahead(right: float, up: float, forward: float) -> Vector:
    """A place given from the camera's, level with it and along its heading, in the file's units."""
    yaw = math.radians(HEADING)
    x = right * math.cos(yaw) + forward * math.sin(yaw)
    y = -right * math.sin(yaw) + forward * math.cos(yaw)
    return Vector(CAMERA) + Vector((x, y, up))


def build(source: str) -> BlenderJob:
    """A file in half metres: a red cube 8 units ahead that walks to the right, a blue cube behind the camera."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.unit_settings.system, scene.unit_settings.scale_length = "METRIC", UNIT
    scene.view_settings.view_transform = "Standard"
    world = bpy.data.worlds.new("black")
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (0, 0, 0, 1)
    scene.world = world
    place, subject = (bpy.data.collections.new(name) for name in ("Set", "Subject"))
    for collection in (place, subject):
        scene.collection.children.link(collection)
    red = add_cube(subject, "red", ahead(0, 0, 8), 0.6, (1, 0, 0))
    red.rotation_euler = (0, 0, -math.radians(HEADING))
    scene.render.fps = 10
    for frame, shift in ((1, 0.0), (11, 4.0)):
        red.location = ahead(shift, 0, 8)
        red.keyframe_insert("location", frame=frame)
    for layer in red.animation_data.action.layers:
        for bag in layer.strips[0].channelbags:
            for curve in bag.fcurves:
                for key in curve.keyframe_points:
                    key.interpolation = "LINEAR"
    add_cube(place, "blue", ahead(0, 0, -6), 1.0, (0, 0, 1))
    add_cube(place, "green", ahead(6, 3, 0), 1.0, (0, 1, 0))
    camera = bpy.data.objects.new("start", bpy.data.cameras.new("start"))
    camera.location = CAMERA
    camera.rotation_euler = (math.radians(90 + PITCH), 0, -math.radians(HEADING))
    place.objects.link(camera)
    scene.camera = camera
    scene["caption"], scene["caption_action_only"] = "a red cube slides in a dark place", "a red cube slides"
    bpy.context.view_layer.update()
    bpy.ops.wm.save_as_mainfile(filepath=source)
    return BlenderJob(
        root="", name="place", source=source, width=64, height=36, num_frames=5, fps=5.0, panorama_width=64,
        moves=("static", "pan_right=30"), cycles=SETTINGS,
    )  # fmt: skip


@pytest.fixture
def job(tmp_path):
    return build(str(tmp_path / "set.blend"))


def opened(job: BlenderJob) -> tuple[FilmSet, Cycles]:
    film_set = open_set(job)
    return film_set, Cycles(film_set.scene, job.cycles, film_set.metres_per_unit)


def centre_of(mask: torch.Tensor) -> tuple[float, float]:
    """Mean pixel (x, y) of a mask."""
    y, x = mask.nonzero(as_tuple=True)
    return (x.double() + 0.5).mean().item(), (y.double() + 0.5).mean().item()


def test_blender_projects_a_point_to_the_pixel_whose_ray_meets_it():
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = 672, 384
    pose = pose_from(rotation_from_angles(37.0, -21.0, 13.0), torch.tensor([1.5, -2.0, 4.0]).double())
    rays = pixel_rays(80.0, 672, 384) @ pose[:3, :3].T
    data = bpy.data.cameras.new("camera")
    data.sensor_fit, data.angle = "HORIZONTAL", math.radians(80.0)
    camera = bpy.data.objects.new("camera", data)
    scene.collection.objects.link(camera)
    camera.matrix_world = Matrix(pose_to_blender(pose).tolist())
    bpy.context.view_layer.update()
    for x, y, distance in ((0, 0, 2.0), (671, 0, 7.0), (400, 300, 3.5), (10, 383, 1.0)):
        point = pose[:3, 3] + distance * rays[y, x]
        right, up, depth = world_to_camera_view(scene, camera, Vector(points_to_blender(point).tolist()))
        # Blender keeps matrices in single precision: a thousandth of a pixel.
        assert right * 672 == pytest.approx(x + 0.5, abs=2e-3)
        assert (1 - up) * 384 == pytest.approx(y + 0.5, abs=2e-3)
        assert depth == pytest.approx(distance, abs=1e-5)


def test_what_is_found_in_a_file(job):
    film_set = open_set(job)
    expected = rotation_from_angles(HEADING, PITCH)
    torch.testing.assert_close(film_set.world_from_start[:3, :3], expected, rtol=0, atol=1e-6)
    centre = torch.tensor([CAMERA[0], -CAMERA[2], CAMERA[1]]).double() * UNIT
    torch.testing.assert_close(film_set.world_from_start[:3, 3], centre)
    # The cube's middle is 8 units ahead of a camera that looks up by 10 degrees.
    assert film_set.subject_distance == pytest.approx(8 * UNIT * math.cos(math.radians(PITCH)), abs=1e-5)
    assert film_set.captions == ("a red cube slides in a dark place", "a red cube slides")


def test_a_panorama_is_upright_and_centred_on_the_start_views_heading(job):
    film_set, cycles = opened(job)
    film_set.show_subject(True)
    seen = cycles.panorama(film_set.world_from_panorama, 256)
    # As seen from the camera: red straight ahead, green 90 degrees to the right and atan(3/6) up, blue behind.
    directions = {0: (0.0, 0.0, 8.0), 1: (6.0, -3.0, 0.0)}
    for channel, direction in directions.items():
        x, y = directions_to_pixels(torch.tensor(direction).double(), 128, 256).tolist()
        assert centre_of(seen[..., channel] > 0.5) == pytest.approx((x, y), abs=0.7)
    blue = seen[..., 2] > 0.5
    assert centre_of(blue.roll(128, 1)) == pytest.approx((128, 64), abs=0.7)
    without = render_panorama(film_set, cycles, 256)
    assert not (without[..., 0] > 0.5).any()
    assert (without[..., 2] > 0.5).sum() == blue.sum()


def test_a_frame_shows_the_subject_where_it_is_at_that_second(job):
    film_set, cycles = opened(job)
    film_set.show_subject(True)
    pitch = rotation_from_angles(0.0, PITCH)
    focal = float(focal_length(90.0, 128))
    for seconds in (0.0, 0.25, 1.0):  # the file has 10 frames a second, and a quarter second lies between two
        film_set.go_to(seconds)
        seen = cycles.picture(film_set.world_from_start, 90.0, 128, 72)
        x, y, z = (pitch.T @ torch.tensor([4.0 * seconds, 0.0, 8.0]).double()).tolist()
        # The cube is 5 pixels wide, so the middle of its silhouette is within one of its own middle.
        where = centre_of(seen[..., 0] > 0.5)
        assert where == pytest.approx((64 + focal * x / z, 36 + focal * y / z), abs=1.0), seconds


def test_depth_is_metres_along_the_axis_and_infinite_where_nothing_is(job):
    film_set, cycles = opened(job)
    wall = add_cube(film_set.scene.collection.children["Set"], "wall", (0, 0, 0), 1.0, (1, 1, 1))
    # A plane at right angles to the heading, 10 units away; the camera looks up at it by 10 degrees.
    wall.rotation_euler = (0, 0, -math.radians(HEADING))
    wall.scale, wall.location = (400, 2, 6), ahead(0, 0, 11)
    film_set.show_subject(False)
    depth = cycles.depth(film_set.world_from_start, 90.0, 64, 36)
    rays = pixel_rays(90.0, 64, 36)
    level = rays @ rotation_from_angles(0.0, PITCH).T
    distance = 10 / level[..., 2]  # along each ray of z = 1, which is the depth along the axis, in units
    inside = (distance * level[..., 1]).abs() < 2.9
    outside = (distance * level[..., 1]).abs() > 3.1
    # A ray half a pixel off would be out by up to 2.7e-3; single precision leaves 1e-5.
    torch.testing.assert_close(depth[inside], distance[inside].float() * UNIT, rtol=1e-5, atol=0)
    assert depth[outside].isinf().all()
    assert inside.sum() > 500
    assert outside.sum() > 500


def test_the_same_job_gives_the_same_picture_and_another_seed_another(job):
    pictures = []
    for seed in (0, 0, 1):
        film_set = open_set(job)
        lamp = bpy.data.objects.new("lamp", bpy.data.lights.new("lamp", "AREA"))
        lamp.data.energy, lamp.data.size = 500.0, 4.0
        lamp.location = ahead(0, 4, 4)
        film_set.scene.collection.objects.link(lamp)
        bpy.ops.mesh.primitive_plane_add(size=40, location=ahead(0, -1.5, 0))
        cycles = Cycles(film_set.scene, CyclesSettings(samples=2, denoise=False, seed=seed), film_set.metres_per_unit)
        pictures.append(cycles.picture(film_set.world_from_start, 90.0, 32, 16))
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])


def test_a_path_starts_at_the_start_view_in_the_panoramas_axes(job):
    film_set = open_set(job)
    pan = place_path(film_set, plan_paths(job, film_set.subject_distance)[1])
    # The panorama is level and looks along the heading, so the start is a pitch alone.
    start = pose_from(rotation_from_angles(0.0, PITCH), torch.zeros(3))
    torch.testing.assert_close(pan.world_from_camera[0], start, rtol=0, atol=1e-6)
    end = start[:3, :3] @ rotation_from_angles(30.0)
    torch.testing.assert_close(pan.world_from_camera[-1, :3, :3], end, rtol=0, atol=1e-6)
    assert pan.subject_distance == film_set.subject_distance


def test_a_place_is_written_and_read_back(job, tmp_path):
    told = []
    place = BlenderJob(**{**vars(job), "root": str(tmp_path / "data"), "panorama_width": 512, "cycles": SETTINGS})
    render_blender(place, on_picture=lambda done, total: told.append((done, total)))
    assert told == [(k, 21) for k in range(1, 22)]
    footage = SceneDecoupledFootage(tmp_path / "data")
    assert not footage.problems
    assert [clip.has_subject for clip in footage.clips].count(True) == 2
    captions = {clip.caption for clip in footage.clips if clip.has_subject}
    assert captions == {"a red cube slides in a dark place"}
    name = next(clip.name for clip in footage.clips if clip.has_subject and "01_" in clip.name)
    frames = footage.frames(name, 5)
    # Red dominates where the mask says that the subject is, and nowhere else.
    mask = footage.subject_mask(name, 5)
    redness = frames[..., 0] - frames[..., 1:3].amax(-1)
    assert redness[mask > 0.5].mean() > 0.4
    assert redness[mask < 0.5].mean() < 0.02
    assert (mask > 0.5).flatten(1).any(1).all()
    twin = footage.frames(name.replace("whuman", "wohuman"), 5)
    assert (twin[..., 0] - twin[..., 1:3].amax(-1)).max() < 0.2
    # The first of the views cut from the panorama looks where the clips start: 10 degrees up, so it sees no blue.
    first = footage.views("place", ViewConfig(width=64, height=48)).images[0]
    assert first[..., 2].max() < 0.3
    with pytest.raises(FileExistsError, match=r"already has the place place. Remove it first"):
        render_blender(place)


@pytest.mark.parametrize(
    ("fault", "error", "sentence"),
    [
        ("camera", FileFormatError, r"has no active camera.* name one of its cameras \(there is none; add one\)"),
        ("name", FileFormatError, "has no camera named 'red'; it has start. Name one of them"),
        ("subject", FileFormatError, r"no collection named 'Actor', so nothing can be taken out.* \(Set, Subject\)"),
        ("nobody", FileFormatError, "has an empty collection named 'Subject'"),
        (
            "behind",
            ValueError,
            r"not in front of the start camera \(it is -.* metres along its axis\). Turn the camera",
        ),
        ("down", PoseError, "looks straight up or down, so the panorama has no heading"),
        ("damaged", FileFormatError, r"Blender .* cannot open .*set.blend .* Save it again from Blender"),
    ],
)
def test_a_file_that_cannot_be_filmed_is_refused(job, fault, error, sentence):
    scene, changes = bpy.context.scene, {}
    if fault == "camera":
        bpy.data.objects.remove(scene.camera)
    elif fault == "name":
        changes["camera"] = "red"
    elif fault == "subject":
        changes["subject"] = "Actor"
    elif fault == "nobody":
        bpy.data.objects.remove(bpy.data.objects["red"])
    elif fault == "behind":
        scene.camera.rotation_euler.z += math.pi
    elif fault == "down":
        scene.camera.rotation_euler = (0, 0, 0)
    bpy.ops.wm.save_mainfile()
    if fault == "damaged":
        with open(job.source, "wb") as file:
            file.write(b"BLENDER-nothing")
    with pytest.raises(error, match=sentence):
        open_set(BlenderJob(**{**vars(job), **changes}))


def test_a_marker_that_switches_the_camera_and_keys_on_visibility_change_nothing(job):
    scene = bpy.context.scene
    other = bpy.data.objects.new("other", bpy.data.cameras.new("other"))
    scene.collection.objects.link(other)
    scene.timeline_markers.new("take one", frame=1).camera = scene.camera
    scene.timeline_markers.new("take two", frame=5).camera = other
    red = bpy.data.objects["red"]
    red.hide_render = False
    red.keyframe_insert("hide_render", frame=3)
    bpy.ops.wm.save_mainfile()
    film_set, cycles = opened(job)
    for shown in (True, False):
        film_set.show_subject(shown)
        film_set.go_to(0.6)
        seen = cycles.picture(film_set.world_from_start, 90.0, 64, 36)
        assert (seen[..., 0] > 0.5).any() == shown


def test_a_device_that_is_not_there_is_refused(job):
    film_set = open_set(job)
    absent = "CUDA" if sys.platform == "darwin" else "METAL"
    with pytest.raises(ValueError, match=f"Cycles finds no {absent} device on this machine. Use device CPU"):
        Cycles(film_set.scene, CyclesSettings(device=absent), 1.0)


def test_an_empty_marks_where_the_subject_performs(job):
    mark = bpy.data.objects.new("subject_start", None)
    mark.location = ahead(0, 0, 5)
    bpy.context.scene.collection.objects.link(mark)
    bpy.context.view_layer.update()
    assert find_set(job).subject_distance == pytest.approx(5 * UNIT * math.cos(math.radians(PITCH)), abs=1e-5)
