"""Prompts in API form: what the page sends for a graph."""

from typing import Any

Prompt = dict[str, dict[str, Any]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node; a link is [node id, output number]. `__` in a name stands for the dot of a nested widget."""
    return {"class_type": class_type, "inputs": {name.replace("__", "."): value for name, value in inputs.items()}}


def place(num_views: int = 4, image: str = "panorama.png", **views: Any) -> Prompt:
    """The built-in networks, and the panorama cut into views the size nano was made for."""
    settings = {
        "num_views": num_views,
        "fov_degrees": 90.0,
        "width": 160,
        "height": 96,
        "yaw_offset_degrees": 0.0,
        "pitch_degrees": 0.0,
    } | views
    return {
        "nano": node("CineSceneNanoLoader"),
        "image": node("LoadImage", image=image),
        "views": node("CineScenePanoramaViews", panorama=["image", 0], **settings),
        "scene": node(
            "CineSceneEncodeScene", views=["views", 0], vggt=["nano", 3], vae=["nano", 2], vggt_width=0, vggt_height=0
        ),
    }


def move(**changes: Any) -> Prompt:
    """A pan of nine frames."""
    settings = {
        "move": "pan_right",
        "move.degrees": 30.0,
        "num_frames": 9,
        "subject_distance": 4.0,
        "fov_degrees": 90.0,
        "fps": 15.0,
        "easing": "linear",
    } | changes
    return {"path": {"class_type": "CineSceneTrajectoryPreset", "inputs": settings}}


def shot(
    seed: int = 0,
    steps: int = 2,
    solver: str = "euler",
    prompt: str = "a red ball rolls forward",
    scene: str = "scene",
) -> Prompt:
    """Prompt, conditioning, our sampler, and the stock nodes that make a file of it."""
    return {
        "positive": node("CLIPTextEncode", clip=["nano", 1], text=prompt),
        "negative": node("CLIPTextEncode", clip=["nano", 1], text=""),
        "shot": node(
            "CineSceneConditioning",
            model=["nano", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            scene=[scene, 0],
            trajectory=["path", 0],
        ),
        "sampler": node(
            "CineSceneSampler",
            model=["nano", 0],
            positive=["shot", 0],
            negative=["shot", 1],
            latent=["shot", 2],
            seed=seed,
            steps=steps,
            guidance=5.0,
            shift=8.0,
            solver=solver,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["nano", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="shot"),
    }


def first_video(**settings: Any) -> Prompt:
    """Panorama, move and prompt to frames on disk, with the built-in networks."""
    return place() | move() | shot(**settings)
