"""The command `cinescene-train`: make data, read data, train, measure, export."""

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch

from cinescene_core.devices import default_device

from . import __version__, commands
from .ablate import ABLATIONS
from .data.footage import SPLITS
from .evaluate.options import EvaluationOptions, Intervention

EVALUATION = EvaluationOptions()
Added = Callable[..., argparse.ArgumentParser]


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a problem the user can solve is one sentence, not a traceback."""
    options = build_parser().parse_args(arguments)
    # Lightning's advice about loader workers and the like is for whoever writes a trainer, not for whoever runs this.
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    try:
        options.run(options)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"cinescene-train: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        print(
            f"cinescene-train: the device ran out of memory ({str(error).partition(' GPU ')[0].rstrip('.')}). Lower "
            "run.micro_batch, set model.gradient_checkpointing: true, or share the network over devices by "
            "run.strategy: fsdp; cache and evaluate also run with --device cpu.",
            file=sys.stderr,
        )
        return 2
    except (KeyboardInterrupt, SystemExit):  # Lightning answers the one by the other
        print(
            "cinescene-train: stopped. A run goes on with --resume, rendering and caching by the same command.",
            file=sys.stderr,
        )
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = argparse.ArgumentParser(
        prog="cinescene-train",
        description="Trains CineScene: from data to an exported checkpoint.",
        epilog="Start with: cinescene-train fit --config configs/debug.yaml",
    )
    parser.add_argument("--version", action="version", version=f"cinescene-train {__version__}")
    added = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], help: str) -> argparse.ArgumentParser:
        one = added.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        one.set_defaults(run=run)
        return one

    add_data(command)
    add_training(command)
    add_measuring(command)
    return parser


def add_data(command: Added) -> None:
    """Commands that make and read data."""
    add_config(command("render", commands.run_render, "render places in the layout of the released dataset"))

    calibrate = command("calibrate", commands.run_calibrate, "fit panorama heading, pitch and lens against frame 0")
    add_config(calibrate)
    calibrate.add_argument("--max-places", type=int, default=50, help="places to fit (default %(default)s)")

    cache = add_config(command("cache", commands.run_cache, "encode the clips of a configuration into shards"))
    cache.add_argument("--device", default=default_device(), help="where the encoders run (default %(default)s)")
    cache.add_argument("--workers", type=int, default=1, help="threads that read or render ahead (default %(default)s)")
    cache.add_argument("--verify", action="store_true", help="only read every shard and compare it with its digest")


def add_training(command: Added) -> None:
    """Commands that train and export."""
    fit = add_config(command("fit", commands.run_fit, "train the transformer, VGGT or the VAE, as the file says"))
    fit.add_argument("--resume", type=Path, nargs="?", const=Path("last"), help="go on from a checkpoint; the last one")

    bundle = command("bundle", commands.run_bundle, "join small encoders in one file, for encoders.bundle")
    bundle.add_argument("--vae", type=Path, required=True, help="what fit wrote for task vae")
    bundle.add_argument("--vggt", type=Path, required=True, help="what fit wrote for task vggt")
    bundle.add_argument("--text-width", type=int, default=64, help="channels of a word (default %(default)s)")
    bundle.add_argument("--out", type=Path, required=True, help="file to write (.safetensors)")

    out = command("export", commands.run_export, "write a run's transformer as a file that the pack opens")
    add_checkpoint(add_config(out))
    out.add_argument("--out", type=Path, required=True, help="file to write (.safetensors)")
    out.add_argument("--bundle", action="store_true", help="put small encoders in, so that the file films on its own")


def add_measuring(command: Added) -> None:
    """Commands that measure."""
    for name, run, words in (
        ("validate", commands.run_validate, "losses on the validation clips, by noise level"),
        ("test", commands.run_test, "losses on the test clips, by noise level"),
    ):
        add_checkpoint(add_config(command(name, run, words)))

    measure = command("evaluate", commands.run_evaluate, "film held-out clips and measure them, in the paper's columns")
    add_checkpoint(add_config(measure))
    add_evaluation(measure)
    measure.add_argument("--out", type=Path, required=True, help="folder for evaluation.md, .json and .png")

    ablate = add_config(command("ablate", commands.run_ablate, "train and measure the paper's ablations of a run"))
    ablate.add_argument("names", nargs="+", choices=[*ABLATIONS, "all"], metavar="NAME", help=", ".join(ABLATIONS))
    add_evaluation(ablate)


def add_config(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Which file says what to do, and fields to change in it."""
    parser.add_argument("--config", type=Path, required=True, help="YAML file that says what to do")
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="change fields of it: --set run.steps=100 run.seed=1",
    )
    return parser


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Which weights of a run."""
    parser.add_argument("--checkpoint", type=Path, help="a .ckpt of the run (default: its last)")


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """What is sampled, and the local files of what measures it."""
    parser.add_argument("--split", choices=SPLITS, default=EVALUATION.split, help="default %(default)s")
    parser.add_argument("--clips", type=int, default=EVALUATION.clips, help="at most (default %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(EVALUATION.seeds), help="of the noise (default 0)")
    parser.add_argument("--steps", type=int, default=EVALUATION.steps, help="default %(default)s")
    parser.add_argument("--guidance", type=float, help="default: the run's validation.guidance")
    parser.add_argument("--shift", type=float, help="of the timesteps (default: the run's validation.shift)")
    parser.add_argument("--solver", choices=("unipc", "euler"), default=EVALUATION.solver, help="default %(default)s")
    parser.add_argument(
        "--stride", type=int, default=EVALUATION.stride, help="frames between compared cameras (default %(default)s)"
    )
    parser.add_argument("--clip-folder", type=Path, help="a CLIP release, for CLIP-V and CLIP-T")
    parser.add_argument("--lpips-alexnet", type=Path, help="torchvision's AlexNet, for LPIPS")
    parser.add_argument("--lpips-heads", type=Path, help="LPIPS's weights per channel")
    parser.add_argument("--matcher", type=Path, help="LoFTR's weights, for Mat. Pix.")
    parser.add_argument("--estimator", type=Path, help="VGGT with its camera head (default: the run's own)")
    parser.add_argument(
        "--interventions", nargs="*", default=[], choices=get_args(Intervention), help="rows with another clip's input"
    )
    parser.add_argument("--device", default=default_device(), help="default %(default)s")


if __name__ == "__main__":
    raise SystemExit(main())
