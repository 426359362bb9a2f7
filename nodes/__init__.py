"""The node pack: adapt what ComfyUI gives, call `cinescene_core`, adapt back. One file per stage, in pipeline order."""

from .animatic import Animatic
from .conditioning import Conditioning
from .context import ShuffleContext
from .host import register_model
from .loaders import ModelLoader, NanoLoader, VGGTLoader, register_folders
from .sampler import Sampler
from .scene import EncodeScene, LoadScene, SaveScene
from .shot_list import ShotList
from .sockets import ComfyExtension, io
from .trajectory import TrajectoryFile, TrajectoryPreset
from .views import PanoramaViews, PhotoViews

NODES: list[type[io.ComfyNode]] = [
    ModelLoader,
    VGGTLoader,
    NanoLoader,
    PanoramaViews,
    PhotoViews,
    EncodeScene,
    SaveScene,
    LoadScene,
    TrajectoryPreset,
    TrajectoryFile,
    ShotList,
    Animatic,
    ShuffleContext,
    Conditioning,
    Sampler,
]


class CineSceneExtension(ComfyExtension):
    """What ComfyUI asks for at start."""

    async def on_load(self) -> None:
        """Make the model and the folders known before any loader runs."""
        register_model()
        register_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node, in pipeline order."""
        return NODES


async def comfy_entrypoint() -> CineSceneExtension:
    """ComfyUI's way in."""
    return CineSceneExtension()
