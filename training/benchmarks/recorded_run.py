"""The page of the recorded run: what a scene is worth to the smallest sensible model, with curves and pictures.

    python benchmarks/recorded_run.py configs/rooms.yaml configs/rooms_no_scene.yaml

Reads what `fit` and `evaluate --out FOLDER/evaluation` left in the folders of both runs and of their encoders. Writes
docs/rooms_run.md and its pictures; nothing in it is typed by hand.
"""

import argparse
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cinescene_training.config import TrainingConfig
from cinescene_training.evaluate.printing import to_markdown
from cinescene_training.evaluate.scores import VideoScores
from cinescene_training.evaluate.table import MetricTable, paired_psnr, read_table
from cinescene_training.settings import build, read_settings

PAGE = Path(__file__).parents[1] / "docs" / "rooms_run.md"
PICTURES = PAGE.parent / "rooms_run"
GROUPS: dict[str, Callable[[VideoScores], bool]] = {
    "static (no subject)": lambda video: not video.has_subject,
    "with a subject": lambda video: video.has_subject,
    "all": lambda video: True,
}


def curves(run: Path, names: Sequence[str]) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of scalars in a run's TensorBoard."""
    events = EventAccumulator(str(run / "logs"), size_guidance={"scalars": 0})
    events.Reload()
    known = events.Tags()["scalars"]
    found = {name: events.Scalars(name) for name in names if name in known}
    return {name: ([event.step for event in row], [event.value for event in row]) for name, row in found.items()}


def plot(runs: dict[str, Path], path: Path) -> None:
    """Training loss of both runs, and the validation loss by noise level."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4), layout="constrained")
    for name, folder in runs.items():
        steps, losses = curves(folder, ["train/loss"])["train/loss"]
        left.plot(steps, losses, label=name, linewidth=1)
    left.set(xlabel="step", ylabel="training loss", yscale="log")
    left.legend()
    for name, folder in runs.items():
        style = "-" if name == next(iter(runs)) else "--"
        events = EventAccumulator(str(folder / "logs"), size_guidance={"scalars": 0})
        events.Reload()
        tags = sorted(tag for tag in events.Tags()["scalars"] if tag.startswith("validation/") and "sigma" in tag)
        for colour, tag in enumerate(tags):
            row = events.Scalars(tag)
            label = f"{tag.removeprefix('validation/')}, {name}"
            right.plot(
                [e.step for e in row], [e.value for e in row], style, color=f"C{colour}", label=label, marker="."
            )
    right.set(xlabel="step", ylabel="validation loss", yscale="log")
    right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def only(table: MetricTable, keep: Callable[[VideoScores], bool]) -> MetricTable:
    """A table of some of its videos."""
    return dataclasses.replace(table, videos=tuple(video for video in table.videos if keep(video)))


def gains(without: MetricTable, table: MetricTable) -> list[str]:
    """How many dB the scene is worth, clip by clip."""
    rows = []
    for name, keep in GROUPS.items():
        cells = []
        for field in ("psnr", "psnr_decoded"):
            found = paired_psnr(only(without, keep), only(table, keep), field)
            interval = None if found is None else found[1]
            if found is None or interval is None:
                raise SystemExit(f"No pairs of {field} for {name}: evaluate both runs on the same clips.")
            mean, _, count = found
            low, high = interval
            cells.append(f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]")
        rows.append(f"| {name} | {count} | {' | '.join(cells)} |")
    return rows


def encoder_rows(folders: dict[str, Path]) -> list[str]:
    """The last validation numbers of the encoders' runs."""
    rows = []
    for name, folder in folders.items():
        events = EventAccumulator(str(folder / "logs"), size_guidance={"scalars": 0})
        events.Reload()
        tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("validation/")]
        said = ", ".join(
            f"{tag.removeprefix('validation/')} {events.Scalars(tag)[-1].value:.3f}" for tag in sorted(tags)
        )
        last = max(event.step for tag in tags for event in events.Scalars(tag)) + 1
        rows.append(f"| {name} | {last} | {minutes(folder):.0f} | {said} |")
    return rows


def blind_estimator(folder: Path) -> list[str]:
    """A warning where the scene encoder tells rotations hardly better than one that says the mean."""
    found = curves(folder, ["validation/rotation_degrees", "validation/rotation_degrees_blind"])
    own, blind = (values[-1] for _, values in found.values())
    if own < 0.9 * blind:
        return []
    return [
        f"The scene encoder has learned depth but not rotation ({own:.0f} degrees of error where a constant has "
        f"{blind:.0f}): the camera errors below, for which it is the estimator, say nothing about the films.",
        "",
    ]


def minutes(folder: Path) -> float:
    """Between the first and the last entry of a run's log, which is a little less than the run."""
    events = EventAccumulator(str(folder / "logs"), size_guidance={"scalars": 0})
    events.Reload()
    times = [event.wall_time for tag in events.Tags()["scalars"] for event in events.Scalars(tag)]
    return (max(times) - min(times)) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="the run")
    parser.add_argument("without", type=Path, help="the same run without the scene")
    parser.add_argument("--note", default="", help="a sentence on the machine and what else it did")
    options = parser.parse_args()
    paths = {"with the scene": options.config, "without": options.without}
    configs = {name: build(TrainingConfig, read_settings(path)) for name, path in paths.items()}
    runs = {name: config.run.folder for name, config in configs.items()}
    tables = {name: read_table(folder / "evaluation" / "evaluation.json") for name, folder in runs.items()}
    table, without = tables.values()
    PICTURES.mkdir(parents=True, exist_ok=True)
    plot(runs, PICTURES / "curves.png")
    for name, folder in zip(("with_scene", "without"), runs.values(), strict=True):
        shutil.copy(folder / "evaluation" / "evaluation.png", PICTURES / f"{name}.png")
    PAGE.write_text(page(configs, table, without, options.note), encoding="utf-8")
    print("\n".join(gains(without, table)))


def page(configs: dict[str, TrainingConfig], table: MetricTable, without: MetricTable, note: str) -> str:
    """The whole page."""
    encoders = {name: Path(f"runs/{name}") for name in ("vae_rooms", "vggt_rooms")}
    lines = [
        "# What a scene is worth: a recorded run on rendered rooms",
        "",
        "The smallest sensible model, trained twice with everything alike, once with the scene as context and once",
        "without: `configs/rooms.yaml`, `configs/rooms_no_scene.yaml`. Test clips: rooms that no run has seen.",
        "Written by `benchmarks/recorded_run.py` from the runs' own files.",
        "",
        "| clips | pairs | PSNR gain, dB [95 %] | gain against the VAE's truth, dB [95 %] |",
        "|---|---|---|---|",
        *gains(without, table),
        "",
        "![Curves](rooms_run/curves.png)",
        "",
        "| run | steps | minutes | commit | identity |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {config.run.steps} | {minutes(config.run.folder):.0f} | {t.protocol.commit[:12]} | "
            f"{t.protocol.identity} |"
            for (name, config), t in zip(configs.items(), (table, without), strict=True)
        ),
        "",
        "| encoder | validated at step | minutes | and found |",
        "|---|---|---|---|",
        *encoder_rows(encoders),
        "",
        *blind_estimator(encoders["vggt_rooms"]),
        f"Seed {next(iter(configs.values())).run.seed}. {table.protocol.machine}. {note}".rstrip(),
        "",
        "Four test clips: what the model made, each above the truth.",
        "",
        "With the scene:",
        "",
        "![With the scene](rooms_run/with_scene.png)",
        "",
        "Without:",
        "",
        "![Without](rooms_run/without.png)",
        "",
        *(to_markdown(table).replace("# ", "## ", 1).splitlines()),
        "",
        *(to_markdown(without).replace("# ", "## ", 1).splitlines()),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
