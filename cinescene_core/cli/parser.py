"""Commands and options. Defaults come from the configs; the work is in `commands`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import __version__
from ..config import ATTENTION_BACKENDS, CACHE_PLACES, CACHE_TYPES, CineSceneConfig, SamplingConfig, ViewConfig
from ..devices import default_device
from ..shots.rows import COLUMNS
from ..trajectory import EASINGS, PRESETS
from . import commands
from .doctor import run_doctor
from .shots import read_shard, run_shots

Options = Any
"""A parser, or a group of its options: argparse gives the class they share no public name."""
SAMPLING = SamplingConfig()
VIEWS = ViewConfig()
FULL_LENGTH = f"{CineSceneConfig().num_frames}, as the full-size model; the embedded one films 17"


def build_parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = argparse.ArgumentParser(
        prog="cinescene",
        description="Films a place: a 360-degree picture, a camera path and a prompt in; a video out.",
        epilog="Start with: cinescene demo",
    )
    parser.add_argument("--version", action="version", version=f"cinescene {__version__}")
    added = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], help: str) -> argparse.ArgumentParser:
        one = added.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        one.set_defaults(run=run)
        return one

    demo = command("demo", commands.run_demo, "film the bundled place with the embedded model, beside its animatic")
    demo.add_argument("--out", type=Path, default=Path("demo.mp4"), help="video file to write (default %(default)s)")

    film = command("generate", commands.run_generate, "film a place: picture, prompt and camera path in, video out")
    add_film(film)
    film.epilog = "On several cards: torchrun --nproc-per-node 2 -m cinescene_core.cli generate ..."

    views = command("views", commands.run_views, "cut a panorama into views")
    add_place(views)
    add_cut(views, VIEWS)
    add_size(views)
    views.add_argument("--out", type=Path, required=True, help="folder for view_00.png ... and contact_sheet.png")

    path = command("trajectory", commands.run_trajectory, "make a camera path, or convert one")
    add_trajectory(path)
    path.add_argument("--out", type=Path, required=True, help="file to write: .json, or .npy for the poses alone")

    animatic = command("animatic", commands.run_animatic, "preview a pan, tilt or zoom on a panorama, exactly")
    animatic.add_argument("--panorama", type=Path, required=True, help="equirectangular picture, 2:1")
    add_direction(animatic, "the first frame", default=0.0)
    add_trajectory(animatic)
    add_size(animatic)
    animatic.add_argument("--out", type=Path, required=True, help="video file to write")

    encode = command("encode", commands.run_encode, "encode a place once, for many shots")
    add_place(encode)
    add_cut(encode)
    add_models(encode)
    encode.add_argument("--out", type=Path, required=True, help="scene file to write (.safetensors)")

    add_shots(command("shots", run_shots, "film a list of shots over one place; what is finished is not filmed again"))

    doctor = command("doctor", run_doctor, "versions, devices, and which model files are recognised")
    doctor.add_argument(
        "files",
        nargs="*",
        type=Path,
        help="model files, or folders of them, to examine (default: ./models, and COMFYUI_PATH's)",
    )

    convert = command("convert-vggt", commands.run_convert_vggt, "write the part of VGGT that is needed, in bf16")
    convert.add_argument("source", type=Path, help="official model.safetensors or model.pt")
    convert.add_argument("target", type=Path, help="file to write (.safetensors)")
    convert.add_argument("--licence", default="unknown", help="licence of the source, kept in the file")
    return parser


def add_film(parser: argparse.ArgumentParser) -> None:
    """Everything a shot needs."""
    place = parser.add_argument_group("place")
    add_place(place, scene=True)
    add_cut(place)
    shot = parser.add_argument_group("shot")
    shot.add_argument("--prompt", required=True, help="what moves in the place, in words")
    shot.add_argument("--negative", default="", help="what to keep out, in words")
    add_trajectory(parser.add_argument_group("camera path"), "as the model was trained")
    add_models(parser.add_argument_group("model"))
    add_sampling(parser.add_argument_group("sampling"))
    add_speed(parser.add_argument_group("time and memory"))
    parser.add_argument("--save-scene", type=Path, help="also keep the encoded place, for further shots")
    parser.add_argument("--out", type=Path, required=True, help="video file to write")


def add_shots(parser: argparse.ArgumentParser) -> None:
    """Everything a list of shots needs."""
    columns = ", ".join(COLUMNS)
    parser.add_argument("list", type=Path, help=f".csv, .json or .yaml file with a row per shot: {columns}")
    place = parser.add_argument_group("place")
    add_place(place, scene=True)
    add_cut(place)
    add_models(parser.add_argument_group("model"))
    add_sampling(parser.add_argument_group("sampling"))
    add_speed(parser.add_argument_group("time and memory"))
    parser.add_argument("--shard", type=read_shard, metavar="I/N", help="film the I-th of N parts of the list only")
    parser.add_argument("--ray", action="store_true", help="spread the shots over a Ray cluster, or this machine")
    parser.add_argument("--out", type=Path, required=True, help="folder for the videos, a contact sheet and a report")


def add_place(parser: Options, *, scene: bool = False) -> None:
    """Where the place comes from: exactly one of these."""
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--panorama", type=Path, help="equirectangular picture, 2:1")
    place.add_argument("--photos", type=Path, nargs="+", help="photos of one place; the first is the start view")
    if scene:
        place.add_argument("--scene", type=Path, help="a place encoded before, by 'cinescene encode'")


def add_cut(parser: Options, usual: ViewConfig | None = None) -> None:
    """How the panorama is cut; without `usual` as the model was trained."""
    count, lens = (usual.num_views, f"{usual.fov_degrees:g}") if usual else ("as trained", "as trained")
    parser.add_argument("--num-views", type=int, help=f"views around the horizon (default: {count})")
    parser.add_argument("--fov", type=float, help=f"lens of the views: degrees across (default: {lens})")
    add_direction(parser, "the first view, and so the shot,")


def add_direction(parser: Options, what: str, default: float | None = None) -> None:
    """Where `what` looks in the panorama."""
    parser.add_argument(
        "--yaw", type=float, default=default, help=f"where {what} looks: degrees right of the panorama's centre"
    )
    parser.add_argument("--pitch", type=float, default=default, help=f"where {what} looks: degrees above the horizon")


def add_size(parser: argparse.ArgumentParser) -> None:
    """The size of pictures."""
    parser.add_argument("--width", type=int, default=VIEWS.width, help="pixels (default %(default)s)")
    parser.add_argument("--height", type=int, default=VIEWS.height, help="pixels (default %(default)s)")


def add_trajectory(parser: Options, length: str = FULL_LENGTH) -> None:
    """The camera path: a preset with its settings, or a file."""
    parser.add_argument("--trajectory", required=True, help=f"a .json or .npy file, or one of: {', '.join(PRESETS)}")
    parser.add_argument("--amount", type=float, help="degrees for turns and arcs, metres for moves")
    parser.add_argument("--easing", choices=list(EASINGS), help="speed over time (default linear)")
    parser.add_argument("--frames", type=int, help=f"frames, 4n + 1 (default: {length})")
    parser.add_argument("--fps", type=float, help="frames per second (default: as the model was trained)")
    parser.add_argument(
        "--lens", type=float, help="lens of the path: degrees across (default: the views', else as trained)"
    )
    parser.add_argument("--subject-distance", type=float, help="metres from the first camera to the subject")


def add_models(parser: Options) -> None:
    """The embedded model, a bundle, or three local files."""
    checkpoint = "CineScene checkpoint, or a bundle of every network; without it the embedded nano model films"
    parser.add_argument("--model", type=Path, help=checkpoint)
    parser.add_argument("--vggt", type=Path, help="VGGT file, with a checkpoint")
    parser.add_argument("--wan", type=Path, help="folder with Wan2.1's vae, text_encoder and tokenizer, with it")
    parser.add_argument("--device", default=default_device(), help="default %(default)s")


def add_sampling(parser: Options) -> None:
    """How the shot is denoised."""
    parser.add_argument("--steps", type=int, default=SAMPLING.steps, help="default %(default)s")
    parser.add_argument("--guidance", type=float, default=SAMPLING.guidance, help="default %(default)s; 1 is none")
    parser.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        default=(SAMPLING.guidance_low, SAMPLING.guidance_high),
        help="noise levels between which guidance is computed; fewer take less time (default 0 1)",
    )
    parser.add_argument("--shift", type=float, default=SAMPLING.shift, help="timestep shift (default %(default)s)")
    parser.add_argument("--solver", choices=("unipc", "euler"), default=SAMPLING.solver, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=SAMPLING.seed, help="default %(default)s")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="shuffle the views behind the first")


def add_speed(parser: Options) -> None:
    """What makes a shot take less time or memory: the fields of `SpeedConfig`."""
    parser.add_argument(
        "--attention",
        choices=ATTENTION_BACKENDS,
        default="sdpa",
        help="PyTorch's own attention (default), or SageAttention or FlashAttention, where installed",
    )
    parser.add_argument("--compile", action="store_true", help="compile the transformer's blocks; for long shots")
    parser.add_argument(
        "--select-views",
        type=float,
        nargs="?",
        const=0.0,
        metavar="SHARE",
        help="leave out views that the path never sees, or of whose picture it sees no more than SHARE (0 to 1)",
    )
    parser.add_argument(
        "--step-cache",
        type=float,
        metavar="THRESHOLD",
        help="leave out all blocks but the first while it changes less than this from step to step (try 0.05)",
    )
    parser.add_argument("--cache-type", choices=CACHE_TYPES, help="how a scene cache is stored (default: as the model)")
    parser.add_argument(
        "--cache-place", choices=CACHE_PLACES, default="device", help="where it is kept (default %(default)s)"
    )
