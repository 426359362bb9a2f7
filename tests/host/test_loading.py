"""Which file becomes what, by stock loaders and ours, and what wrong files are told."""

import pytest


@pytest.mark.parametrize(("name", "projector"), [("tiny_cinescene", True), ("tiny_folded", False)])
def test_stock_unet_loader_recognises_a_cinescene_file(inside, name, projector):
    assert inside["stock"][name]["class"] == "CineSceneBaseModel"
    assert inside["stock"][name]["projector"] is projector


def test_stock_unet_loader_passes_the_record_on(inside):
    assert inside["stock"]["tiny_cinescene"]["positions"] == "paired"


def test_a_checkpoint_without_its_record_is_refused(inside):
    assert inside["no_record"] == (
        "CheckpointError: This checkpoint has CineScene's layers but not the record of how it was trained; some tool "
        "dropped its metadata on saving. Use the original file."
    )


def test_both_loaders_give_the_same_network(inside):
    assert inside["stock_equals_own"] == 0


def test_relatives_stay_what_they_are_to_stock_loaders(inside):
    for name in ("tiny_recammaster", "tiny_wan"):
        assert inside["stock"][name]["class"] == "WAN21"


@pytest.mark.parametrize(("name", "has_camera"), [("own_tiny_recammaster", True), ("own_tiny_wan", False)])
def test_our_loader_starts_the_layers_a_base_file_lacks(inside, name, has_camera):
    assert inside[name]["finite"]
    assert inside[name]["trained"] is False
    assert (inside[name]["camera"] > 0) is has_camera


def test_wrong_files_are_refused_in_one_sentence(inside):
    assert inside["wrong_files"]["a_lora"] == (
        "CheckpointError: a_lora.safetensors is a LoRA; CineScene's transformer needs a CineScene checkpoint, a "
        "ReCamMaster model or a Wan2.1 text-to-video model. Load it with a LoRA loader, on top of the model."
    )
    assert inside["wrong_files"]["truncated"].startswith("CheckpointError: truncated.safetensors is truncated: ")


def test_a_missing_tensor_is_never_left_to_chance(inside):
    assert inside["missing_tensors"] == (
        "CheckpointError: This CineScene checkpoint lacks 2 tensors, the first is blocks.1.cam_encoder.weight. "
        "Download or export it again."
    )


def test_registering_twice_enters_the_model_once(inside):
    assert inside["registered"] == ["CineSceneT2V", 1]


def test_another_model_is_told_apart(inside):
    assert inside["not_cinescene"] == ("CheckpointError: The model is WAN21, not CineScene. Use Load CineScene Model.")


def test_a_latent_of_another_size_is_refused(inside):
    assert inside["wrong_size"] == (
        "ShapeError: The latent is 64 x 64 pixels, but the scene's views are 48 x 32. "
        "Sample the latent that CineScene Conditioning gives."
    )
