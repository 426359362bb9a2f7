"""What each command does: read the inputs, call the stages, write the result."""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..animatic import render_animatic
from ..config import CineSceneConfig, SamplingConfig, ViewConfig
from ..files import check_target
from ..panorama import example_panorama_path, load_panorama
from ..pipeline import Models, generate, load_models, load_nano, on_device
from ..scene import encode_scene, load_scene, save_scene
from ..trajectory import load_trajectory, preset_trajectory, save_trajectory
from ..types import Trajectory, Views
from ..video import contact_sheet, save_image, save_video, side_by_side
from ..views import slice_panorama, views_from_images
from ..weights.vggt import convert_vggt
from .report import StageBars, print_report

DEMO_PROMPT = "a red robot walks to the right"
DEMO_SCALE = 4
"""The embedded model's pictures are small; the demo shows them this many times larger."""


def run_demo(options: argparse.Namespace) -> None:
    """Film the bundled place along a pan, beside what the camera would really see."""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    models = load_nano()
    config = models.config
    panorama = load_panorama(example_panorama_path())
    trajectory = preset_trajectory(
        "pan_right", num_frames=config.num_frames, fps=config.fps, fov_degrees=config.fov_degrees
    )
    animatic = render_animatic(panorama, trajectory, DEMO_SCALE * config.width, DEMO_SCALE * config.height)
    with StageBars() as bars:
        shot = generate(models, panorama, DEMO_PROMPT, trajectory, on_progress=bars)
    enlarged = shot.frames.repeat_interleave(DEMO_SCALE, 1).repeat_interleave(DEMO_SCALE, 2)
    save_video(side_by_side(animatic, enlarged), options.out, trajectory.fps)
    print("Left: the animatic, what the camera sees of the panorama.")
    print(f"Right: '{DEMO_PROMPT}', by the embedded model, enlarged {DEMO_SCALE} times.")
    print_report(config, shot, options.out)


def run_generate(options: argparse.Namespace) -> None:
    """Film a place."""
    check_target(options.out)
    models = load(options)
    trajectory = read_trajectory(options, models.config)
    place = load_scene(options.scene) if options.scene else read_place(options, models.view_config())
    sampling = SamplingConfig(
        steps=options.steps,
        guidance=options.guidance,
        shift=options.shift,
        solver=options.solver,
        seed=options.seed,
    )
    with StageBars() as bars:
        shot = generate(
            models,
            place,
            options.prompt,
            trajectory,
            negative_prompt=options.negative,
            sampling=sampling,
            shuffle_seed=options.shuffle,
            device=options.device,
            on_progress=bars,
        )
    save_video(shot.frames, options.out, shot.fps)
    if options.save_scene:
        save_scene(shot.scene, options.save_scene)
    print_report(models.config, shot, options.out)


def run_views(options: argparse.Namespace) -> None:
    """Cut a panorama into views, as pictures and one contact sheet."""
    config = ViewConfig(
        num_views=options.num_views,
        fov_degrees=options.fov,
        width=options.width,
        height=options.height,
        yaw_offset_degrees=options.yaw,
        pitch_degrees=options.pitch,
    )
    with StageBars() as bars:
        views = as_views(read_place(options, config), config, bars)
    options.out.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(views.images):
        save_image(image, options.out / f"view_{number:02d}.png")
    save_image(contact_sheet(views.images, columns=5), options.out / "contact_sheet.png")
    print(f"{len(views)} views of {views.size[0]} x {views.size[1]} pixels in {options.out}")


def run_trajectory(options: argparse.Namespace) -> None:
    """Make or convert a camera path."""
    trajectory = read_trajectory(options, CineSceneConfig())
    save_trajectory(trajectory, options.out)
    print(
        f"{options.out}: {trajectory.provenance}; {len(trajectory)} frames at {trajectory.fps:g} fps, "
        f"travels {trajectory.travel():.2f} m from its start"
    )


def run_animatic(options: argparse.Namespace) -> None:
    """Render what the camera would see of the panorama."""
    check_target(options.out)
    trajectory = read_trajectory(options, CineSceneConfig())
    panorama = load_panorama(options.panorama)
    with StageBars() as bars:
        frames = render_animatic(
            panorama,
            trajectory,
            options.width,
            options.height,
            on_frame=lambda done, total: bars("animatic", done, total),
        )
    save_video(frames, options.out, trajectory.fps)
    print(f"{options.out}: {len(frames)} frames, exact")


def run_encode(options: argparse.Namespace) -> None:
    """Encode a place into a scene file."""
    check_target(options.out)
    models = load(options)
    config = models.config
    with (
        torch.inference_mode(),
        StageBars() as bars,
        on_device(models.vggt, options.device),
        on_device(models.vae, options.device),
    ):
        views = as_views(read_place(options, models.view_config()), models.view_config(), bars)
        scene = encode_scene(
            views,
            models.vggt,
            models.vae,
            vggt_size=(config.vggt_width, config.vggt_height),
            device=options.device,
            on_progress=lambda done, total: bars("scene", done, total),
        )
    save_scene(scene, options.out)
    print(f"{options.out}: {len(views)} views, {options.out.stat().st_size / 2**20:.1f} MiB")


def run_convert_vggt(options: argparse.Namespace) -> None:
    """Write a bf16 file with just the part of VGGT that CineScene reads."""
    convert_vggt(options.source, options.target, licence=options.licence)
    print(f"{options.target}: {options.target.stat().st_size / 2**20:.1f} MiB")


def load(options: argparse.Namespace) -> Models:
    """The embedded model, or the three files the user names.

    Raises:
        ValueError: --model without --vggt and --wan, or the other way round.
    """
    files = {"--model": options.model, "--vggt": options.vggt, "--wan": options.wan}
    missing = [name for name, path in files.items() if path is None]
    if len(missing) == 3:
        return load_nano()
    if missing:
        raise ValueError(
            f"A full-size model needs --model, --vggt and --wan together; {' and '.join(missing)} missing. "
            "Leave all three out to use the embedded model."
        )
    with StageBars() as bars:
        return load_models(options.model, options.vggt, options.wan, on_progress=bars)


def read_trajectory(options: argparse.Namespace, config: CineSceneConfig) -> Trajectory:
    """A path file if there is one of that name, else a preset; what is not given is as the model was trained."""
    path = Path(options.trajectory)
    if path.suffix:
        for name in ("amount", "easing", "frames"):
            if getattr(options, name) is not None:
                raise ValueError(f"--{name} shapes a preset; {path} already is a path. Leave the option out.")
        return load_trajectory(
            path, fov_degrees=options.lens, fps=options.fps, subject_distance=options.subject_distance
        )
    given = {"easing": options.easing, "subject_distance": options.subject_distance}
    return preset_trajectory(
        options.trajectory,
        amount=options.amount,
        num_frames=options.frames or config.num_frames,
        fps=options.fps or config.fps,
        fov_degrees=options.lens or config.fov_degrees,
        **{name: value for name, value in given.items() if value is not None},
    )


def read_place(options: argparse.Namespace, config: ViewConfig) -> Tensor | Views:
    """A panorama, or views from photos."""
    if options.panorama:
        return load_panorama(options.panorama)
    return views_from_images([read_photo(path) for path in options.photos], config.width, config.height)


def as_views(place: Tensor | Views, config: ViewConfig, bars: StageBars) -> Views:
    """Cut a panorama; leave views as they are."""
    if isinstance(place, Views):
        return place
    return slice_panorama(place, config, on_view=lambda done, total: bars("views", done, total))


def read_photo(path: Path) -> Tensor:
    """One photo, upright, as [h, w, 3] in 0..1."""
    with Image.open(path) as photo:
        upright = ImageOps.exif_transpose(photo).convert("RGB")
    return torch.from_numpy(np.asarray(upright).copy()).float() / 255
