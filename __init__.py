"""ComfyUI's door to CineScene. Everything behind it is in `nodes/` (adapters) and `cinescene_core/` (the work)."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
