"""Places rendered by Blender: any .blend file, or a set built by script, to the released dataset's layout.

Blender is an extra (`pip install "cinescene-training[blender]"`). What needs it is imported when a job is rendered;
axes, jobs and captions work without.
"""

import importlib.util
from collections.abc import Callable

from .job import SCRIPTED_SETS, BlenderJob, CyclesSettings

__all__ = ["SCRIPTED_SETS", "BlenderJob", "CyclesSettings", "render_blender", "require_blender"]


def require_blender() -> None:
    """Require Blender's Python package.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    if importlib.util.find_spec("bpy") is None:
        raise ImportError(
            "Rendering with Blender needs its Python package bpy. "
            'Install it with: pip install "cinescene-training[blender]"'
        )


def render_blender(job: BlenderJob, on_picture: Callable[[int, int], None] | None = None) -> None:
    """Render one place: its panorama and every clip with and without the subject, in the released layout.

    The job's settings and the camera's placement are exact: the panorama is upright at the start view's centre, its
    middle is the start view's heading, and the camera file's world is the panorama's axes. The same job gives the
    same pictures on the same machine and version of Blender.

    Args:
        job: what to render.
        on_picture: called with (pictures done, pictures in all) after each.

    Raises:
        ImportError: Blender's package is not installed.
        FileExistsError: the dataset has a place of this name.
        FileFormatError, PoseError, ValueError: the .blend or a path cannot be used, or there is no device of the kind
            asked for; see `open_set`, `plan_paths`, `settle_captions`, `Cycles` and `write_place`.
    """
    require_blender()
    from .renderer import render_place

    render_place(job, on_picture)
