"""The `cinescene` command: the stages one by one, and the whole path in one go."""

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from ..checks import CineSceneWarning, Interrupted
from ..memory import OutOfMemory, is_out_of_memory
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
        except (RuntimeError, MemoryError) as error:
            sentence = sentence_of(error)
            if sentence is None:
                raise
            print(f"cinescene: {sentence}", file=sys.stderr)
            return 2
        except (KeyboardInterrupt, Interrupted):
            print("cinescene: interrupted; only files that were already finished are there.", file=sys.stderr)
            return 130
    return 0


def sentence_of(error: RuntimeError | MemoryError) -> str | None:
    """What to do about memory that ran out or a compiler that failed; None for other errors, which are ours."""
    if is_out_of_memory(error):
        return (
            "there is too little free memory for this. Use fewer frames or views, a smaller size, or another --device."
        )
    dynamo = sys.modules.get("torch._dynamo.exc")  # loaded only where something is compiled
    if dynamo is None or not isinstance(error, dynamo.TorchDynamoException):
        return None
    # torch's own text ends in advice to its developers; a compiler's ends in what it met.
    inner = getattr(error, "inner_exception", None)
    lines = [line.strip() for line in str(inner or error).splitlines() if line.strip()] or [type(error).__name__]
    reason = lines[-1] if inner else lines[0]
    return f"the transformer's blocks cannot be compiled here: {reason.rstrip('.')}. Leave --compile out."


def print_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """One line per warning of ours; the libraries' own are not the user's business."""
    if issubclass(category, CineSceneWarning):
        tqdm.write(f"cinescene: note: {message}", file=sys.stderr)  # clears a progress bar's line first
