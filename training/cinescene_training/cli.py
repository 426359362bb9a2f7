"""The command `cinescene-train`: make data, read data, train, measure, export."""

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from . import __version__, commands


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a problem the user can solve is one sentence, not a traceback."""
    options = build_parser().parse_args(arguments)
    # Lightning's advice about loader workers and the like is for whoever writes a trainer, not for whoever runs this.
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    try:
        options.run(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"cinescene-train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cinescene-train: stopped. A run goes on with --resume, a cache by the same command.", file=sys.stderr)
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

    def command(
        name: str, run: Callable[[argparse.Namespace], None], help: str, *, config: bool = True
    ) -> argparse.ArgumentParser:
        one = added.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        one.set_defaults(run=run)
        if config:
            one.add_argument("--config", type=Path, required=True, help="YAML file of the run")
            one.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="change fields, run.steps=100")
        return one

    fit = command("fit", commands.run_fit, "train the transformer, VGGT or the VAE, as the configuration says")
    fit.add_argument(
        "--resume", type=Path, nargs="?", const=Path("last"), help="go on from this, or the last, checkpoint"
    )

    for name, run, words in (
        ("validate", commands.run_validate, "losses on the validation clips, by noise level"),
        ("test", commands.run_test, "losses on the test clips, by noise level"),
    ):
        add_checkpoint(command(name, run, words))

    cache = command("cache", commands.run_cache, "encode the clips of a configuration into shards, once for many runs")
    cache.add_argument("--device", default="cpu", help="where the encoders run (default %(default)s)")
    cache.add_argument("--workers", type=int, default=1, help="threads that read or render ahead (default %(default)s)")

    out = command("export", commands.run_export, "write a run's transformer as a file that the pack opens")
    add_checkpoint(out)
    out.add_argument("--out", type=Path, required=True, help="file to write (.safetensors)")
    out.add_argument(
        "--bundle", action="store_true", help="put the small encoders in, so that the file films on its own"
    )
    return parser


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Which weights of a run."""
    parser.add_argument("--checkpoint", type=Path, help="a .ckpt of the run (default: its last)")


if __name__ == "__main__":
    raise SystemExit(main())
