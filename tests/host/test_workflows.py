"""Every example workflow, executed by a real ComfyUI.

01, 04 and 05 use the built-in networks and run as they are, but for fewer steps in 04 and 05. 02 and 03 need files
of many gigabytes: here nano's parts stand under those names, each in the layout of its full-size file, so every
loader does its real work. One node is exchanged: CLIPLoader (UMT5-XXL, 5.7 billion parameters) for nano's text encoder.
"""

import json
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import pytest
import torch
from comfy_server import PACK_NAME, Host, Run
from graphs import Prompt
from PIL import Image
from safetensors.torch import save_file
from workflow_files import NAMES, find, read_workflow, set_widgets, to_prompt, workflow_path

from cinescene_core.animatic import render_animatic
from cinescene_core.config import CineSceneConfig
from cinescene_core.models.text import VocabularyEncoder
from cinescene_core.panorama import example_panorama_path, load_panorama
from cinescene_core.shots.rows import read_shots
from cinescene_core.trajectory import preset_trajectory
from cinescene_core.weights import nano_path, read_bundle_part, save_transformer

CHECKPOINT = "cinescene_1.3b.safetensors"
SMALL = {"width": 160, "height": 96, "num_views": 4, "num_frames": 9, "steps": 2}
"""Widgets of the full-size workflows, made small."""
ENCODING = {"CineScenePanoramaViews", "CineSceneEncodeScene", "CineSceneVGGTLoader", "CineSceneNanoLoader"}
"""What another seed must not repeat."""


@pytest.fixture(scope="module")
def catalogue(host: Host) -> dict[str, Any]:
    """Every node the server knows."""
    return host.get("/object_info")


@pytest.fixture(scope="module")
def full_size_files(host: Host) -> None:
    """Nano's networks as the files that 02 and 03 name."""
    models = host.paths.base / "models"
    for folder in ("vggt", "vae", "diffusion_models", "loras"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    transformer, record = read_bundle_part(nano_path(), "transformer")
    config = CineSceneConfig.from_json(json.dumps(record))
    save_transformer(models / "diffusion_models" / CHECKPOINT, transformer, config)
    for part, name in (("vggt", "vggt/model.safetensors"), ("vae", "vae/wan_2.1_vae.safetensors")):
        save_file(read_bundle_part(nano_path(), part)[0], models / name)
    width = transformer["blocks.0.self_attn.q.weight"].shape[0]
    lora = {
        "diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.ones(1, width),
        "diffusion_model.blocks.0.self_attn.q.lora_B.weight": torch.ones(width, 1),
    }
    save_file(lora, models / "loras/wan2.1_lora.safetensors")


@pytest.fixture(scope="module")
def small_prompt(full_size_files: None, catalogue: dict[str, Any]) -> Callable[..., Prompt]:
    """A full-size workflow on small weights; `unmute` names classes whose bypass is taken away."""

    def make(name: str, unmute: tuple[str, ...] = ()) -> Prompt:
        workflow = read_workflow(name)
        for node in workflow["nodes"]:
            if node["type"] in unmute:
                node["mode"] = 0
        prompt = to_prompt(workflow, catalogue)
        for widget, value in SMALL.items():
            if any(widget in node["inputs"] for node in prompt.values()):
                set_widgets(prompt, **{widget: value})
        if any("vggt_width" in node["inputs"] for node in prompt.values()):
            set_widgets(prompt, vggt_width=168, vggt_height=98)  # the file itself stands for 518 x 294
        text_encoder = find(prompt, "CLIPLoader")
        prompt["nano"] = {"class_type": "CineSceneNanoLoader", "inputs": {}}
        del prompt[text_encoder]
        for node in prompt.values():
            node["inputs"].update(
                {key: ["nano", 1] for key, value in node["inputs"].items() if value == [text_encoder, 0]}
            )
        return prompt

    return make


@pytest.fixture(scope="module")
def panorama_run(host: Host, small_prompt: Callable[..., Prompt]) -> tuple[Prompt, Run]:
    """02_panorama_to_video, run once; it leaves the scene that 03 films."""
    prompt = small_prompt("02_panorama_to_video")
    return prompt, succeed(host, prompt)


def succeed(host: Host, prompt: Prompt) -> Run:
    run = host.queue(prompt)
    assert run.status == "success", f"{run.error}\n{host.log()[-3000:]}"
    return run


def film(host: Host, run: Run, prefix: str) -> tuple[np.ndarray, float]:
    """Frames [f, h, w, 3] in 0..1 and frames per second of the video whose name begins so."""
    (path,) = (path for path in host.output_files(run) if path.name.startswith(prefix) and path.suffix == ".mp4")
    with av.open(path) as file:
        stream = file.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(stream)])
        return frames.astype(np.float32) / 255, float(stream.average_rate)


def look_at_frames(prompt: Prompt) -> None:
    """Add a preview of the frames of the last video: H.264 is lossy, and not the same from run to run."""
    frames = prompt[find(prompt, "CreateVideo", -1)]["inputs"]["images"]
    prompt["look"] = {"class_type": "PreviewImage", "inputs": {"images": frames}}


def previews(host: Host, run: Run) -> np.ndarray:
    """The previewed pictures [n, h, w, 3] in 0..255, exact."""
    files = sorted(path for path in host.output_files(run) if path.parent.name == "temp")
    return np.stack([np.asarray(Image.open(path), dtype=np.float32) for path in files])


def classes_run(prompt: Prompt, run: Run) -> set[str]:
    return {prompt[number]["class_type"] for number in run.executed - run.cached if number in prompt}


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_in_step_with_itself(name: str) -> None:
    """Pages differ in whether they read widgets by place or by name: both must say the same."""
    workflow = read_workflow(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"])
    for node in nodes.values():
        if "widgets_values" in node:
            assert list(node["widgets_values_named"].values()) == node["widgets_values"], node["type"]
    for number, source, output, target, socket, kind in workflow["links"]:
        assert number in nodes[source]["outputs"][output]["links"]
        wanted = next(given for given in nodes[target]["inputs"] if given["link"] == number)
        assert nodes[source]["outputs"][output]["type"] == kind
        assert kind in wanted["type"].split(","), f"{name}: {kind} into {nodes[target]['type']} {socket}"


def test_the_template_browser_lists_and_serves_them(host: Host) -> None:
    assert sorted(host.get("/workflow_templates")[PACK_NAME]) == sorted(NAMES)
    for name in NAMES:
        served = host.get(f"/api/workflow_templates/{PACK_NAME}/{name}.json")
        assert served == json.loads(workflow_path(name).read_text(encoding="utf-8"))


def test_first_video(host: Host, catalogue: dict[str, Any]) -> None:
    """As shipped: the animatic is the panorama under the move, the shot has the promised size, length and speed."""
    prompt = to_prompt(read_workflow("01_first_video"), catalogue)
    run = succeed(host, prompt)

    animatic, fps = film(host, run, "first_video_animatic")
    path = preset_trajectory("pan_right", amount=40, num_frames=17, fps=8)
    exact = render_animatic(load_panorama(example_panorama_path()), path, 480, 288).numpy()
    assert animatic.shape == (17, 288, 480, 3)
    assert fps == 8
    # H.264 halves the colour resolution; a frame too early or late differs by ten times that.
    assert np.abs(animatic - exact).mean() < 0.02
    assert np.abs(animatic[1:] - exact[:-1]).mean() > 0.04

    shot, fps = film(host, run, "first_video_0")
    assert shot.shape == (17, 96, 160, 3)
    assert fps == 8
    assert shot.std() > 0.01, "a picture of one colour"
    views = [path for path in host.output_files(run) if path.parent.name == "temp"]
    assert len(views) == 20
    assert Image.open(views[0]).size == (160, 96)

    set_widgets(prompt, seed=2, steps=2)
    assert classes_run(prompt, succeed(host, prompt)) & (ENCODING | {"CineSceneSampler"}) == {"CineSceneSampler"}


def test_panorama_to_video(host: Host, panorama_run: tuple[Prompt, Run]) -> None:
    prompt, run = panorama_run
    shot, fps = film(host, run, "shot")
    assert shot.shape == (9, 96, 160, 3)
    assert fps == 15
    assert film(host, run, "animatic")[0].shape == (9, 96, 160, 3)
    scenes = list((host.paths.base / "output/cinescene").glob("scene_*.safetensors"))
    assert len(scenes) == 1

    set_widgets(prompt, seed=2)
    again = succeed(host, prompt)
    assert classes_run(prompt, again) & ENCODING == set()
    assert list((host.paths.base / "output/cinescene").glob("scene_*.safetensors")) == scenes
    assert np.abs(film(host, again, "shot")[0] - shot).mean() > 0.005


def test_own_sampler(host: Host, small_prompt: Callable[..., Prompt], panorama_run: tuple[Prompt, Run]) -> None:
    """KSampler, CineScene Sampler and SamplerCustomAdvanced, set alike, give the same pictures; a LoRA others."""
    prompt = small_prompt("03_own_sampler")
    set_widgets(prompt, sampler_name="euler")
    look_at_frames(prompt)
    run = succeed(host, prompt)
    video, fps = film(host, run, "own_sampler")
    assert video.shape == (9, 96, 160, 3)
    assert fps == 15
    plain = previews(host, run)

    decode = prompt[find(prompt, "VAEDecode")]["inputs"]
    settings = prompt[decode["samples"][0]]["inputs"]
    prompt["own"] = {
        "class_type": "CineSceneSampler",
        "inputs": {key: settings[key] for key in ("model", "positive", "negative", "seed", "steps")}
        | {"latent": settings["latent_image"], "guidance": settings["cfg"], "shift": 8.0, "solver": "euler"},
    }
    decode["samples"] = ["own", 0]
    # The last digit of float32 can move an 8-bit value by one level.
    assert np.abs(previews(host, succeed(host, prompt)) - plain).max() <= 1

    decode["samples"] = [find(prompt, "SamplerCustomAdvanced"), 0]
    assert np.array_equal(previews(host, succeed(host, prompt)), plain)

    with_lora = small_prompt("03_own_sampler", unmute=("LoraLoaderModelOnly",))
    set_widgets(with_lora, sampler_name="euler")
    look_at_frames(with_lora)
    assert np.abs(previews(host, succeed(host, with_lora)) - plain).mean() > 1


def test_upscale_and_interpolate(host: Host, catalogue: dict[str, Any]) -> None:
    """Frames twice as large; behind each the mean of it and the next, and the last held: twice as many."""
    prompt = to_prompt(read_workflow("04_upscale_and_interpolate"), catalogue)
    set_widgets(prompt, steps=2)
    look_at_frames(prompt)
    run = succeed(host, prompt)

    video, fps = film(host, run, "finished")
    assert video.shape == (34, 192, 320, 3)
    assert fps == 16
    pictures = previews(host, run)
    assert pictures.shape == (34, 192, 320, 3)
    before, between, after = pictures[0:-2:2], pictures[1:-2:2], pictures[2::2]
    # Three roundings to 8 bits, each by less than one.
    assert np.abs(between - (before + after) / 2).max() < 2
    assert np.array_equal(pictures[-1], pictures[-2])
    assert np.abs(before - after).mean() > 1


def texts(run: Run, number: str) -> list[str]:
    """What a Preview as Text showed, one for each value that came to it."""
    return run.outputs[number]["text"]


def test_shot_list(host: Host, catalogue: dict[str, Any]) -> None:
    """The bundled list: a video for every row under its name, over a place that is encoded once for all of them."""
    prompt = to_prompt(read_workflow("05_shot_list"), catalogue)
    set_widgets(prompt, steps=2)
    looks = {"scenes": find(prompt, "CineSceneEncodeScene"), "samples": find(prompt, "CineSceneSampler")}
    for name, source in looks.items():
        prompt[name] = {"class_type": "PreviewAny", "inputs": {"source": [source, 0]}}
    run = succeed(host, prompt)

    films = {name: film(host, run, name) for name in ("woman", "robot", "dog")}
    assert len([path for path in host.output_files(run) if path.suffix == ".mp4"]) == len(films)
    for shot, fps in films.values():
        assert shot.shape == (17, 96, 160, 3)
        assert fps == 8
        assert shot.std() > 0.01, "a picture of one colour"
    assert len(texts(run, "samples")) == 3
    assert len(texts(run, "scenes")) == 1

    # The page sends the same prompt when Run is pressed again.
    assert classes_run(prompt, succeed(host, prompt)) == set()
    set_widgets(prompt, steps=3)
    assert classes_run(prompt, succeed(host, prompt)) & (ENCODING | {"CineSceneSampler"}) == {"CineSceneSampler"}


def test_nano_knows_every_word_of_the_bundled_list() -> None:
    encoder = VocabularyEncoder.from_state_dict(*read_bundle_part(nano_path(), "text"))
    rows = read_shots(example_panorama_path().with_name("example_shots.csv"))
    assert [row.name for row in rows] == ["woman", "robot", "dog"]
    assert [encoder.unknown_words(row.prompt) for row in rows] == [[]] * 3
