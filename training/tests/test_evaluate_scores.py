"""Scores of one video, the estimators of its camera path, exact masks and flow, and files that are refused."""

import dataclasses
import math

import pytest
import torch
from safetensors.torch import save_file
from tiny_run import tiny_config

from cinescene_core.cameras import inverse_pose, pose_from, rotation_from_angles
from cinescene_core.checks import CheckpointError
from cinescene_core.metrics import Lpips, ShiftMatcher
from cinescene_core.models.vggt import VGGT, VGGTConfig, encode_poses
from cinescene_core.trajectory.presets import preset_trajectory
from cinescene_core.types import SceneTokens
from cinescene_training.config import EncodersConfig
from cinescene_training.data.footage import ClipItem
from cinescene_training.evaluate import EvaluationOptions
from cinescene_training.evaluate import truth as truth_module
from cinescene_training.evaluate.estimators import VGGTEstimator, open_estimator
from cinescene_training.evaluate.instruments import Instruments, open_instruments
from cinescene_training.evaluate.scores import score_video
from cinescene_training.evaluate.truth import Truth, read_truth
from cinescene_training.render.footage import RoomFootage

WIDTH, HEIGHT, FRAMES = 48, 32, 9


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def truth_of(move="arc_right", caption="a red ball rolls", subject=None, amount=None):
    path = preset_trajectory(move, amount=amount, num_frames=FRAMES, subject_distance=3.0, fov_degrees=90.0, fps=15.0)
    item = ClipItem(name="room/whuman/01", place="room", caption=caption, has_subject=subject is not None)
    frames = 0.2 + 0.6 * noise(FRAMES, HEIGHT, WIDTH, 3)
    return Truth(item, path, frames, subject, None, None)


class KnownPoses:
    """An estimator that is told the path, and adds to each pose what it is told to."""

    name = "the truth itself"

    def __init__(self, path, error=None, scale=1.0):
        self.path, self.error, self.scale = path, error, scale
        self.asked = []

    def poses(self, frames):
        self.asked.append(len(frames))
        poses = self.path.world_from_camera[::4].clone()
        if self.error is not None:
            poses[1:] = poses[1:] @ self.error
        poses[:, :3, 3] *= self.scale
        return poses


def scored(truth, **tools):
    return score_video(truth.frames, truth, Instruments(stride=4, **tools), variant="model", seed=0)


# ---- pictures ---------------------------------------------------------------------------------


def test_background_and_subject_by_hand():
    subject = torch.zeros(FRAMES, HEIGHT, WIDTH, dtype=torch.bool)
    subject[:4, :, : WIDTH // 4] = True  # the subject leaves the picture
    truth = truth_of(subject=subject)
    frames = truth.frames + torch.where(subject, 0.1, 0.01)[..., None]
    found = score_video(frames, truth, Instruments(stride=4), variant="model", seed=7, decoded=truth.frames + 0.001)
    assert found.psnr_subject == pytest.approx(20, abs=1e-4)  # of the frames that show it
    assert found.psnr_background == pytest.approx(40, abs=1e-4)
    with_it, without = (0.25 * 0.1**2 + 0.75 * 0.01**2), 0.01**2
    assert found.psnr == pytest.approx(-10 * (4 * math.log10(with_it) + 5 * math.log10(without)) / 9, abs=1e-4)
    closer = 0.25 * 0.099**2 + 0.75 * 0.009**2, 0.009**2
    assert found.psnr_decoded == pytest.approx(
        -10 * (4 * math.log10(closer[0]) + 5 * math.log10(closer[1])) / 9, abs=1e-3
    )
    assert (found.clip, found.place, found.move, found.seed) == ("room/whuman/01", "room", "arc_right", 7)


def test_without_an_outline_nobody_knows_the_background():
    item = ClipItem(name="a", place="p", caption="", has_subject=True)
    found = scored(dataclasses.replace(truth_of(), item=item))
    assert (found.psnr_background, found.psnr_subject, found.warp) == (None, None, None)


def test_instruments_see_result_and_truth_in_that_order():
    truth = truth_of()
    moved = torch.roll(truth.frames, 1, dims=2)  # one pixel to the right: 14 of the matcher's
    matched = score_video(moved, truth, Instruments(stride=4, matcher=ShiftMatcher()), variant="model").matched
    assert matched.share < 0.05
    exact = score_video(truth.frames, truth, Instruments(stride=4, matcher=ShiftMatcher()), variant="model")
    assert exact.matched.share == 1
    lpips = Lpips()
    for parameter in lpips.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(0))
    tools = Instruments(stride=4, lpips=lpips)
    assert score_video(truth.frames, truth, tools, variant="model").lpips == 0
    assert score_video(moved, truth, tools, variant="model").lpips != 0


class ColourClip:
    """Mean colours as features of pictures; the prompt means red."""

    name = "mean colours"

    def encode_images(self, frames):
        return frames.mean((1, 2))

    def encode_text(self, prompt):
        return torch.tensor([1.0, 0.0, 0.0])


def test_clip_scores_compare_with_the_truth_and_the_prompt():
    truth = dataclasses.replace(truth_of(), frames=torch.tensor([0.6, 0.8, 0.0]).expand(FRAMES, HEIGHT, WIDTH, 3))
    red = torch.tensor([0.5, 0.0, 0.0]).expand(FRAMES, HEIGHT, WIDTH, 3)
    found = score_video(red, truth, Instruments(stride=4, clip=ColourClip()), variant="model")
    assert (found.clip_v, found.clip_t) == (pytest.approx(0.6), pytest.approx(1.0))
    silent = dataclasses.replace(truth, item=dataclasses.replace(truth.item, caption=" "))
    assert score_video(red, silent, Instruments(stride=4, clip=ColourClip()), variant="model").clip_t is None


# ---- camera paths -----------------------------------------------------------------------------


def test_the_true_path_has_no_error_in_any_world_and_unit():
    truth = truth_of()
    estimator = KnownPoses(truth.path, scale=7.0)
    camera = scored(truth, estimator=estimator).camera
    assert (camera.rot_err, camera.trans_err, camera.cam_mc) == pytest.approx((0, 0, 0), abs=1e-6)
    assert (camera.num_frames, camera.stride, camera.estimator) == (3, 4, "the truth itself")
    assert estimator.asked == [3]  # frames 0, 4 and 8


def test_a_known_turn_is_found_in_full():
    truth = truth_of("dolly_in", amount=1.5)
    turned = pose_from(rotation_from_angles(0.0, 0.0, 2.0), torch.zeros(3, dtype=torch.float64))
    camera = scored(truth, estimator=KnownPoses(truth.path, turned)).camera
    assert camera.rot_err == pytest.approx(2 * math.radians(2))  # the first of three frames has none
    assert camera.trans_err == pytest.approx(0, abs=1e-6)
    assert camera.cam_mc == pytest.approx(2 * math.sqrt(8) * math.sin(math.radians(1)))


def test_a_pan_has_no_error_of_translation():
    truth = truth_of("pan_left")
    camera = scored(truth, estimator=KnownPoses(truth.path)).camera
    assert camera.rot_err == pytest.approx(0, abs=1e-6)
    assert (camera.trans_err, camera.cam_mc, camera.reason) == (None, None, "static ground truth")


def test_an_estimator_that_finds_nothing_is_a_failure_not_an_end():
    class Lost(KnownPoses):
        def poses(self, frames):
            raise ValueError("No two frames share a point.")

    truth = truth_of()
    camera = scored(truth, estimator=Lost(truth.path)).camera
    assert (camera.failed, camera.reason, camera.rot_err) == (True, "No two frames share a point.", None)


class CameraHead:
    """VGGT's interface over a known path: what it says is world-to-camera, in the first camera's axes."""

    patch_size, fingerprint = 14, "f" * 16

    def __init__(self, path):
        relative = inverse_pose(inverse_pose(path.world_from_camera[:1]) @ path.world_from_camera)[::4]
        intrinsic = torch.tensor([[21.0, 0, 21], [0, 21, 14], [0, 0, 1]]).expand(len(relative), 3, 3)
        self.encoding = encode_poses(relative[:, :3], intrinsic.double(), (42, 28)).float()
        self.seen = []

    def parameters(self):
        return iter([torch.zeros(1)])

    def encode(self, images):
        self.seen.append(tuple(images.shape))
        frames = images.shape[1]
        return SceneTokens(torch.zeros(1, frames, 6, 4), torch.zeros(1, frames, 1, 4), (2, 3))

    def cameras(self, tokens):
        worse = torch.zeros_like(self.encoding)
        return torch.stack([worse, self.encoding])[:, None]


def test_vggt_s_cameras_become_camera_to_world():
    truth = truth_of("arc_up")
    head = CameraHead(truth.path)
    estimator = VGGTEstimator(head, (42, 28))
    camera = scored(truth, estimator=estimator).camera
    assert head.seen == [(1, 3, 3, 28, 42)]
    # Encodings are float32, and arccos near 1 turns 1e-7 into 5e-4 radians.
    assert camera.rot_err < 2e-3
    assert (camera.trans_err, camera.cam_mc) == pytest.approx((0, 0), abs=2e-3)
    assert camera.estimator == "VGGT ffffffffffffffff at 42 x 28"


def test_poses_that_are_not_finite_are_a_failure():
    truth = truth_of()
    head = CameraHead(truth.path)
    head.encoding[1] = torch.nan
    camera = scored(truth, estimator=VGGTEstimator(head, (42, 28))).camera
    assert camera.failed
    assert camera.reason == "VGGT ffffffffffffffff at 42 x 28 gave poses that are not finite."


def vggt_file(path, *, camera_head):
    sizes = {"embed_dim": 32, "num_heads": 2, "position_grid": 3, "backbone_depth": 1, "depth": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = VGGT(VGGTConfig(**sizes, camera_head=camera_head, depth_head=False))
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    return network


def test_the_run_s_own_vggt_measures_where_it_has_a_camera_head(tmp_path):
    network = vggt_file(tmp_path / "vggt.safetensors", camera_head=True)
    config = tiny_config(tmp_path)
    encoders = EncodersConfig(vggt=tmp_path / "vggt.safetensors", wan=tmp_path)
    own = dataclasses.replace(config, cache=dataclasses.replace(config.cache, encoders=encoders))
    estimator = open_estimator(own, None)
    assert estimator.name == f"VGGT {network.fingerprint} at 56 x 28"  # the run's size
    poses = estimator.poses(noise(3, 32, 64, 3))
    assert poses.shape == (3, 4, 4)
    torch.testing.assert_close(poses[:, :3, :3] @ poses[:, :3, :3].mT, torch.eye(3).double().expand(3, 3, 3))
    named = open_estimator(config, tmp_path / "vggt.safetensors")
    assert named.name.endswith("at 518 x 252")  # 64 x 32 at the width VGGT was trained on, whole patches of 14


def test_a_vggt_without_a_camera_head_leaves_the_columns_missing(tmp_path):
    tools = open_instruments(tiny_config(tmp_path), EvaluationOptions(), torch.device("cpu"))
    assert tools.estimator is None
    missing = tools.missing(rendered=True, with_subject=True)
    assert "no camera head" in missing["rot_err"]
    assert set(missing) == {
        "vbench", "mat_pix", "mat_pix_share", "clip_v", "clip_t", "lpips", "rot_err", "trans_err", "cam_mc",
        "rot_err_degrees", "trans_err_least_squares",
    }  # fmt: skip
    elsewhere = tools.missing(rendered=False, with_subject=True)
    assert set(elsewhere) - set(missing) == {"warp", "psnr_subject"}
    full = Instruments(4, lpips=Lpips(), clip=ColourClip(), matcher=ShiftMatcher(), estimator=KnownPoses(None))
    assert set(full.missing(rendered=True, with_subject=True)) == {"vbench"}
    assert full.names(77)["trans_err"] == "N = 20 frames, stride 4, poses by the truth itself, summed, radians"
    assert full.names(77)["mat_pix"] == "matpix-v1, known shift (0, 0), certainty above 0.5"


def test_wrong_files_are_refused_by_name(tmp_path):
    (tmp_path / "page.pth").write_bytes(b"<html>")
    vggt_file(tmp_path / "headless.safetensors", camera_head=False)
    wrong = tmp_path / "page.pth"
    for options, sentence in (
        (EvaluationOptions(lpips_alexnet=wrong, lpips_heads=wrong), r"page\.pth is a web page"),
        (EvaluationOptions(lpips_alexnet=tmp_path / "no.pth", lpips_heads=wrong), r"no\.pth does not exist"),
        (EvaluationOptions(clip_folder=tmp_path), r"config\.json does not exist\. Name the folder of a CLIP release"),
        (EvaluationOptions(estimator=tmp_path / "headless.safetensors"), r"headless\.safetensors holds no camera head"),
        (EvaluationOptions(estimator=wrong), r"page\.pth is a web page"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            open_instruments(tiny_config(tmp_path), options, torch.device("cpu"))


# ---- rendered truth ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rooms():
    return RoomFootage("test", 1, clips_per_place=1, num_frames=FRAMES, width=64, height=32, samples=1)


def test_rooms_know_the_subject_and_the_flow_of_the_place(rooms, monkeypatch, tmp_path):
    shot = dataclasses.replace(tiny_config(tmp_path).cache.shot, num_frames=FRAMES)
    with_subject, without = (read_truth(rooms, clip, shot) for clip in rooms.clips)
    assert with_subject.subject.any()
    assert not without.subject.any()
    assert not (with_subject.followed & with_subject.subject[:-1]).any()
    assert without.followed.float().mean() > 0.5
    monkeypatch.setattr(truth_module, "PAIRS_AT_ONCE", 3)
    again = read_truth(rooms, rooms.clips[0], shot)
    assert torch.equal(again.followed, with_subject.followed)
    seen = again.followed
    assert torch.equal(again.flow[seen], with_subject.flow[seen])


def test_flicker_shows_in_the_warp_error_and_camera_motion_does_not(rooms, tmp_path):
    shot = dataclasses.replace(tiny_config(tmp_path).cache.shot, num_frames=FRAMES)
    truth = read_truth(rooms, rooms.clips[1], shot)
    tools = Instruments(stride=4)
    floor = score_video(truth.frames, truth, tools, variant="model").warp
    flickering = truth.frames.clone()
    flickering[1::2] = (flickering[1::2] - 0.2).clamp(0, 1)
    shown = score_video(flickering, truth, tools, variant="model").warp
    still = score_video(truth.frames[:1].expand_as(truth.frames).clone(), truth, tools, variant="model").warp
    assert floor < 0.05  # what bilinear sampling of an aliased picture leaves
    assert shown > floor + 0.1
    assert still > floor  # a frozen video does not follow the flow
