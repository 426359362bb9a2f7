"""What each command does: check the outputs, read the inputs, call the stages, write the result."""

import argparse
import dataclasses
import warnings
from pathlib import Path

from torch import Tensor

from ..animatic import render_animatic
from ..checks import CineSceneWarning
from ..config import CineSceneConfig, SamplingConfig, SpeedConfig, ViewConfig
from ..devices import check_device
from ..files import check_target
from ..loading import Models, load_models, load_nano
from ..models.attention import attention_backend
from ..models.text import check_prompt
from ..panorama import example_panorama_path, load_panorama
from ..parallel import joined, own_device
from ..pipeline import encode_place, generate
from ..scene import check_scene_target, load_scene, save_scene
from ..trajectory import load_trajectory, preset_trajectory, save_trajectory
from ..types import Trajectory, Views
from ..video import check_video_target, contact_sheet, save_image, save_video, side_by_side
from ..views import load_photos, slice_panorama
from ..weights import FileKind, read_header, require
from ..weights.transformer import TRANSFORMER_KINDS
from ..weights.vggt import convert_vggt
from .report import StageBars, print_report

DEMO_PROMPT = "a red robot walks to the right"
DEMO_SCALE = 4
"""The embedded model's pictures are small; the demo shows them this many times larger."""
VIEW_FILE = "view_{:02d}.png"
CUT = {"num_views": "num_views", "fov": "fov_degrees", "yaw": "yaw_offset_degrees", "pitch": "pitch_degrees"}
"""Options that cut a panorama, and their fields in `ViewConfig`."""


def run_demo(options: argparse.Namespace) -> None:
    """Film the bundled place along a pan, beside what the camera would really see."""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    check_video_target(options.out)
    models = load_nano()
    config = models.config
    panorama = load_panorama(example_panorama_path())
    trajectory = preset_trajectory(
        "pan_right", num_frames=config.num_frames, fps=config.fps, fov_degrees=config.fov_degrees
    )
    size = DEMO_SCALE * config.width, DEMO_SCALE * config.height
    with StageBars() as bars:
        animatic = render_animatic(panorama, trajectory, *size, on_frame=bars.of("animatic"))
        shot = generate(models, panorama, DEMO_PROMPT, trajectory, on_progress=bars)
        enlarged = shot.frames.repeat_interleave(DEMO_SCALE, 1).repeat_interleave(DEMO_SCALE, 2)
        save_video(side_by_side(animatic, enlarged), options.out, trajectory.fps, on_frame=bars.of("mp4"))
    print("Left: the animatic, what the camera sees of the panorama.")
    print(f"Right: '{DEMO_PROMPT}', by the embedded model, enlarged {DEMO_SCALE} times.")
    print_report(config, shot, options.out)


def run_generate(options: argparse.Namespace) -> None:
    """Film a place."""
    check_video_target(options.out)
    if options.save_scene is not None:
        check_scene_target(options.save_scene)
        if options.scene is not None and options.save_scene.resolve() == options.scene.resolve():
            raise ValueError(
                f"--save-scene names {options.scene}, the scene that is filmed: it would be written over by itself. "
                "Leave --save-scene out."
            )
    device = check_device(own_device(options.device))
    check_prompt(options.prompt)
    sampling = read_sampling(options)
    speed = read_speed(options)
    check_path(options)
    panorama = read_panorama(options)
    scene = None if options.scene is None else load_scene(options.scene)
    models = load(options)
    config = cut(options, models.view_config())
    place = place_of(options, panorama, config) if scene is None else scene
    seen = config.fov_degrees if scene is None else scene.views.fov_degrees
    trajectory = read_trajectory(options, models.config, seen)
    with StageBars() as bars, joined(device, guided=sampling.guidance > 1) as ranks:
        is_first = ranks is None or ranks.is_first
        if not is_first:
            warnings.simplefilter("ignore", CineSceneWarning)  # the first process tells
        shot = generate(
            models,
            place,
            options.prompt,
            trajectory,
            negative_prompt=options.negative,
            sampling=sampling,
            view_config=config,
            shuffle_seed=options.shuffle,
            speed=speed,
            ranks=ranks,
            device=device,
            on_progress=bars if is_first else None,
        )
        if not is_first:
            return
        save_video(shot.frames, options.out, shot.fps, on_frame=bars.of("mp4"))
    if options.save_scene is not None:
        save_scene(shot.scene, options.save_scene)
    for saved in (shot.selection, shot.skipped):
        if saved is not None:
            print(saved)
    print_report(models.config, shot, options.out)


def run_views(options: argparse.Namespace) -> None:
    """Cut a panorama into views, as pictures and one contact sheet."""
    check_views_target(options.out)
    config = cut(options, ViewConfig(width=options.width, height=options.height))
    place = place_of(options, read_panorama(options), config)
    with StageBars() as bars:
        views = place if isinstance(place, Views) else slice_panorama(place, config, on_view=bars.of("views"))
    options.out.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(views.images):
        save_image(image, options.out / VIEW_FILE.format(number))
    save_image(contact_sheet(views.images, columns=5), options.out / "contact_sheet.png")
    print(f"{len(views)} views of {views.size[0]} x {views.size[1]} pixels in {options.out}")


def run_trajectory(options: argparse.Namespace) -> None:
    """Make or convert a camera path."""
    check_target(options.out)
    trajectory = read_trajectory(options, CineSceneConfig())
    save_trajectory(trajectory, options.out)
    print(
        f"{options.out}: {trajectory.provenance}; {len(trajectory)} frames at {trajectory.fps:g} fps, "
        f"travels {trajectory.travel():.2f} m from its start"
    )


def run_animatic(options: argparse.Namespace) -> None:
    """Render what the camera would see of the panorama."""
    check_video_target(options.out)
    trajectory = read_trajectory(options, CineSceneConfig())
    panorama = load_panorama(options.panorama)
    with StageBars() as bars:
        frames = render_animatic(
            panorama,
            trajectory,
            options.width,
            options.height,
            yaw_offset_degrees=options.yaw,
            pitch_degrees=options.pitch,
            on_frame=bars.of("animatic"),
        )
        save_video(frames, options.out, trajectory.fps, on_frame=bars.of("mp4"))
    print(f"{options.out}: {len(frames)} frames, exact")


def run_encode(options: argparse.Namespace) -> None:
    """Encode a place into a scene file."""
    check_scene_target(options.out)
    device = check_device(options.device)
    panorama = read_panorama(options)
    models = load(options)
    config = cut(options, models.view_config())
    place = place_of(options, panorama, config)
    with StageBars() as bars:
        scene = encode_place(models, place, view_config=config, device=device, on_progress=bars)
    save_scene(scene, options.out)
    print(f"{options.out}: {len(scene.views)} views, {options.out.stat().st_size / 2**20:.1f} MiB")


def run_convert_vggt(options: argparse.Namespace) -> None:
    """Write a bf16 file with just the part of VGGT that CineScene reads."""
    check_target(options.target)
    with StageBars() as bars:
        convert_vggt(options.source, options.target, licence=options.licence, on_tensor=bars.of("tensors"))
    print(f"{options.target}: {options.target.stat().st_size / 2**20:.1f} MiB")


def check_views_target(folder: Path) -> None:
    """Require a folder that can take new views; it need not exist yet.

    Raises:
        OSError: it is a file, or holds views already: of fewer views some old ones would stay.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"Cannot write views to {folder}: it is a file. Name a folder.")
    old = sorted(folder.glob("view_*.png"))
    if old:
        raise FileExistsError(
            f"{folder} already holds {len(old)} views, the first is {old[0].name}. Remove them or name another folder."
        )


def load(options: argparse.Namespace) -> Models:
    """The embedded model, or the three files the user names.

    Raises:
        ValueError: --model without --vggt and --wan, or the other way round.
        CheckpointError: --model is another kind of file.
    """
    files = {"--model": options.model, "--vggt": options.vggt, "--wan": options.wan}
    missing = [name for name, path in files.items() if path is None]
    if len(missing) == 3:
        return load_nano()
    if options.model is not None:
        # The cheapest mistake to find, so it is looked for first.
        kind = require(read_header(options.model), (*TRANSFORMER_KINDS, FileKind.BUNDLE), "CineScene's transformer")
        if kind is FileKind.BUNDLE:
            check_alone(options)
            return load_nano(options.model)
    if missing:
        raise ValueError(
            f"A full-size model needs --model, --vggt and --wan together; {' and '.join(missing)} missing. "
            "Leave all three out to use the embedded model."
        )
    with StageBars() as bars:
        return load_models(options.model, options.vggt, options.wan, on_progress=bars)


def check_alone(options: argparse.Namespace) -> None:
    """Require that a bundle is given without the files it holds itself.

    Raises:
        ValueError: --vggt or --wan came too.
    """
    given = [name for name, path in (("--vggt", options.vggt), ("--wan", options.wan)) if path is not None]
    if given:
        raise ValueError(
            f"{options.model.name} is a bundle that holds every network of its own; got {' and '.join(given)} too. "
            "Leave them out."
        )


def read_sampling(options: argparse.Namespace) -> SamplingConfig:
    """What `parser.add_sampling` asked for.

    Raises:
        ValueError: a setting that cannot be.
    """
    return SamplingConfig(
        steps=options.steps,
        guidance=options.guidance,
        guidance_low=options.guidance_interval[0],
        guidance_high=options.guidance_interval[1],
        shift=options.shift,
        solver=options.solver,
        seed=options.seed,
    )


def read_speed(options: argparse.Namespace) -> SpeedConfig:
    """What `parser.add_speed` asked for.

    Raises:
        ValueError: a setting that cannot be, or an attention that is not installed.
    """
    attention_backend(options.attention)
    return SpeedConfig(
        attention=options.attention,
        compiled=options.compile,
        select_views=options.select_views,
        step_cache=options.step_cache,
        cache_type=options.cache_type,
        cache_place=options.cache_place,
    )


def check_path(options: argparse.Namespace) -> None:
    """Require a path that can be read or made, before anything large is loaded; its warnings come later."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CineSceneWarning)
        read_trajectory(options, CineSceneConfig())


def read_trajectory(options: argparse.Namespace, config: CineSceneConfig, seen: float | None = None) -> Trajectory:
    """A path file if there is one of that name, else a preset; what is not given is as the model was trained.

    Args:
        options: of `parser.add_trajectory`.
        config: what the model was trained with.
        seen: the views' lens in degrees, when it is known: the path has it too unless told otherwise.
    """
    path = Path(options.trajectory)
    if path.suffix:
        for name in ("amount", "easing", "frames"):
            if getattr(options, name) is not None:
                raise ValueError(
                    f"--{name} shapes a preset; {path} already is a path. Leave the option out, or make the path again "
                    "with 'cinescene trajectory'."
                )
        return load_trajectory(
            path, fov_degrees=options.lens, fps=options.fps, subject_distance=options.subject_distance
        )
    given = {
        "num_frames": options.frames,
        "fps": options.fps,
        "fov_degrees": options.lens,
        "easing": options.easing,
        "subject_distance": options.subject_distance,
    }
    trained = {
        "num_frames": config.num_frames,
        "fps": config.fps,
        "fov_degrees": config.fov_degrees if seen is None else seen,
    }
    settings = trained | {name: value for name, value in given.items() if value is not None}
    return preset_trajectory(options.trajectory, amount=options.amount, **settings)


def read_panorama(options: argparse.Namespace) -> Tensor | None:
    """The panorama, if the place is one.

    Raises:
        ValueError: options that cut a panorama, and none to cut.
    """
    if options.panorama is not None:
        return load_panorama(options.panorama)
    for name in CUT:
        if getattr(options, name) is not None:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} says how a panorama is cut, and there is no --panorama. Leave {option} out.")
    return None


def cut(options: argparse.Namespace, config: ViewConfig) -> ViewConfig:
    """How the panorama is cut: as `config` says, but for the options that are given."""
    given = {field: getattr(options, name) for name, field in CUT.items() if getattr(options, name) is not None}
    return dataclasses.replace(config, **given)


def place_of(options: argparse.Namespace, panorama: Tensor | None, config: ViewConfig) -> Tensor | Views:
    """The panorama, or the photos as views of the config's size."""
    return load_photos(options.photos, config.width, config.height) if panorama is None else panorama
