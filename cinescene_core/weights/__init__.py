"""Model files in and out: recognised from the header, checked by name and shape, never repaired in silence."""

from .bundle import BUNDLE_PARTS, nano_path, read_bundle_part, save_bundle
from .files import Header, TensorInfo, load_tensors, read_header
from .recognise import FileKind, describe, identify, require
from .transformer import fold_projector, load_transformer, save_transformer, wan_config_from

__all__ = [
    "BUNDLE_PARTS",
    "FileKind",
    "Header",
    "TensorInfo",
    "describe",
    "fold_projector",
    "identify",
    "load_tensors",
    "load_transformer",
    "nano_path",
    "read_bundle_part",
    "read_header",
    "require",
    "save_bundle",
    "save_transformer",
    "wan_config_from",
]
