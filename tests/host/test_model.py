"""The MODEL in the host: equal to the core network, and open to everything stock nodes do to a model."""

import pytest

# Two float32 implementations of attention and two orders of summation; values are O(10).
SAME_NETWORK = 1e-5
# Four steps with guidance 5 multiply that difference by about ten, and noise levels may differ in their last digit.
SAME_VIDEO = 1e-4


def test_one_forward_equals_the_core_network(inside):
    assert inside["forward"] < SAME_NETWORK


def test_stock_ksampler_equals_plain_euler_over_the_core_network(inside):
    assert inside["ksampler"] < SAME_VIDEO


def test_noise_and_schedule_are_the_core_s(inside):
    assert inside["noise"] == 0
    assert inside["sigmas"] < 1e-6  # computed in float64 there, in float32 here


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_our_sampler_equals_the_core_s_loop(inside, solver):
    assert inside["own_sampler"][solver] < SAME_VIDEO
    assert inside["solvers_apart"] > 0.01


def test_a_model_in_bfloat16_sees_the_poses_unrounded(inside):
    assert inside["bf16_types"] == ["torch.bfloat16", "torch.float32"]
    assert inside["bf16_inference"] == "torch.bfloat16"
    assert inside["bf16"] < 1e-6  # the same roundings in the same places
    assert inside["bf16_rounded_poses"] > 5e-3


def test_the_same_seed_gives_the_same_video(inside):
    assert inside["repeat"] == 0


def test_the_checkpoints_record_reaches_the_model(inside):
    assert inside["record"] == {"positions": "paired", "class": "CineSceneBaseModel"}


def test_guidance_branches_together_or_apart_give_the_same_video(inside):
    assert inside["batches_together"] == [2, 2, 2, 2]
    assert inside["batches_apart"] == [1] * 8
    assert inside["apart"] < SAME_VIDEO


def test_guidance_outside_its_interval_is_not_computed(inside):
    # Four steps of shift 1: sigma 1, 3/4, 1/2, 1/4; the interval is 0.4 to 0.8.
    assert inside["interval"] == [[1, 1000], [2, 750], [2, 500], [1, 250]]


def test_block_patches_are_called_and_decide(inside):
    assert inside["replaced_blocks"] == [1, 1, 1, 1]
    assert inside["replaced"] == 0
    assert inside["skipped_block"] > 0.01


def test_an_attention_override_sees_every_block(inside):
    assert inside["overridden_blocks"] == [0, 0, 1, 1]  # self-attention and cross-attention
    assert inside["overridden"] == 0


def test_lora_changes_the_video_and_leaves_the_model_as_it_was(inside):
    assert inside["lora_patches"] == [
        "diffusion_model.blocks.0.self_attn.q.weight",
        "diffusion_model.blocks.1.cam_encoder.weight",
    ]
    assert inside["lora"] > 0.01
    assert inside["after_lora"] == 0


def test_the_scene_counts_for_memory(inside):
    # 2 latent frames of video, and 3 views with one frame of I_t and one of F_t each.
    assert inside["memory"] == pytest.approx((2 + 2 * 3) / 2)
    assert inside["shapes"] == {"cinescene_scene": [1, 3, 16, 4, 6]}


@pytest.mark.parametrize("mode", ["cached", "per_view"])
def test_a_place_is_read_once_a_run(inside, mode):
    found = inside["cached"][mode]
    assert found["equal"] < SAME_VIDEO
    assert found["apart"] < SAME_VIDEO
    assert found["readings"] == 2  # one run with the branches together, one with them apart


@pytest.mark.parametrize("mode", ["cached", "per_view"])
def test_what_was_read_is_gone_with_the_run(inside, mode):
    found = inside["cached"][mode]
    assert found["interrupted"]
    assert found["left"] == found["left_interrupted"] == 0


def test_a_lora_is_read_too_and_leaves_nothing(inside):
    changed, after = inside["cached_lora"]
    assert changed > 0.01
    assert after == 0


def test_what_was_read_counts_for_memory(inside):
    without, with_scene = inside["cached_memory"]
    # Six frames are read before the first of two frames is sampled; then keys and values of 6 x 2 x 3 tokens, 128
    # wide, stay for each of two blocks, in float32.
    assert with_scene == pytest.approx(without * 6 / 2 + 2 * (6 * 2 * 3) * 128 * 2 * 4)


@pytest.mark.parametrize("mode", ["cinescene", "cached"])
@pytest.mark.parametrize("cache", ["EasyCache", "LazyCache"])
def test_the_hosts_step_caches_work(inside, cache, mode):
    found = inside["step_caches"][f"{cache} {mode}"]
    assert found["never"] == 0  # a threshold that nothing meets
    all_of_them, computed = found["computed"]
    assert all_of_them == len(computed)  # both branches in one forward a step
    assert computed[0]
    assert 0 < sum(computed) < len(computed)
    assert found["changed"] > 0.01
    assert found["cached"] < SAME_VIDEO
    assert found["after"] == 0


@pytest.mark.parametrize(("name", "mantissa_bits"), [("fp8_e4m3fn", 3), ("fp8_e5m2", 2)])
def test_fp8_weights_stay_near(inside, name, mantissa_bits):
    # Rounding each weight costs up to 2^-(bits + 1); four guided steps amplify it about tenfold.
    assert 0 < inside["formats"][name] < 10 * 2 ** -(mantissa_bits + 1)


def test_the_camera_layer_is_never_in_fp8(inside):
    assert inside["fp8_camera"] == ["torch.float32", 0]


def test_a_folded_file_gives_the_same_video(inside):
    assert inside["folded"] < SAME_VIDEO


def test_context_windows_cut_the_camera(inside):
    if "window_cameras" not in inside:
        pytest.skip("this host's windows cannot cut conditions of a model")
    assert inside["window_cameras"] == [[0, 1], [2, 3]]


def test_the_scene_encoder_equals_the_core_network(inside):
    assert inside["vggt"] < SAME_NETWORK
    assert inside["vggt_blocks"] == [[1, 3], [2, 3], [3, 3]]


def test_an_interrupt_ends_encoding_a_scene_fitting_photos_and_loading_vggt(inside):
    assert inside["interrupted"] == [True, True, True]


def test_another_vae_is_refused(inside):
    assert inside["wrong_vae"] == (
        "CheckpointError: CineScene needs the Wan2.1 VAE (a video VAE with 16 channels); this is another, with "
        "an unknown number. Load wan_2.1_vae.safetensors with Load VAE."
    )


def test_the_vae_encodes_every_picture_alone(inside):
    assert inside["vae_alone"] == 0
    assert inside["vae_shapes"] == [[2, 16, 1, 4, 6], [2, 1, 32, 48, 3]]


def test_nanos_text_encoder_works_as_a_clip(inside):
    assert inside["text"] == 0
    assert inside["clip_clone"] == 0
    assert inside["nano_class"] == "CineSceneBaseModel"
