"""A list of shots: one run of the graph films every row."""

import hashlib
from pathlib import Path
from typing import Any

import folder_paths

from ..cinescene_core.config import CineSceneConfig
from ..cinescene_core.shots.rows import LIST_SUFFIXES, ShotRow, read_shots
from ..cinescene_core.types import Trajectory as CameraPath
from ..cinescene_core.types import content_digest
from .loaders import listed_files, named_file
from .sockets import Trajectory, io, problem_of, schema, show_warnings
from .trajectory import shot_inputs

DEFAULTS = CineSceneConfig()
SHARED = ("num_frames", "fov_degrees", "fps")
"""Widgets of a camera path that serve the rows that say nothing."""
EXAMPLE_PATH = Path(__file__).parents[1] / "cinescene_core/assets/example_shots.csv"
"""The bundled list: three shots that nano knows the words of."""
EXAMPLE = f"{EXAMPLE_PATH.name} [cinescene]"
"""What the node calls it; no file of the input folder that ends like a list has such a name."""


def list_path(file: str) -> Path:
    """The path of a list that the node offers.

    Raises:
        FileNotFoundError: it is neither the bundled one nor in the input folder.
    """
    return EXAMPLE_PATH if file == EXAMPLE else named_file(file, LIST_SUFFIXES)


def rows_of(file: str, first: int = 1, count: int = 0) -> tuple[ShotRow, ...]:
    """Rows of a list, from the `first` on; 0 is all.

    Raises:
        ValueError: no such row, or a list that cannot be read.
        FileNotFoundError: there is no such file.
    """
    rows = read_shots(list_path(file), root=folder_paths.get_input_directory())
    if first > len(rows):
        raise ValueError(f"first is shot {first}, but {file} has {len(rows)}. Start at an earlier one.")
    return rows[first - 1 : first - 1 + count if count else None]


class ShotList(io.ComfyNode):
    """CineSceneShotList."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        def size(name: str, default: int, side: str) -> io.Int.Input:
            return io.Int.Input(
                name,
                default=default,
                min=16,
                max=4096,
                step=16,
                tooltip=f"{side} in pixels for rows that name no size; a multiple of 16.",
            )

        def listed(kind: Any, name: str, tooltip: str) -> io.Output:
            return kind.Output(display_name=name, tooltip=tooltip, is_output_list=True)

        return schema(
            node_id="CineSceneShotList",
            display_name="Shot List",
            category="shot",
            description="Reads a list of shots from ComfyUI's input folder, "
            "the same file that 'cinescene shots' films. "
            "Every output is a list: the nodes behind it run once per row, and the place is encoded once.",
            search_aliases=["batch", "csv", "json", "yaml", "queue", "prompts", "shots", "list"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=[*listed_files(LIST_SUFFIXES), EXAMPLE],
                    tooltip="A .csv, .json or .yaml file in ComfyUI's input folder, with the columns name, prompt, "
                    f"path, and if you like negative, seed, size, frames and lens. '{EXAMPLE}' is built in.",
                ),
                io.Int.Input(
                    "first", default=1, min=1, max=100_000, tooltip="The first shot to film; 1 is the top one."
                ),
                io.Int.Input(
                    "count",
                    default=0,
                    min=0,
                    max=100_000,
                    tooltip="How many shots to film in one run; 0 is all. "
                    "ComfyUI keeps the frames of all of them in memory until the run ends.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**64 - 1, tooltip="Which noise rows start from that name no seed."
                ),
                *(widget for widget in shot_inputs() if widget.id in SHARED),
                size("width", DEFAULTS.width, "Width"),
                size("height", DEFAULTS.height, "Height"),
            ],
            outputs=[
                listed(io.String, "name", "Names of the shots, for the file name of Save Video."),
                listed(io.String, "prompt", "What moves in the place, for CLIP Text Encode."),
                listed(io.String, "negative", "What to keep out of the video, for CLIP Text Encode."),
                listed(Trajectory, "trajectory", "Camera paths, for Animatic and CineScene Conditioning."),
                listed(io.Int, "seed", "For the sampler."),
                listed(io.Float, "fps", "Frames per second, for Create Video."),
                listed(io.Int, "width", "In pixels, for Views from Panorama where rows differ in size."),
                listed(io.Int, "height", "In pixels, for Views from Panorama where rows differ in size."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str, first: int = 1) -> str | bool:
        return problem_of(rows_of, file=file, first=first)

    @classmethod
    def fingerprint_inputs(cls, file: str, **settings: float) -> str:
        """The list, and what the path files that it names hold."""
        paths = (row.path for row in rows_of(file))
        files = [content_digest(path.world_from_camera) for path in paths if isinstance(path, CameraPath)]
        content = hashlib.sha256(list_path(file).read_bytes()).hexdigest()
        return hashlib.sha256("".join([content, *files]).encode()).hexdigest()

    @classmethod
    @show_warnings
    def execute(
        cls, file: str, first: int, count: int, seed: int, width: int, height: int, **shared: float
    ) -> io.NodeOutput:
        rows = rows_of(file, first, count)
        paths = [row.trajectory(**shared) for row in rows]
        sizes = [row.size or (width, height) for row in rows]
        return io.NodeOutput(
            [row.name for row in rows],
            [row.prompt for row in rows],
            [row.negative for row in rows],
            paths,
            [seed if row.seed is None else row.seed for row in rows],
            [path.fps for path in paths],
            [size[0] for size in sizes],
            [size[1] for size in sizes],
        )
