"""Model files to models: which folders are searched, and what is said when a file is missing or wrong."""

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
import torch
from torch import Tensor

from ..cinescene_core.checks import CheckpointError, CineSceneWarning
from ..cinescene_core.config import UNTRAINED, CineSceneConfig
from ..cinescene_core.models.text import VocabularyEncoder
from ..cinescene_core.panorama import example_panorama_path, load_panorama
from ..cinescene_core.weights import FileKind, identify, nano_path, read_bundle_part, read_header
from ..cinescene_core.weights.metadata import HOST_KEY
from ..cinescene_core.weights.transformer import comfyui_metadata, read_transformer
from .encoders import as_clip, open_vae, open_vggt
from .host import cinescene_config
from .memory import warn_of_memory
from .sockets import SceneEncoder, io, progress, schema, show_warnings, to_image

VGGT_FOLDERS = ("vggt", "geometry_estimation")
INPUT, OUTPUT = "input", "output"
WEIGHT_TYPES: dict[str, dict[str, Any]] = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}
TRANSFORMER_SOURCE = (
    "a CineScene checkpoint from our training project, "
    "or the Wan2.1 T2V 1.3B file of Comfy-Org/Wan_2.1_ComfyUI_repackaged on Hugging Face (Apache-2.0), "
    "which films without seeing the scene"
)
VGGT_SOURCE = (
    "model.safetensors of facebook/VGGT-1B on Hugging Face (non-commercial) "
    "or vggt_1B_commercial.pt of facebook/VGGT-1B-Commercial (Meta's VGGT licence, access on request)"
)


def register_folders() -> None:
    """Let the host know `models/vggt`; folders a user has given that name stay."""
    folder = os.path.join(folder_paths.models_dir, "vggt")
    paths, extensions = folder_paths.folder_names_and_paths.get("vggt", ([], set()))
    paths = paths if folder in paths else [*paths, folder]
    folder_paths.folder_names_and_paths["vggt"] = (paths, extensions | folder_paths.supported_pt_extensions)


def files_in(folders: tuple[str, ...]) -> list[str]:
    """The model files in some of the host's folders, of those this host has."""
    known = [folder for folder in folders if folder in folder_paths.folder_names_and_paths]
    return list(dict.fromkeys(name for folder in known for name in folder_paths.get_filename_list(folder)))


def find_file(folders: tuple[str, ...], name: str, source: str) -> str:
    """The path of a model file.

    Raises:
        FileNotFoundError: it is not there; the message names the folder and where the file comes from.
    """
    for folder in folders:
        path = folder_paths.get_full_path(folder, name) if folder in folder_paths.folder_names_and_paths else None
        if path is not None:
            return path
    wanted = f"'{name}' is not" if name else "There is no file"
    raise FileNotFoundError(
        f"{wanted} in {Path(folder_paths.models_dir) / folders[0]}. Put {source} there and press R. "
        "CineScene never downloads anything."
    )


def open_transformer(path: str, weight_type: str = "default", disable_dynamic: bool = False) -> Any:
    """Load a CineScene, ReCamMaster or base Wan2.1 file as a MODEL."""
    file = read_transformer(path)
    metadata = dict(file.header.metadata)
    model = make_model(file.tensors | file.fresh, file.config, metadata, weight_type, disable_dynamic)
    model.cached_patcher_init = (open_transformer, (path, weight_type))
    return model


def make_model(
    tensors: dict[str, Tensor],
    record: CineSceneConfig,
    metadata: dict[str, str],
    weight_type: str = "default",
    disable_dynamic: bool = False,
) -> Any:
    """A MODEL from a state dict in Wan's original names, by the host's own loader."""
    return comfy.sd.load_diffusion_model_state_dict(
        tensors,
        model_options=dict(WEIGHT_TYPES[weight_type]),
        metadata={**metadata, HOST_KEY: comfyui_metadata(record)},
        disable_dynamic=disable_dynamic,
    )


def open_nano_transformer(disable_dynamic: bool = False) -> Any:
    """The embedded checkpoint's transformer as a MODEL."""
    tensors, record = read_bundle_part(nano_path(), "transformer")
    model = make_model(tensors, CineSceneConfig.from_json(json.dumps(record)), {}, disable_dynamic=disable_dynamic)
    model.cached_patcher_init = (open_nano_transformer, ())
    return model


def file_problem(folders: tuple[str, ...], name: str, source: str) -> str | bool:
    """For `validate_inputs`: True when the file is there, else the sentence of `find_file`."""
    try:
        find_file(folders, name, source)
    except FileNotFoundError as error:
        return str(error)
    return True


def listed_files(suffixes: tuple[str, ...]) -> list[str]:
    """Files of the input folder for a list to choose from."""
    folder = Path(folder_paths.get_input_directory())
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(file.name for file in found if file.suffix.lower() in suffixes)


def listed_scenes() -> list[str]:
    """Scenes for a list to choose from: of the input folder, and of the output folder with all its folders."""
    names = []
    for folder, pattern, mark in (
        (folder_paths.get_input_directory(), "*.safetensors", ""),
        (folder_paths.get_output_directory(), "**/*.safetensors", f" [{OUTPUT}]"),
    ):
        scenes = (file for file in Path(folder).glob(pattern) if is_scene(file))
        names += sorted(f"{file.relative_to(folder).as_posix()}{mark}" for file in scenes)
    return names


def is_scene(path: Path) -> bool:
    """Whether a file's header says that it is a scene."""
    try:
        return identify(read_header(path)) is FileKind.SCENE
    except (CheckpointError, OSError):
        return False


def named_file(name: str, suffixes: tuple[str, ...], places: tuple[str, ...] = (INPUT,)) -> Path:
    """The path of a file that a list offers.

    Args:
        name: what the list calls it.
        suffixes: what such files end in.
        places: the folders that the list shows, for the message.

    Raises:
        FileNotFoundError: it is not there, or lies outside ComfyUI's input and output folders.
    """
    roots = {INPUT: folder_paths.get_input_directory(), OUTPUT: folder_paths.get_output_directory()}
    path = Path(folder_paths.get_annotated_filepath(name)).resolve() if name else None
    place = next((place for place in roots if path and path.is_relative_to(Path(roots[place]).resolve())), None)
    if path is None or place is None or not path.is_file():
        searched = [f"ComfyUI's {place} folder {roots[place]}" for place in ((place,) if place and name else places)]
        raise FileNotFoundError(
            f"There is no file '{name}' in {' or '.join(searched)}. "
            f"Put a {' or '.join(suffixes)} file there and press R."
        )
    return path


def content_of(name: str, suffixes: tuple[str, ...]) -> str:
    """SHA-256 of a listed file: what was made from it is kept until its content changes."""
    with named_file(name, suffixes).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def new_file(prefix: str, suffix: str) -> Path:
    """A free path in the output folder: the prefix, which may name folders, and a number."""
    folder, stem, number, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    return Path(folder) / f"{stem}_{number:05}_{suffix}"


class ModelLoader(io.ComfyNode):
    """CineSceneModelLoader."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CineSceneModelLoader",
            display_name="Load CineScene Model",
            category="loaders",
            description="Loads the video model. "
            "Also takes a base Wan2.1 or ReCamMaster file, and says what it will not do.",
            search_aliases=["wan", "unet", "diffusion model", "recammaster", "checkpoint"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=files_in(("diffusion_models",)),
                    tooltip="A file in models/diffusion_models: a CineScene checkpoint, Wan2.1 T2V, or ReCamMaster.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_TYPES),
                    default="default",
                    tooltip="How the weights are kept in memory. "
                    "fp8 (8 bits a number) halves their size and costs some precision; "
                    "'fast' also multiplies in fp8 on cards that can.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="For CineScene Conditioning, and for any sampler. Takes LoRA like every Wan2.1 model.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str) -> str | bool:
        return file_problem(("diffusion_models",), model_name, TRANSFORMER_SOURCE)

    @classmethod
    @show_warnings
    def execute(cls, model_name: str, weight_dtype: str) -> io.NodeOutput:
        path = find_file(("diffusion_models",), model_name, TRANSFORMER_SOURCE)
        model = open_transformer(path, weight_dtype)
        warn_of_memory(model)
        return io.NodeOutput(model)


class VGGTLoader(io.ComfyNode):
    """CineSceneVGGTLoader."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CineSceneVGGTLoader",
            display_name="Load VGGT (Scene Encoder)",
            category="loaders",
            description="Loads VGGT, the network that reads the geometry of a place from its views.",
            search_aliases=["vggt", "scene encoder", "geometry", "3d"],
            inputs=[
                io.Combo.Input(
                    "vggt_name",
                    options=files_in(VGGT_FOLDERS),
                    tooltip="A file in models/vggt (or models/geometry_estimation): the official VGGT-1B, 5 GB, "
                    "or the 1.8 GB file that 'cinescene convert-vggt' makes of it.",
                )
            ],
            outputs=[SceneEncoder.Output(display_name="vggt", tooltip="For Encode Scene.")],
        )

    @classmethod
    def validate_inputs(cls, vggt_name: str) -> str | bool:
        return file_problem(VGGT_FOLDERS, vggt_name, VGGT_SOURCE)

    @classmethod
    def execute(cls, vggt_name: str) -> io.NodeOutput:
        trained = CineSceneConfig()
        path = find_file(VGGT_FOLDERS, vggt_name, VGGT_SOURCE)
        return io.NodeOutput(open_vggt(path, (trained.vggt_width, trained.vggt_height), on_tensor=progress()))


class NanoLoader(io.ComfyNode):
    """CineSceneNanoLoader."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CineSceneNanoLoader",
            display_name="Load CineScene Nano (Built In)",
            category="loaders",
            description="Loads the small networks that come with CineScene. "
            "They run on a CPU and show how the method works; their pictures are no production quality. "
            "Made for 160 x 96 pixels and 17 frames.",
            search_aliases=["nano", "demo", "tiny", "cpu", "built-in", "example"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The small video model."),
                io.Clip.Output(
                    display_name="clip", tooltip="Its text encoder, for CLIP Text Encode. It knows few words."
                ),
                io.Vae.Output(display_name="vae", tooltip="Its VAE, for Encode Scene and VAE Decode."),
                SceneEncoder.Output(display_name="vggt", tooltip="Its scene encoder, for Encode Scene."),
                io.Image.Output(
                    display_name="panorama",
                    tooltip="An example place, for Views from Panorama and Animatic. For your own, use Load Image.",
                ),
            ],
        )

    @classmethod
    @show_warnings
    def execute(cls) -> io.NodeOutput:
        path = nano_path()
        vae, _ = read_bundle_part(path, "vae")
        encoder = VocabularyEncoder.from_state_dict(*read_bundle_part(path, "text"))
        model = open_nano_transformer()
        trained = cinescene_config(model)
        if not trained.scene_trained:
            warnings.warn(UNTRAINED, CineSceneWarning, stacklevel=1)
        vggt = open_vggt(str(path), (trained.vggt_width, trained.vggt_height), "vggt.")
        panorama = to_image(load_panorama(example_panorama_path())[None])
        return io.NodeOutput(model, as_clip(encoder), open_vae(vae), vggt, panorama)
