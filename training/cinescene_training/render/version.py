"""Which pictures the room renderer makes of a seed."""

RENDER_VERSION = 1
"""Raise it when the picture, the path or the caption of any seed changes: caches and datasets made before are then
refused and not mixed with new ones."""
