"""Keys of a safetensors file's metadata under which CineScene keeps its JSON records."""

TRANSFORMER_KEY = "cinescene"
"""What a checkpoint was trained with: `CineSceneConfig.to_json`. Bundles use it too."""
SCENE_KEY = "cinescene_scene"
"""How a scene was made."""
HOST_KEY = "config"
"""What ComfyUI's own loader hands to the model it makes; holds the record of `TRANSFORMER_KEY` again."""
