"""Graphs queued on a running server, as the page queues them."""

import re
import time

import numpy as np
import pytest
import torch
from comfy_server import RefusedError
from graphs import first_video, move, node, place, shot
from PIL import Image
from safetensors.torch import save_file

from cinescene_core.animatic import render_animatic
from cinescene_core.panorama import load_panorama
from cinescene_core.scene import load_scene
from cinescene_core.trajectory import preset_trajectory


def queue(host, prompt):
    """Queue a prompt that must succeed."""
    run = host.queue(prompt)
    assert run.status == "success", run.error
    return run


def frames_of(host, run):
    """The pictures a run saved, [f, h, w, 3] in 0..255."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(host.output_files(run)) if path.suffix == ".png"])


def same_pictures(got, expected):
    """Equal but for the last digit of float32, which can move an 8-bit value by one level."""
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert (got != expected).mean() < 0.001


@pytest.fixture(scope="module")
def first_run(host):
    return queue(host, first_video())


def test_a_panorama_and_a_prompt_become_a_video(host, first_run):
    frames = frames_of(host, first_run)
    assert frames.shape == (9, 96, 160, 3)
    assert frames.std() > 0


def test_another_seed_does_not_encode_the_scene_again(host, first_run):
    run = queue(host, first_video(seed=1))
    assert {"nano", "image", "views", "scene", "path", "positive", "negative", "shot"} <= run.cached
    assert not {"sampler", "decode", "save"} & run.cached
    assert np.abs(frames_of(host, run).astype(int) - frames_of(host, first_run)).max() > 0


def test_another_move_does_not_encode_the_scene_again(host, first_run):
    run = queue(host, first_video() | move(move="tilt_up"))
    assert "scene" in run.cached
    assert "shot" not in run.cached


def test_stock_samplers_take_model_and_conditioning(host, first_run):
    stock = first_video() | {
        "sampler": node(
            "KSampler", model=["nano", 0], positive=["shot", 0], negative=["shot", 1], latent_image=["shot", 2],
            seed=0, steps=2, cfg=5.0, sampler_name="euler", scheduler="simple", denoise=1.0,
        )
    }  # fmt: skip
    # Shift 8 is the model's own, so KSampler without ModelSamplingSD3 does what our sampler does.
    same_pictures(frames_of(host, queue(host, stock)), frames_of(host, first_run))
    custom = first_video() | {
        "noise": node("RandomNoise", noise_seed=0),
        "solver": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=["nano", 0], scheduler="simple", steps=2, denoise=1.0),
        "guider": node("CFGGuider", model=["nano", 0], positive=["shot", 0], negative=["shot", 1], cfg=5.0),
        "sampler": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["solver", 0],
            sigmas=["sigmas", 0], latent_image=["shot", 2],
        ),
    }  # fmt: skip
    same_pictures(frames_of(host, queue(host, custom)), frames_of(host, first_run))


def test_warnings_of_the_core_reach_the_log(host, first_run):
    queue(host, first_video(prompt="a red zebra"))
    assert "CineScene: The text encoder does not know zebra" in host.log()


def test_a_shot_unlike_the_training_is_told(host, first_run):
    log = host.log()
    assert (
        "CineScene: This shot is not as the checkpoint was trained: 9 frames (trained: 17 frames); "
        "4 views (trained: 20 views). It may look worse for that."
    ) in log
    assert "tokens long" not in log
    large = place(width=480, height=288) | move(num_frames=17) | shot()
    del large["save"], large["decode"], large["sampler"]
    large["look"] = node("LatentFromBatch", samples=["shot", 2], batch_index=0, length=1)
    large["save"] = node("SaveLatent", samples=["look", 0], filename_prefix="empty")
    queue(host, large)
    # 5 latent frames and twice 4 views of 18 x 30 tokens; the checkpoint has 5 and twice 20 of 6 x 10.
    assert (
        "CineScene: This shot is 7,020 tokens long, 3 times the checkpoint's usual 2,700. "
        "Every step takes at least as many times longer: use smaller or fewer views, or fewer frames."
    ) in host.log()


def test_a_lens_unlike_the_views_is_told(host, first_run):
    queue(host, first_video() | move(fov_degrees=60.0))
    assert "The camera path has a lens of 60 degrees, the views one of 90." in host.log()


def test_a_move_beyond_the_training_is_told(host, first_run):
    assert "goes beyond what the model" not in host.log()
    queue(host, first_video() | move(**{"move": "truck_left", "move.metres": 9.0}))
    assert (
        "CineScene: truck_left by 9 metres goes beyond what the model was trained on, 1 to 8 metres for a subject "
        "4 metres away: the picture may not follow."
    ) in host.log()


def test_both_solvers_of_our_sampler_run(host, first_run):
    run = queue(host, first_video(solver="unipc", steps=3))
    assert np.abs(frames_of(host, run).astype(int) - frames_of(host, first_run)).max() > 0


def test_stock_step_caching_and_save_video_work(host):
    graph = first_video(steps=3) | {
        "cached": node(
            "EasyCache", model=["nano", 0], reuse_threshold=0.2, start_percent=0.15, end_percent=0.95, verbose=False
        ),
        "video": node("CreateVideo", images=["decode", 0], fps=["animatic", 1]),
        "save": node("SaveVideo", video=["video", 0], filename_prefix="clip", format="mp4", codec="h264"),
        "animatic": node(
            "CineSceneAnimatic", panorama=["image", 0], trajectory=["path", 0], width=160, height=96,
            yaw_offset_degrees=0.0, pitch_degrees=0.0,
        ),
    }  # fmt: skip
    graph["sampler"]["inputs"]["model"] = ["cached", 0]
    (path,) = host.output_files(queue(host, graph))
    assert path.suffix == ".mp4"
    assert path.stat().st_size > 1000


def test_the_animatic_is_the_core_s(host, comfy_paths):
    graph = place() | move() | {
        "animatic": node(
            "CineSceneAnimatic", panorama=["image", 0], trajectory=["path", 0], width=160, height=96,
            yaw_offset_degrees=20.0, pitch_degrees=10.0,
        ),
        "save": node("SaveImage", images=["animatic", 0], filename_prefix="animatic"),
    }  # fmt: skip
    got = frames_of(host, queue(host, graph))
    expected = render_animatic(
        load_panorama(comfy_paths.base / "input/panorama.png"),
        preset_trajectory("pan_right", amount=30.0, num_frames=9),
        160,
        96,
        yaw_offset_degrees=20.0,
        pitch_degrees=10.0,
    )
    # The host cuts decimals off when it saves: up to one level of 255, and one of float32 rounding.
    assert np.abs(got - expected.clamp(0, 1).numpy() * 255).max() < 1.01


def test_a_scene_survives_saving_and_loading(host, comfy_paths):
    save_file({"weights": torch.zeros(1)}, comfy_paths.base / "output/weights.safetensors")
    (comfy_paths.base / "output/latent.safetensors").write_bytes(b"no header")
    saved = queue(
        host, place() | {"keep": node("CineSceneSaveScene", scene=["scene", 0], filename_prefix="places/old/s")}
    )
    path = saved.outputs["keep"]["text"][0]
    scene = load_scene(path)
    assert len(scene.views) == 4
    listed = host.get("/object_info/CineSceneLoadScene")["CineSceneLoadScene"]["input"]["required"]["file"]
    options = listed[1].get("options") or listed[0]
    name = f"places/old/{path.rsplit('/', 1)[-1]} [output]"
    assert name in options
    assert not [option for option in options if "latent" in option or "weights" in option]
    nano = {"nano": node("CineSceneNanoLoader"), "again": node("CineSceneLoadScene", file=name)}
    direct, loaded = queue(host, first_video()), queue(host, nano | move() | shot(scene="again"))
    np.testing.assert_array_equal(frames_of(host, loaded), frames_of(host, direct))


def test_a_loaded_scene_is_read_again_only_when_its_content_changes(host, comfy_paths):
    queue(host, place() | {"keep": node("CineSceneSaveScene", scene=["scene", 0], filename_prefix="cinescene/t")})
    path = next((comfy_paths.base / "output/cinescene").glob("t_*.safetensors"))
    (comfy_paths.base / "input/place.safetensors").write_bytes(path.read_bytes())
    graph = {"nano": node("CineSceneNanoLoader"), "scene": node("CineSceneLoadScene", file="place.safetensors")}
    queue(host, graph | move() | shot())
    (comfy_paths.base / "input/place.safetensors").touch()
    assert "scene" in queue(host, graph | move() | shot(seed=3)).cached
    queue(
        host,
        place(num_views=3) | {"keep": node("CineSceneSaveScene", scene=["scene", 0], filename_prefix="cinescene/u")},
    )
    other = next((comfy_paths.base / "output/cinescene").glob("u_*.safetensors"))
    (comfy_paths.base / "input/place.safetensors").write_bytes(other.read_bytes())
    assert "scene" not in queue(host, graph | move() | shot(seed=3)).cached


def test_shuffled_views_change_the_video_and_encode_nothing(host):
    first_run = queue(host, first_video())
    graph = first_video() | {"shuffled": node("CineSceneShuffleContext", scene=["scene", 0], seed=5)}
    graph["shot"]["inputs"]["scene"] = ["shuffled", 0]
    run = queue(host, graph)
    assert "scene" in run.cached
    assert np.abs(frames_of(host, run).astype(int) - frames_of(host, first_run)).max() > 0


def test_photos_and_trajectory_files_serve_as_well(host):
    graph = first_video() | {
        "batch": node("RepeatImageBatch", image=["image", 0], amount=3),
        "views": node("CineScenePhotoViews", photos=["batch", 0], width=160, height=96),
        "path": node("CineSceneTrajectoryFile", file="turn.npy", fov_degrees=0.0, fps=24.0, subject_distance=0.0),
    }
    assert frames_of(host, queue(host, graph)).shape == (9, 96, 160, 3)


@pytest.mark.parametrize(
    "loader",
    [
        node("CineSceneModelLoader", model_name="tiny_cinescene.safetensors", weight_dtype="default"),
        node("UNETLoader", unet_name="tiny_cinescene.safetensors", weight_dtype="default"),
    ],
)
def test_a_checkpoint_films_with_stock_lora_loading(host, loader):
    graph = first_video() | {
        "model": loader,
        "lora": node("LoraLoaderModelOnly", model=["model", 0], lora_name="tiny_lora.safetensors", strength_model=0.5),
    }
    for name in ("shot", "sampler"):
        graph[name]["inputs"]["model"] = ["model", 0]
    plain = frames_of(host, queue(host, graph))
    graph["sampler"]["inputs"]["model"] = ["lora", 0]
    assert np.abs(frames_of(host, queue(host, graph)).astype(int) - plain).max() > 0


REFUSED = [
    (place(width=150), "width and height must be multiples of 16"),
    (place(num_views=41), "ViewConfig.num_views must be 1 to 40; got 41. Use 20, as the paper does."),
    (place() | move(num_frames=10), "num_frames must be 4n + 1"),
    (place() | move(move="orbit"), "move must be one of static, pan_left, "),
    (
        place() | {"path": node("CineSceneTrajectoryFile", file="no.json", fov_degrees=0, fps=0, subject_distance=0)},
        "There is no file 'no.json' in ComfyUI's input folder",
    ),
    (
        {"scene": node("CineSceneLoadScene", file="places/no.safetensors [output]")},
        "There is no file 'places/no.safetensors [output]' in ComfyUI's output folder",
    ),
    ({"model": node("CineSceneModelLoader", model_name="no.safetensors", weight_dtype="default")}, "never downloads"),
    ({"vggt": node("CineSceneVGGTLoader", vggt_name="no.safetensors")}, "facebook/VGGT-1B"),
]


@pytest.mark.parametrize(("parts", "sentence"), REFUSED)
def test_bad_values_are_refused_before_anything_runs(host, parts, sentence):
    graph = first_video() | parts
    if "model" in parts:
        graph["shot"]["inputs"]["model"] = ["model", 0]
    if "vggt" in parts:
        graph["scene"]["inputs"]["vggt"] = ["vggt", 0]
    with pytest.raises(RefusedError, match=re.escape(sentence)):
        host.submit(graph)


def animatic(**trajectory):
    """An animatic of nine frames."""
    return move(**trajectory) | {
        "animatic": node(
            "CineSceneAnimatic", panorama=["image", 0], trajectory=["path", 0], width=160, height=96,
            yaw_offset_degrees=0.0, pitch_degrees=0.0,
        ),
        "save": node("PreviewImage", images=["animatic", 0]),
    }  # fmt: skip


FAILING = [
    (
        first_video()
        | {"path": node("CineSceneTrajectoryFile", file="zoom.json", fov_degrees=0, fps=0, subject_distance=0)},
        "The lens of this path changes, from 90 to 60 degrees",
    ),
    (first_video() | place(image="not_two_to_one.png"), "twice as wide as high; got 400 x 256"),
    (first_video() | {"twice": node("RepeatImageBatch", image=["image", 0], amount=2)}, "takes one panorama"),
    (place() | animatic(**{"move": "dolly_in", "move.metres": 1.0}), "no parallax"),
    (
        first_video()
        | {"path": node("CineSceneTrajectoryFile", file="broken.json", fov_degrees=0, fps=0, subject_distance=0)},
        "broken.json is not valid JSON",
    ),
    (
        first_video()
        | {"model": node("CineSceneModelLoader", model_name="a_lora.safetensors", weight_dtype="default")},
        "a_lora.safetensors is a LoRA",
    ),
    (
        first_video() | {"vggt": node("CineSceneVGGTLoader", vggt_name="tiny_vggt.safetensors")},
        "but the checkpoint was trained with",
    ),
]


@pytest.mark.parametrize(("graph", "sentence"), FAILING)
def test_bad_content_ends_with_a_sentence(host, graph, sentence):
    if "twice" in graph:
        graph["views"]["inputs"]["panorama"] = ["twice", 0]
    if "model" in graph:
        graph["shot"]["inputs"]["model"] = ["model", 0]
    if "vggt" in graph:
        graph["scene"]["inputs"]["vggt"] = ["vggt", 0]
    run = host.queue(graph)
    assert run.status == "error"
    assert sentence in run.error


def test_an_interrupt_ends_the_sampling_within_a_step(host):
    prompt_id = host.submit(first_video(seed=99, steps=1000))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if host.get("/queue")["queue_running"] and "sampler" not in str(host.get(f"/history/{prompt_id}")):
            time.sleep(1.5)
            break
    start = time.monotonic()
    host.post("/interrupt", {"prompt_id": prompt_id})
    run = host.wait(prompt_id)
    assert run.status == "interrupted", run.error
    assert time.monotonic() - start < 5
    assert queue(host, first_video()).status == "success"
