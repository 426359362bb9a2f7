"""The paper's ablations, one after the other, and what they measured in one table."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cinescene_core.checks import check_choice
from cinescene_core.files import atomic_write

from .config import TrainingConfig, as_record
from .evaluate import EvaluationOptions, MetricTable, Yardstick, compare, evaluate, read_table, write_table
from .settings import build, merged
from .train import encode_rooms, fit, last_checkpoint

ABLATIONS_FOLDER = Path(__file__).parents[1] / "configs" / "ablations"
COMPARISON_NAME = "ablations.md"
TABLE_NAME = "ablation.json"
"""What was measured of one run, in its folder."""

Evaluate = Callable[[TrainingConfig, Path, EvaluationOptions], MetricTable]
"""Measures the checkpoint of a run."""
Train = Callable[[TrainingConfig, Path | None], Path]
"""Trains a run, from the start or on from a checkpoint; returns its last checkpoint."""


class Ablation(NamedTuple):
    """One row."""

    tables: str
    """Tables of the paper that have it; nothing for this project's own."""
    label: str
    """What the paper calls it."""

    @property
    def called(self) -> str:
        """Label and tables."""
        if not self.tables:
            return f"{self.label} (this project's)"
        return f"{self.label} (table{'s' if ',' in self.tables else ''} {self.tables})"


ABLATIONS: dict[str, Ablation] = {
    "loss_guided": Ablation("2", "Loss-guided"),
    "no_implicit": Ablation("2, 6, 9", "W/o implicit"),
    "image_feature": Ablation("2, 9", "W/ image feature"),
    "camera_feature": Ablation("2, 9", "W/ camera feature"),
    "ordered": Ablation("3", "Ordered"),
    "progressive": Ablation("3", "Progressive"),
    "shuffled": Ablation("2, 3, 6, 8, 9", "Ours: shuffled"),
    "views_1": Ablation("5", "1 view"),
    "views_4": Ablation("5", "4 views"),
    "views_10": Ablation("5", "10 views"),
    "views_20": Ablation("5", "Ours: 20 views"),
    "no_camera": Ablation("6", "W/o camera"),
    "channel_join": Ablation("8", "Channel-dim"),
    "view_join": Ablation("8", "View-dim"),
    "separate_tokens": Ablation("8", "Separate F_i, F_c"),
    "no_scene": Ablation("", "Without the scene"),
    "cached": Ablation("", "Cached context"),
}
"""Every ablation, in the order of the paper's tables; each is a file of `configs/ablations`."""


def ablation_configs(names: Sequence[str], base: TrainingConfig) -> list[TrainingConfig]:
    """Put named ablations on top of a run.

    Each differs from `base` in what its file says, runs in a folder of its own inside the base's, and
    reads a cache of its own, beside the base's, where it encodes otherwise.

    Args:
        names: keys of `ABLATIONS`.
        base: the run to vary, of any size.

    Raises:
        ValueError: there is no such ablation, or the base cannot be varied so.
        FileNotFoundError: the package runs without its `configs` folder.
    """
    for name in names:
        check_choice("An ablation", name, ABLATIONS)
    return [_varied(name, base) for name in names]


def _varied(name: str, base: TrainingConfig) -> TrainingConfig:
    change: dict[str, Any] = yaml.safe_load((ABLATIONS_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    del change["based_on"]
    change["run"] = {"folder": str(base.run.folder / name)}
    if "cache" in change:
        change["cache"] |= {"folder": f"{base.cache.folder}_{name}"}
    return build(TrainingConfig, merged(as_record(base), change))


def encode_and_fit(config: TrainingConfig, resume: Path | None) -> Path:
    """Train a run, encoding rooms first where that is not done; datasets are encoded by `cinescene-train cache`."""
    encode_rooms(config)
    return fit(config, resume=resume)


def run_ablations(
    names: Sequence[str],
    base: TrainingConfig,
    options: EvaluationOptions,
    *,
    evaluate: Evaluate = evaluate,
    train: Train = encode_and_fit,
) -> Path:
    """Train and measure ablations one after the other, and compare them in the paper's columns.

    What was measured stays in each run's folder: called again, a finished run is neither trained nor, where it was
    measured in the way now asked for, measured; an interrupted one goes on. Two names of one and the same run
    share it. The comparison is written after each. On several devices, train each by its file first:
    `cinescene-train fit --config configs/ablations/NAME.yaml`. Those files have their runs in `runs/ablations`,
    so that this, called for the paper's recipe with `run.folder=runs/ablations`, finds them and measures only.

    Args:
        names: keys of `ABLATIONS`.
        base: the run to vary; its folder holds the runs and the comparison.
        options: how all of them are measured.
        evaluate: see `Evaluate`.
        train: see `Train`.

    Returns:
        The comparison, Markdown.

    Raises:
        CheckpointError: a folder holds a run with other settings, or a file of weights that measures is missing,
            damaged, or another network.
        ValueError: see `ablation_configs`; or an impossible option.
        FileFormatError: what an earlier call measured cannot be read.
    """
    configs = ablation_configs(names, base)
    yardstick = Yardstick.of(base, options)
    target = base.run.folder / COMPARISON_NAME
    tables: dict[str, MetricTable] = {}
    for config in configs:
        tables[config.name] = _measured(_begun(config, base), yardstick, evaluate, train)
        with atomic_write(target) as temporary:
            temporary.write_text(comparison(tables, base), encoding="utf-8")
    return target


def _begun(config: TrainingConfig, base: TrainingConfig) -> TrainingConfig:
    """The run itself, or, where it has not begun, the one under another name that has."""
    if last_checkpoint(config).exists():
        return config
    for name in ABLATIONS:
        with contextlib.suppress(ValueError):  # one that does not fit the base is nobody's twin
            (other,) = ablation_configs([name], base)
            if _recipe(other) == _recipe(config) and last_checkpoint(other).exists():
                return other
    return config


def _recipe(config: TrainingConfig) -> TrainingConfig:
    """A run without its name and folder."""
    return dataclasses.replace(config, name="", run=dataclasses.replace(config.run, folder=Path()))


def _measured(config: TrainingConfig, yardstick: Yardstick, evaluate: Evaluate, train: Train) -> MetricTable:
    """The table of one run; trains and measures what is not done yet."""
    path = config.run.folder / TABLE_NAME
    if path.exists():
        table = read_table(path)
        if yardstick.fits(table, config):
            return table
    last = last_checkpoint(config)
    checkpoint = train(config, last if last.exists() else None)
    table = evaluate(config, checkpoint, yardstick.options)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(table, path)
    return table


def comparison(tables: Mapping[str, MetricTable], base: TrainingConfig) -> str:
    """Measured ablations in the order and the columns of the paper's tables, and their gains over the base."""
    names = [name for name in ABLATIONS if name in tables]
    same = [name for name in names if _recipe(ablation_configs([name], base)[0]) == _recipe(base)]
    lines = [
        f"# Ablations of {base.name}",
        "",
        f"Seed {base.run.seed}, {base.run.steps} steps of {base.run.batch_size} clips. Settings, commit and machine of "
        f"each run are in its checkpoint; every video's scores are in its `{TABLE_NAME}`.",
        "",
    ]
    if not same:
        lines += ["No gains: none of these runs is the base itself. Name `views_20` as well, which always is.", ""]
    called = {name: ABLATIONS[name].called for name in names}
    return "\n".join(lines) + "\n" + compare([(name, tables[name]) for name in names], next(iter(same), None), called)
