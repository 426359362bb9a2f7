"""A set in Blender, ready to be filmed: where the camera starts, what the subject is, what time it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import torch
from mathutils import Vector
from torch import Tensor

from cinescene_core.cameras import inverse_pose
from cinescene_core.checks import FileFormatError

from .axes import level_pose, points_from_blender, pose_from_blender
from .job import BlenderJob
from .set_courtyard import build_courtyard

SUBJECT_MARK = "subject_start"
"""Empty that marks where the subject performs; without it, the middle of the subject's bodies at the first frame."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FilmSet:
    """An open Blender scene. Blender holds one at a time: opening the next closes it."""

    scene: Any
    subject: Any
    """The collection with the subject."""
    metres_per_unit: float
    world_from_start: Tensor
    """[4, 4] pose of the start view in Blender's scene (but OpenCV's axes), metres."""
    subject_distance: float
    """Metres from the start view to the subject along the optical axis."""
    captions: tuple[str, str]
    """The scene's own (caption, caption_action_only); empty where it states none."""

    @property
    def world_from_panorama(self) -> Tensor:
        """[4, 4] upright pose at the start view's centre, with its heading."""
        return level_pose(self.world_from_start)

    def show_subject(self, shown: bool) -> None:
        """Put the subject into the picture, or take it out with its shadows and reflections."""
        # Hiding one object makes Blender list the collection anew, so the list is copied first.
        for thing in list(self.subject.all_objects):
            thing.hide_render = not shown
        # Keys on an object's visibility cannot bring it back into a layer that leaves its collection out.
        _find(bpy.context.view_layer.layer_collection, self.subject).exclude = not shown

    def go_to(self, seconds: float) -> None:
        """Set the scene's time, counted from its first frame."""
        render = self.scene.render
        frame = self.scene.frame_start + seconds * render.fps / render.fps_base
        whole = int(frame + 1e-6)
        self.scene.frame_set(whole, subframe=max(0.0, frame - whole))


def open_set(job: BlenderJob) -> FilmSet:
    """Open the job's .blend, or build its scripted set, and find what filming needs.

    Scripts inside a .blend are not run.

    Raises:
        FileFormatError: Blender cannot read the file, or it has no start camera or no subject; the message says how
            to add one.
        PoseError: the start camera's matrix is no pose, or it looks straight up or down.
        ValueError: the subject is behind the start camera.
    """
    if job.scripted:
        bpy.ops.wm.read_factory_settings(use_empty=True)
        build_courtyard(job.seed)
    else:
        try:
            bpy.ops.wm.open_mainfile(filepath=str(Path(job.source).resolve()), load_ui=False, use_scripts=False)
        except RuntimeError as error:
            reason = str(error).strip().removeprefix("Error: ")
            raise FileFormatError(
                f"Blender {bpy.app.version_string} cannot open {job.source} ({reason}). Save it again from Blender."
            ) from error
    return find_set(job)


def find_set(job: BlenderJob) -> FilmSet:
    """What filming needs, found in the scene that is open; raises as `open_set` does."""
    scene = bpy.context.scene
    scene.frame_set(scene.frame_start)
    # Markers may switch the camera while time runs.
    scene.timeline_markers.clear()
    units = scene.unit_settings
    metres_per_unit = 1.0 if units.system == "NONE" else float(units.scale_length)
    subject = _subject(job, scene)
    start = pose_from_blender(torch.tensor([list(row) for row in _camera(job, scene).matrix_world]), metres_per_unit)
    level_pose(start)
    mark = inverse_pose(start) @ torch.cat([_mark(scene, subject, metres_per_unit), torch.ones(1).double()])
    distance = float(mark[2])
    if distance <= 0:
        raise ValueError(
            f"The subject of {job.source} is not in front of the start camera (it is {distance:.2f} metres along its "
            f"axis). Turn the camera towards it, or move the empty '{SUBJECT_MARK}'."
        )
    stated = tuple(str(scene.get(key, "")) for key in ("caption", "caption_action_only"))
    return FilmSet(
        scene=scene, subject=subject, metres_per_unit=metres_per_unit, world_from_start=start,
        subject_distance=distance, captions=(stated[0], stated[1]),
    )  # fmt: skip


def _camera(job: BlenderJob, scene: Any) -> Any:
    cameras = sorted(thing.name for thing in scene.objects if thing.type == "CAMERA")
    if not job.camera:
        if scene.camera is None:
            raise FileFormatError(
                f"{job.source} has no active camera, so shots have nowhere to start. Make a camera the scene's active "
                f"one in Blender, or name one of its cameras ({', '.join(cameras) or 'there is none; add one'})."
            )
        return scene.camera
    thing = scene.objects.get(job.camera)
    if thing is None or thing.type != "CAMERA":
        raise FileFormatError(
            f"{job.source} has no camera named {job.camera!r}; it has {', '.join(cameras) or 'none'}. Name one of "
            "them, or add one in Blender."
        )
    return thing


def _subject(job: BlenderJob, scene: Any) -> Any:
    found = next((c for c in scene.collection.children_recursive if c.name == job.subject), None)
    if found is None or not found.all_objects:
        names = sorted(collection.name for collection in scene.collection.children_recursive)
        state = "an empty collection" if found is not None else "no collection"
        raise FileFormatError(
            f"{job.source} has {state} named {job.subject!r}, so nothing can be taken out for the clips without a "
            "subject. Move the subject into one in Blender, or name the one it is in "
            f"({', '.join(names) or 'there is none'})."
        )
    return found


def _mark(scene: Any, subject: Any, metres_per_unit: float) -> Tensor:
    """[3] where the subject performs, metres, OpenCV axes."""
    marker = scene.objects.get(SUBJECT_MARK)
    if marker is not None:
        return points_from_blender(torch.tensor(list(marker.matrix_world.translation)), metres_per_unit)
    corners = [
        np.array(thing.matrix_world @ Vector(corner))
        for thing in subject.all_objects
        if thing.type in ("MESH", "CURVE", "META", "SURFACE", "FONT")
        for corner in thing.bound_box
    ]
    if not corners:
        corners = [np.array(thing.matrix_world.translation) for thing in subject.all_objects]
    cloud = np.stack(corners)
    return points_from_blender(torch.from_numpy((cloud.min(0) + cloud.max(0)) / 2), metres_per_unit)


def _find(layer: Any, collection: Any) -> Any:
    if layer.collection == collection:
        return layer
    for child in layer.children:
        found = _find(child, collection)
        if found is not None:
            return found
    return None
