"""The order in which the model reads the views."""

from ..cinescene_core import types
from ..cinescene_core.context import reorder_scene, shuffled_order
from .sockets import Scene, io, schema


class ShuffleContext(io.ComfyNode):
    """CineSceneShuffleContext."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CineSceneShuffleContext",
            display_name="Shuffle Views",
            category="place",
            description="Shuffles the views behind the first, as in the model's training. Nothing is encoded again.",
            search_aliases=["shuffle", "order", "context", "views"],
            inputs=[
                Scene.Input("scene", tooltip="The encoded place."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**53 - 1,
                    control_after_generate=False,
                    tooltip="Which order; the same number gives the same order on every machine.",
                ),
            ],
            outputs=[Scene.Output(display_name="scene", tooltip="The same place, its views in another order.")],
        )

    @classmethod
    def execute(cls, scene: types.Scene, seed: int) -> io.NodeOutput:
        return io.NodeOutput(reorder_scene(scene, shuffled_order(len(scene.views), seed)))
