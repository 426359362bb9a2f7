"""The paper's ablations, one after the other, and what they measured in one table."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cinescene_core.checks import FileFormatError, check_choice
from cinescene_core.files import atomic_write

from .checkpoints import run_record
from .config import TrainingConfig, as_record
from .data.build import build_cache
from .settings import build, merged
from .train import fit, last_checkpoint

ABLATIONS_FOLDER = Path(__file__).parents[1] / "configs" / "ablations"
SCORES_NAME = "scores.json"
TABLE_NAME = "ablations.md"

Scores = Mapping[str, float | None]
"""Value of each column; None where the weights of a measure were missing."""
Evaluate = Callable[[TrainingConfig, Path], Scores]
"""Measures the checkpoint of a run on its test clips."""
Train = Callable[[TrainingConfig, Path | None], Path]
"""Trains a run, from the start or on from a checkpoint; returns its last checkpoint."""


class Ablation(NamedTuple):
    """One row."""

    table: str
    """Tables of the paper that have it."""
    label: str
    """What the paper calls it."""


ABLATIONS: dict[str, Ablation] = {
    "loss_guided": Ablation("2", "Loss-guided"),
    "no_implicit": Ablation("2, 6, 9", "W/o implicit"),
    "image_feature": Ablation("2, 9", "W/ image feature"),
    "camera_feature": Ablation("2, 9", "W/ camera feature"),
    "ordered": Ablation("3", "Ordered"),
    "progressive": Ablation("3", "Progressive"),
    "views_1": Ablation("5", "1 view"),
    "views_4": Ablation("5", "4 views"),
    "views_10": Ablation("5", "10 views"),
    "views_20": Ablation("2, 3, 5, 6, 8, 9", "Ours: 20 views, shuffled, F_i + F_c, frame-dim"),
    "no_camera": Ablation("6", "W/o camera"),
    "channel_join": Ablation("8", "Channel-dim"),
    "view_join": Ablation("8", "View-dim"),
    "separate_tokens": Ablation("8", "Separate F_i, F_c"),
    "no_scene": Ablation("none", "Without the scene (this project's)"),
    "cached": Ablation("none", "Cached context (this project's)"),
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
    if config.cache.source.kind == "rooms":
        build_cache(config.cache)
    return fit(config, resume=resume)


def run_ablations(
    names: Sequence[str], base: TrainingConfig, evaluate: Evaluate, train: Train = encode_and_fit
) -> Path:
    """Train and measure ablations one after the other, and write what they measured in one table.

    What was measured stays in the run's folder: called again, finished runs are not touched and an
    interrupted one goes on. Two names of one and the same run train once. The table is written after
    each. On several devices, train each by its file with `cinescene-train fit`; this then measures them.

    Args:
        names: keys of `ABLATIONS`.
        base: the run to vary; its folder holds the runs and the table.
        evaluate: see `Evaluate`.
        train: see `Train`.

    Returns:
        The table, Markdown.

    Raises:
        CheckpointError: a folder holds a run with other settings.
        ValueError: see `ablation_configs`.
        FileFormatError: what an earlier call measured cannot be read.
    """
    table = base.run.folder / TABLE_NAME
    measured: dict[str, Scores] = {}
    runs: dict[str, Scores] = {}
    for config in ablation_configs(names, base):
        settings = dataclasses.replace(config, name="").digest()
        if settings not in runs:
            runs[settings] = _measured(config, evaluate, train)
        measured[config.name] = runs[settings]
        with atomic_write(table) as temporary:
            temporary.write_text(comparison(measured, base), encoding="utf-8")
    return table


def _measured(config: TrainingConfig, evaluate: Evaluate, train: Train) -> Scores:
    """Scores of one run; trains and measures what is not done yet."""
    path = config.run.folder / SCORES_NAME
    known = read_scores(path) if path.exists() else {}
    if known.get("digest") == config.digest():
        scores: Scores = known["scores"]
        return scores
    last = last_checkpoint(config)
    checkpoint = train(config, last if last.exists() else None)
    scores = dict(evaluate(config, checkpoint))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(run_record(config) | {"scores": scores}, indent=1), encoding="utf-8")
    return scores


def read_scores(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What an ablation measured, with commit, configuration, seed and machine.

    Raises:
        FileFormatError: the file is damaged.
    """
    try:
        record: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        record["digest"], dict(record["scores"])
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(
            f"{path} holds no scores ({error!r}). Delete it; the run is then measured again."
        ) from error
    return record


def comparison(measured: Mapping[str, Scores], base: TrainingConfig) -> str:
    """The table in Markdown: rows in the order of the paper's tables, columns as they were measured."""
    columns = list(dict.fromkeys(column for scores in measured.values() for column in scores))
    lines = [
        f"# Ablations of {base.name}",
        "",
        f"Seed {base.run.seed}, {base.run.steps} steps of {base.run.batch_size} clips. Settings, commit and machine of "
        f"each run are in its `{SCORES_NAME}`.",
        "",
        "| " + " | ".join(["Run", "Paper's table", "Name", *columns]) + " |",
        "|" + "---|" * 3 + "---:|" * len(columns),
    ]
    for name, ablation in ABLATIONS.items():
        if name in measured:
            values = [_written(measured[name].get(column)) for column in columns]
            lines.append("| " + " | ".join([ablation.label, ablation.table, f"`{name}`", *values]) + " |")
    return "\n".join(lines) + "\n"


def _written(value: float | None) -> str:
    return "missing" if value is None else f"{value:.4f}"
