"""The `cinescene` command: the stages one by one, and the whole path in one go."""

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from ..checks import CineSceneWarning, Interrupted
from ..memory import OutOfMemory
from .parser import build_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status: 0, or 2 with one sentence on standard error."""
    options = build_parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("always", CineSceneWarning)
        warnings.showwarning = print_warning
        try:
            options.run(options)
        except (ValueError, OSError, ImportError, OutOfMemory) as error:
            print(f"cinescene: {error}", file=sys.stderr)
            return 2
        except torch.OutOfMemoryError:
            print(
                "cinescene: the device has too little free memory for this. Use fewer frames or views, a smaller "
                "size, or another --device.",
                file=sys.stderr,
            )
            return 2
        except (KeyboardInterrupt, Interrupted):
            print("cinescene: interrupted; only files that were already finished are there.", file=sys.stderr)
            return 130
    return 0


def print_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """One line per warning of ours; the libraries' own are not the user's business."""
    if issubclass(category, CineSceneWarning):
        tqdm.write(f"cinescene: note: {message}", file=sys.stderr)  # clears a progress bar's line first
