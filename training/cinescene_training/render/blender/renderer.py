"""A job to a place of the dataset: the panorama, and every path filmed with the subject and without."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cinescene_core.cameras import inverse_pose
from cinescene_core.types import Trajectory

from ...data.layout import PlaceClip, write_place
from .cycles import Cycles
from .film_set import FilmSet, open_set
from .job import BlenderJob, plan_paths, settle_captions

NEARER = 1e-3
"""Share of the distance by which the subject must stand before the set to count as seen."""
Progress = Callable[[int, int], None]


def render_place(job: BlenderJob, on_picture: Progress | None = None) -> None:
    """Render a place and write it in the released layout. Raises what its parts refuse; see `render_blender`."""
    film_set = open_set(job)
    paths = plan_paths(job, film_set.subject_distance)
    caption, action = settle_captions(job, film_set.captions)
    cycles = Cycles(film_set.scene, job.cycles, film_set.metres_per_unit)
    pictures = 1 + 2 * sum(map(len, paths))
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if on_picture is not None:
            on_picture(done, pictures)

    panorama = render_panorama(film_set, cycles, job.panorama_width)
    count()
    clips = _clips(job, film_set, cycles, paths, count)
    write_place(job.root, job.name, panorama, clips, caption=caption, caption_action_only=action)


def render_panorama(film_set: FilmSet, cycles: Cycles, width: int) -> Tensor:
    """[width / 2, width, 3] in 0..1: the place without its subject, upright, its centre at the start view's heading."""
    film_set.show_subject(False)
    film_set.go_to(0.0)
    return cycles.panorama(film_set.world_from_panorama, width)


def place_path(film_set: FilmSet, path: Trajectory) -> Trajectory:
    """A path that begins at the start view, in the panorama's axes."""
    panorama_from_start = inverse_pose(film_set.world_from_panorama) @ film_set.world_from_start
    relative = inverse_pose(path.world_from_camera[:1]) @ path.world_from_camera
    return Trajectory(
        panorama_from_start @ relative,
        path.fov_degrees,
        fps=path.fps,
        subject_distance=film_set.subject_distance,
        provenance=path.provenance,
    )


def _clips(
    job: BlenderJob, film_set: FilmSet, cycles: Cycles, paths: list[Trajectory], count: Callable[[], None]
) -> Iterator[PlaceClip]:
    for number, path in enumerate(paths, start=1):
        placed = place_path(film_set, path)
        with_subject, near = _film(job, film_set, cycles, placed, True, count)
        without, depth = _film(job, film_set, cycles, placed, False, count)
        mask = None if near is None or depth is None else (near < depth * (1 - NEARER)).float()
        yield PlaceClip(
            number=number, trajectory=placed, with_subject=with_subject, without_subject=without,
            depth=depth, subject_mask=mask,
        )  # fmt: skip


def _film(
    job: BlenderJob, film_set: FilmSet, cycles: Cycles, path: Trajectory, subject: bool, count: Callable[[], None]
) -> tuple[Tensor, Tensor | None]:
    """Frames [f, h, w, 3] and, when the job asks for it, depth [f, h, w]."""
    film_set.show_subject(subject)
    poses = film_set.world_from_panorama @ path.world_from_camera
    frames, depths = [], []
    for index, (pose, lens) in enumerate(zip(poses, path.fov_degrees.tolist(), strict=True)):
        film_set.go_to(index / path.fps)
        frames.append(cycles.picture(pose, lens, job.width, job.height))
        if job.depth:
            depths.append(cycles.depth(pose, lens, job.width, job.height))
        count()
    return torch.stack(frames), torch.stack(depths) if depths else None
