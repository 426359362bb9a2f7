"""What a list has become: one contact sheet of all shots, and one page with their videos and timings."""

import html
import urllib.parse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..costs import StageCost
from ..files import atomic_write
from ..video import load_video
from .plan import PlannedShot
from .records import ShotStats, finished_record, video_path

REPORT, SHEET = "report.html", "contact_sheet.jpg"
STRIP = 3
"""Pictures of each shot on the sheet: its first, middle and last frame."""
PICTURE_WIDTH = 240
LABEL_HEIGHT = 22
GAP = 8
_STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2em;background:#16181b;color:#e8e8e8}"
    "table{border-collapse:collapse;margin:1.5em 0}th,td{padding:.4em .8em;text-align:left;vertical-align:top;"
    "border-bottom:1px solid #3a3d42}td.n,th.n{text-align:right}img,video{max-width:100%}a{color:#8fc1ff}"
)


def write_report(title: str, shots: Sequence[PlannedShot], folder: Path, shared: Sequence[StageCost] = ()) -> Path:
    """Write `SHEET` and `REPORT` for the finished shots of a list; the page names those that are not.

    Args:
        title: of the page.
        shots: the whole list, in its order.
        folder: where their videos and records stand.
        shared: what this run spent on things that shots share.

    Returns:
        The page.

    Raises:
        FileFormatError: a record is damaged.
        OSError: the disk is full, or the folder cannot be written.
    """
    records = [finished_record(folder, shot.row.name, shot.digest) for shot in shots]
    stats = [None if record is None else record.stats for record in records]
    finished = [shot for shot, record in zip(shots, records, strict=True) if record is not None]
    if finished:
        with atomic_write(folder / SHEET) as temporary:
            contact_sheet_of(finished, folder).save(temporary, quality=90)
    with atomic_write(folder / REPORT) as temporary:
        temporary.write_text(_page(title, shots, stats, shared), encoding="utf-8", newline="\n")
    return folder / REPORT


def contact_sheet_of(shots: Sequence[PlannedShot], folder: Path) -> Image.Image:
    """First, middle and last frame of every shot, its name above, the list's order from left to right and down."""
    heights = [round(PICTURE_WIDTH * shot.size[1] / shot.size[0]) for shot in shots]
    cell = STRIP * PICTURE_WIDTH + GAP, LABEL_HEIGHT + max(heights) + GAP
    columns = max(1, round((len(shots) * cell[1] / cell[0]) ** 0.5))  # about as wide as high
    rows = -(-len(shots) // columns)
    sheet = Image.new("RGB", (columns * cell[0] + GAP, rows * cell[1] + GAP), (22, 24, 27))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for index, (shot, height) in enumerate(zip(shots, heights, strict=True)):
        left, top = GAP + index % columns * cell[0], GAP + index // columns * cell[1]
        draw.text((left, top), shot.row.name, fill=(232, 232, 232), font=font)
        frames = load_video(video_path(folder, shot.row.name))[0]
        for place, number in enumerate((0, len(frames) // 2, len(frames) - 1)):
            pixels = (frames[number] * 255).round().byte().numpy()
            picture = Image.fromarray(np.ascontiguousarray(pixels)).resize((PICTURE_WIDTH, height))
            sheet.paste(picture, (left + place * PICTURE_WIDTH, top + LABEL_HEIGHT))
    return sheet


class _Column(NamedTuple):
    """A column of numbers."""

    head: str
    cell: Callable[[ShotStats], str]


def _columns(done: Sequence[ShotStats]) -> list[_Column]:
    """Seconds of every stage, and what was left out where it was in some shot."""
    stages = dict.fromkeys(cost.stage for stats in done for cost in stats.costs)
    columns = [_Column(f"{stage}, s", partial(_seconds, stage)) for stage in stages]
    columns.append(_Column("total, s", lambda stats: f"{stats.seconds:.2f}"))
    if any(stats.selection is not None for stats in done):
        columns.append(_Column("views read", _views_read))
    if any(stats.skipped is not None for stats in done):
        columns.append(_Column("forwards cut short", _forwards_skipped))
    return columns


def _seconds(stage: str, stats: ShotStats) -> str:
    return "".join(f"{cost.seconds:.2f}" for cost in stats.costs if cost.stage == stage)


def _views_read(stats: ShotStats) -> str:
    if stats.selection is None:
        return ""
    saved = 1 - stats.selection.kept.flop / stats.selection.whole.flop
    return f"{len(stats.selection.slots)} of {len(stats.selection.shares)}, {saved:.0%} less work"


def _forwards_skipped(stats: ShotStats) -> str:
    return "" if stats.skipped is None else f"{stats.skipped.skipped} of {stats.skipped.forwards}"


def _page(
    title: str, shots: Sequence[PlannedShot], found: Sequence[ShotStats | None], shared: Sequence[StageCost]
) -> str:
    done = [stats for stats in found if stats is not None]
    columns = _columns(done)
    seconds = sum(stats.seconds for stats in done)
    head = "".join(f"<th>{text}</th>" for text in ("shot", "prompt", "camera", "seed", "video"))
    head += "".join(f'<th class="n">{html.escape(column.head)}</th>' for column in columns)
    body = "\n".join(_line(shot, stats, columns) for shot, stats in zip(shots, found, strict=True))
    once = "".join(f"<li>{html.escape(cost.stage)}: {cost.seconds:.2f} s</li>" for cost in shared)
    name = html.escape(title)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style></head><body>
<h1>{name}</h1>
<p>{len(done)} of {len(shots)} shots are filmed, in {seconds:.2f} s together{_mean(seconds, len(done))}.</p>
{f'<p><img src="{SHEET}" alt="First, middle and last frame of every shot"></p>' if done else ""}
<table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table>
{f"<p>The last run also spent, once for all its shots:</p><ul>{once}</ul>" if once else ""}
</body></html>
"""


def _mean(seconds: float, count: int) -> str:
    return f", {seconds / count:.2f} s each" if count else ""


def _line(shot: PlannedShot, stats: ShotStats | None, columns: Sequence[_Column]) -> str:
    """One row of the table."""
    row, path = shot.row, shot.trajectory
    width, height = shot.size
    prompt = html.escape(row.prompt) + (f"<br>not: {html.escape(row.negative)}" if row.negative else "")
    lens = float(path.fov_degrees[0])
    facts = f"{width} x {height}, {len(path)} frames, {path.fps:g} fps, {lens:g}°"
    name = html.escape(row.name)
    cells = [f"<td>{name}</td>", f"<td>{prompt}</td>", f"<td>{html.escape(path.provenance)}</td>"]
    cells.append(f"<td>{shot.sampling.seed}</td>")
    if stats is None:
        return f'<tr>{"".join(cells)}<td colspan="{1 + len(columns)}">{facts}<br>not filmed yet</td></tr>'
    source = urllib.parse.quote(video_path(Path(), row.name).name)
    player = f'<video src="{source}" width="{PICTURE_WIDTH}" controls loop muted preload="metadata"></video>'
    cells.append(f'<td>{player}<br>{facts}<br><a href="{source}">{html.escape(row.name)}.mp4</a></td>')
    cells += [f'<td class="n">{html.escape(column.cell(stats))}</td>' for column in columns]
    return f"<tr>{''.join(cells)}</tr>"
