"""Camera paths: a move in film words, or a file."""

import warnings
from typing import Any

from ..cinescene_core.checks import CineSceneWarning, check_num_frames
from ..cinescene_core.config import CineSceneConfig
from ..cinescene_core.trajectory import EASINGS, PRESETS, Preset, load_trajectory, preset_trajectory
from .loaders import content_of, listed_files, named_file
from .sockets import Trajectory, io, problem_of, schema, show_warnings

DEFAULTS = CineSceneConfig()
SUBJECT_DISTANCE = 4.0
"""Metres; where the amounts the widgets start with keep a subject in the frame."""
FIRST_MOVE = "pan_right"
SUFFIXES = (".json", ".npy")


def move_option(preset: Preset) -> io.DynamicCombo.Option:
    """One move with the widget that belongs to it, or with none."""
    if not preset.unit:
        return io.DynamicCombo.Option(preset.name, [])
    trained = in_words(*preset.trained_range(SUBJECT_DISTANCE))
    if preset.relative:
        times = in_words(preset.minimum, preset.maximum)
        trained = f"{times} times the subject's distance, which is {trained} at {SUBJECT_DISTANCE:g} metres"
    amount = io.Float.Input(
        preset.unit,
        default=preset.default_amount(SUBJECT_DISTANCE),
        min=0,
        max=preset.largest_amount,
        step=0.1 if preset.unit == "metres" else 1,
        tooltip=f"{preset.description} In {preset.unit}; the model was trained on {trained}.",
    )
    return io.DynamicCombo.Option(preset.name, [amount])


def in_words(low: float, high: float) -> str:
    """A range as a person writes it: "75", "0.25 to 1.25"."""
    return f"{low:g}" if low == high else f"{low:.3g} to {high:.3g}"


def warn_beyond_training(preset: Preset, amount: float, subject_distance: float) -> None:
    """Warn of a move that goes farther than any in training; a shorter one stays on poses the model knows."""
    low, high = preset.trained_range(subject_distance)
    if amount > high:
        given = f" for a subject {subject_distance:g} metres away" if preset.relative else ""
        warnings.warn(
            f"{preset.name} by {amount:g} {preset.unit} goes beyond what the model was trained on, "
            f"{in_words(low, high)} {preset.unit}{given}: the picture may not follow.",
            CineSceneWarning,
            stacklevel=2,
        )


def shot_inputs() -> list[io.Input]:
    """Length, subject, lens and speed of a shot."""
    return [
        io.Int.Input(
            "num_frames",
            default=DEFAULTS.num_frames,
            min=1,
            max=1025,
            step=4,
            tooltip="Length of the shot in frames: 4n + 1. "
            f"The full model was trained with {DEFAULTS.num_frames}, nano is made for 17.",
        ),
        io.Float.Input(
            "subject_distance",
            default=SUBJECT_DISTANCE,
            min=0.1,
            max=1000,
            step=0.1,
            tooltip="How far the subject is from the first camera, in metres. Arcs turn around that point.",
        ),
        io.Float.Input(
            "fov_degrees",
            default=DEFAULTS.fov_degrees,
            min=1,
            max=179,
            step=1,
            tooltip="How wide the lens sees, in degrees (horizontal field of view); as wide as the views.",
        ),
        io.Float.Input(
            "fps",
            default=DEFAULTS.fps,
            min=1,
            max=120,
            step=1,
            tooltip="Speed of the video, in frames per second.",
        ),
        io.Combo.Input(
            "easing",
            options=list(EASINGS),
            default="linear",
            tooltip="How the move gathers and loses speed; 'linear' is constant speed, as the model was trained.",
        ),
    ]


def trajectory_outputs() -> list[io.Output]:
    """What every camera path gives."""
    return [
        Trajectory.Output(display_name="trajectory", tooltip="For Animatic and CineScene Conditioning."),
        io.Float.Output(display_name="fps", tooltip="Frames per second, for Create Video."),
    ]


class TrajectoryPreset(io.ComfyNode):
    """CineSceneTrajectoryPreset."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        first = PRESETS[FIRST_MOVE]  # the page starts on the first option
        moves = [first, *(preset for preset in PRESETS.values() if preset is not first)]
        return schema(
            node_id="CineSceneTrajectoryPreset",
            display_name="Camera Move",
            category="camera",
            description="A camera path from one move: pan, tilt, arc, dolly, truck or pedestal. "
            "Directions are the camera's.",
            search_aliases=["camera", "pan", "tilt", "dolly", "truck", "pedestal", "arc", "orbit", "trajectory"],
            inputs=[
                io.DynamicCombo.Input(
                    "move",
                    options=[move_option(preset) for preset in moves],
                    tooltip="What the camera does. Turns and arcs are counted in degrees, moves in metres.",
                ),
                *shot_inputs(),
            ],
            outputs=trajectory_outputs(),
        )

    @classmethod
    def validate_inputs(cls, num_frames: int, move: dict[str, Any] | None = None) -> str | bool:
        if move is None:  # the host knows no widgets for it
            return f"move must be one of {', '.join(PRESETS)}. Choose one of these."
        return problem_of(check_num_frames, num_frames=num_frames)

    @classmethod
    @show_warnings
    def execute(cls, move: dict[str, Any], **settings: Any) -> io.NodeOutput:
        preset = PRESETS[move["move"]]
        amount = move[preset.unit] if preset.unit else None
        path = preset_trajectory(preset.name, amount=amount, **settings)
        warn_beyond_training(preset, amount or 0, path.subject_distance)
        return io.NodeOutput(path, path.fps)


class TrajectoryFile(io.ComfyNode):
    """CineSceneTrajectoryFile."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        def override(name: str, what: str, unit: str, largest: float) -> io.Float.Input:
            return io.Float.Input(
                name,
                default=0,
                min=0,
                max=largest,
                step=0.1,
                advanced=True,
                tooltip=f"{what}, in {unit}, in place of the file's own; 0 keeps that.",
            )

        return schema(
            node_id="CineSceneTrajectoryFile",
            display_name="Camera Path from File",
            category="camera",
            description="Reads a camera path from ComfyUI's input folder: "
            "CineScene's .json, or a .npy of camera-to-world poses in OpenCV axes and metres.",
            search_aliases=["camera", "trajectory", "poses", "extrinsics", "json", "npy", "import"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=listed_files(SUFFIXES),
                    tooltip="A .json or .npy file in ComfyUI's input folder, with 4n + 1 frames.",
                ),
                override("fov_degrees", "How wide the lens sees", "degrees", 179),
                override("fps", "Speed of the video", "frames per second", 120),
                override("subject_distance", "How far the subject is from the first camera", "metres", 1000),
            ],
            outputs=trajectory_outputs(),
        )

    @classmethod
    def validate_inputs(cls, file: str) -> str | bool:
        return problem_of(named_file, name=file, suffixes=SUFFIXES)

    @classmethod
    def fingerprint_inputs(cls, file: str, **settings: float) -> str:
        return content_of(file, SUFFIXES)

    @classmethod
    @show_warnings
    def execute(cls, file: str, **overrides: float) -> io.NodeOutput:
        given = {name: value for name, value in overrides.items() if value}
        path = load_trajectory(named_file(file, SUFFIXES), **given)
        return io.NodeOutput(path, path.fps)
