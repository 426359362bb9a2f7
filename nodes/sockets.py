"""What the sockets carry, and how the nodes describe themselves; the only file that imports the host's node API."""

import dataclasses
import functools
import inspect
import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import ComfyExtension, io
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ..cinescene_core.checks import CineSceneWarning, ShapeError

__all__ = [
    "ComfyExtension",
    "Scene",
    "SceneEncoder",
    "Trajectory",
    "Views",
    "io",
    "one_picture",
    "problem_of",
    "progress",
    "schema",
    "show_warnings",
    "to_image",
]

Views = io.Custom("CINESCENE_VIEWS")
"""A `cinescene_core.types.Views`."""
Scene = io.Custom("CINESCENE_SCENE")
"""A `cinescene_core.types.Scene`."""
Trajectory = io.Custom("CINESCENE_TRAJECTORY")
"""A `cinescene_core.types.Trajectory`."""
SceneEncoder = io.Custom("CINESCENE_VGGT")
"""An `encoders.ManagedVGGT`."""

_SCHEMA_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}


def schema(**fields: Any) -> io.Schema:
    """A node's description, without the fields this host does not know yet; one of them would drop the whole pack."""
    fields["category"] = f"CineScene/{fields['category']}"
    return io.Schema(**{name: value for name, value in fields.items() if name in _SCHEMA_FIELDS})


def one_picture(image: Tensor) -> Tensor:
    """The one picture [h, w, c] of an IMAGE [b, h, w, c].

    Raises:
        ShapeError: a batch; which of them is meant cannot be known.
    """
    if image.ndim != 4 or len(image) != 1:
        raise ShapeError(
            f"This node takes one panorama; got an IMAGE of shape {list(image.shape)}. "
            "Pick one with Get Image from Batch."
        )
    return image[0]


def to_image(frames: Tensor) -> Tensor:
    """[b, h, w, 3] pictures as an IMAGE where the host keeps them; brighter than 1 is cut to 1."""
    return frames.clamp(0, 1).to(comfy.model_management.intermediate_device())


def progress() -> Callable[[int, int], None]:
    """A callback (done, total) that moves the node's progress bar and stops when the user says so."""
    bar: comfy.utils.ProgressBar | None = None

    def report(done: int, total: int) -> None:
        nonlocal bar
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar = bar or comfy.utils.ProgressBar(total)
        bar.update_absolute(done, total)

    return report


def problem_of(make: Callable[..., Any], **values: Any) -> str | bool:
    """For `validate_inputs`: True when `make` accepts the values, else its sentence.

    A value that arrives over a link is None until it runs: `make` gets its default, and where it
    has none the check is left to the run itself.
    """
    given = {name: value for name, value in values.items() if value is not None}
    try:
        inspect.signature(make).bind(**given)
    except TypeError:
        return True
    try:
        make(**given)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return True


def show_warnings(work: Callable[..., Any]) -> Callable[..., Any]:
    """Show what a node's work warns of, on the node that is running and in the log."""

    @functools.wraps(work)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CineSceneWarning)
            result = work(*args, **kwargs)
        told = []
        for entry in caught:
            if issubclass(entry.category, CineSceneWarning):
                told.append(str(entry.message))
                logging.warning("CineScene: %s", entry.message)
            else:
                warnings.showwarning(entry.message, entry.category, entry.filename, entry.lineno)
        if told:
            show_text("\n".join(told))
        return result

    return wrapped


def show_text(text: str) -> None:
    """Show a text on the node that is running, where a page is looking."""
    running, server = get_executing_context(), sys.modules.get("server")  # absent where nodes run without one
    if running is not None and server is not None:
        server.PromptServer.instance.send_progress_text(text, running.node_id)


def on_host_device(tensor: Tensor) -> Tensor:
    """A tensor on the device where this host keeps what travels between nodes."""
    return tensor.to(comfy.model_management.intermediate_device(), torch.float32)
