"""Tables of results as markdown: the paper's columns in the paper's order, and what must be read beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cinescene_core.metrics import Average

from .table import MODEL, EvaluationRecord, Interval, MetricRow, MetricTable, differences, paired_psnr

MISSING, UNDEFINED = "missing", "-"
"""No instrument measured it; it was measured, and no video has a value."""


@dataclass(frozen=True)
class Column:
    """One column."""

    field: str
    """Of `MetricRow`."""
    title: str
    digits: int


PAPER = (
    Column("mat_pix", "Mat. Pix.(K)↑", 2),
    Column("clip_v", "CLIP-V↑", 4),
    Column("psnr", "PSNR↑", 2),
    Column("ssim", "SSIM↑", 4),
    Column("lpips", "LPIPS↓", 4),
    Column("rot_err", "RotErr↓", 4),
    Column("trans_err", "TransErr↓", 4),
    Column("cam_mc", "CamMC↓", 4),
    Column("clip_t", "CLIP-T↑", 4),
    Column("vbench", "VBench↑", 4),
)
"""Table 1 of the paper."""
BESIDE = (
    Column("psnr", "PSNR↑ [95 %]", 2),
    Column("psnr_decoded", "PSNR to the VAE's truth↑ [95 %]", 2),
    Column("psnr_background", "background PSNR↑ [95 %]", 2),
    Column("psnr_subject", "subject PSNR↑ [95 %]", 2),
    Column("detail", "detail →1", 3),
    Column("rot_err_degrees", "RotErr, degrees per frame↓", 3),
    Column("trans_err_least_squares", "TransErr, least squares↓", 4),
    Column("mat_pix_share", "Mat. Pix. share↑", 4),
    Column("flickering", "flickering↑", 4),
    Column("warp", "warp error↓", 4),
)
"""What shows when a good number means little."""
NOTES = (
    "Means over frames, then over videos; `value (n of m)` is a mean of the n videos that have one.",
    "RotErr, TransErr and CamMC as CamI2V defines them. TransErr and CamMC are over moves that travel: the published "
    "definition gives noise for a pan or a tilt.",
    "PSNR rewards blur: read it with detail, the share of fine detail kept. Flickering falls with camera motion.",
    "[95 %] is a bootstrap over places, each with all its videos.",
    "The VAE's row is the truth encoded and decoded: what the codec costs every model, and the estimator's own camera "
    "errors. PSNR to the VAE's truth leaves that cost out.",
)


def to_markdown(table: MetricTable) -> str:
    """Both blocks, how they were made, and why a column is missing."""
    protocol, names = table.protocol, [row.name for row in table.rows]
    lines = [f"# {protocol.run} on {protocol.split}", ""]
    lines += _block(names, PAPER, table.rows, [table] * len(names))
    lines += ["", "Read beside:", ""]
    counts = [f"{row.videos} / {row.clips} / {row.places}" for row in table.rows]
    failed = [str(row.failed) for row in table.rows]
    added = [("videos / clips / places", counts), ("failed", failed)]
    lines += _block(names, BESIDE, table.rows, [table] * len(names), added)
    lines += [
        "",
        f"- {_by(protocol)}.",
        *_how(protocol),
        *_measured_by(table),
        *_reasons(table),
        *(f"- {note}" for note in NOTES),
    ]
    problems = [f"- {video.clip}, {video.variant}: {video.problem}" for video in table.videos if video.problem]
    if problems:
        lines += ["", f"{len(problems)} videos failed:", "", *problems]
    return "\n".join(lines) + "\n"


def compare(
    runs: Sequence[tuple[str, MetricTable]], against: str | None, called: Mapping[str, str] | None = None
) -> str:
    """The model's row of several runs in the paper's columns, with paired gains in PSNR.

    Where the conditions or instruments differ, the text names them: such numbers do not compare.

    Args:
        runs: (name, table), one or more.
        against: name of the run whose PSNR the gains are over; None prints no gains.
        called: name of every run to what the paper calls it; None leaves the column out.

    Raises:
        ValueError: no run, none that is called `against`, or a table without the model's row.
    """
    if not runs:
        raise ValueError("There is nothing to compare; give the tables of one or more runs.")
    names, tables = [name for name, _ in runs], [table for _, table in runs]
    if against is not None and against not in names:
        raise ValueError(f"There is no run '{against}' to compare with; name one of {', '.join(names)}.")
    rows = [_model_row(name, table) for name, table in runs]
    labels = [] if called is None else [("In the paper", [called[name] for name in names])]
    lines = _block(names, PAPER, rows, tables, labels)
    first_name, first = runs[0] if against is None else (against, tables[names.index(against)])
    gains = [] if against is None else _gains(names, tables, against)
    lines += ["", "Read beside:", "", *_block(names, BESIDE, rows, tables, gains)]
    notes = [*_how(first.protocol), *_measured_by(first)]
    for name, table in runs:
        notes.append(f"- {name}: {_by(table.protocol)}.")
        differing = differences(first, table)
        if differing:
            notes.append(f"- **{name} does not compare with {first_name}**: {', '.join(differing)}.")
    reasons = [reason for table in tables for reason in _reasons(table)]
    lines += ["", *notes, *dict.fromkeys(reasons), *(f"- {note}" for note in NOTES)]
    return "\n".join(lines) + "\n"


def _gains(names: Sequence[str], tables: Sequence[MetricTable], against: str) -> list[tuple[str, list[str]]]:
    """Columns of text: how much better than one of the runs each is on the clips that both filmed."""
    base = tables[names.index(against)]
    fields: tuple[tuple[str, Literal["psnr", "psnr_decoded"]], ...] = (
        (f"PSNR against {against}, same clips [95 %]", "psnr"),
        ("the same, to the VAE's truth", "psnr_decoded"),
    )
    return [
        (
            title,
            [
                UNDEFINED if name == against else _gain(base, table, field)
                for name, table in zip(names, tables, strict=True)
            ],
        )
        for title, field in fields
    ]


def _block(
    names: Sequence[str],
    columns: Sequence[Column],
    rows: Sequence[MetricRow],
    tables: Sequence[MetricTable],
    added: Sequence[tuple[str, Sequence[str]]] = (),
) -> list[str]:
    """One markdown table; `added` columns of text, (title, cell of each row), stand first."""
    titles = [title for title, _ in added] + [column.title for column in columns]
    lines = [f"| | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for place, (name, row, table) in enumerate(zip(names, rows, tables, strict=True)):
        cells = [texts[place] for _, texts in added]
        cells += [_cell(row, column, table, with_interval=columns is BESIDE) for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _cell(row: MetricRow, column: Column, table: MetricTable, *, with_interval: bool) -> str:
    if column.field in table.missing:
        return MISSING
    mean: Average = getattr(row, column.field)
    if mean.value is None:
        return UNDEFINED
    text = f"{mean.value:.{column.digits}f}"
    interval: Interval | None = getattr(row, f"{column.field}_interval", None) if with_interval else None
    if interval is not None:
        text += _interval(interval, column.digits)
    return f"{text} ({mean.videos} of {mean.videos + mean.missing})" if mean.missing else text


def _interval(interval: Interval, digits: int) -> str:
    return f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def _model_row(name: str, table: MetricTable) -> MetricRow:
    for row in table.rows:
        if row.name == MODEL:
            return row
    raise ValueError(f"The table of '{name}' has no row '{MODEL}'. Run cinescene-train evaluate for it again.")


def _gain(first: MetricTable, other: MetricTable, field: Literal["psnr", "psnr_decoded"]) -> str:
    found = paired_psnr(first, other, field)
    if found is None:
        return UNDEFINED
    mean, interval, clips = found
    return f"{mean:+.2f} dB{'' if interval is None else _interval(interval, 2)} ({clips} clips)"


def _how(protocol: EvaluationRecord) -> list[str]:
    seeds = ", ".join(map(str, protocol.seeds))
    camera = f"N = {protocol.compared_frames} frames, stride {protocol.stride}, estimator: "
    return [
        f"- {protocol.clips} clips of {protocol.split}, {protocol.num_frames} frames of {protocol.width} x "
        f"{protocol.height}; noise of seeds {seeds}.",
        f"- Sampled in {protocol.steps} steps of {protocol.solver}, guidance {protocol.guidance:g}, "
        f"shift {protocol.shift:g}.",
        f"- Camera errors: {camera}{protocol.estimator or 'none'}.",
    ]


def _by(protocol: EvaluationRecord) -> str:
    """What was measured, by which code, where."""
    return (
        f"checkpoint {protocol.checkpoint} of run {protocol.run} (configuration {protocol.digest}), shown "
        f"{protocol.num_views} views, measured by commit {protocol.commit or 'unknown'} on {protocol.machine}"
    )


def _measured_by(table: MetricTable) -> list[str]:
    """One line for each instrument."""
    return [f"- {titles}: {name}." for titles, name in _grouped(table.instruments)]


def _reasons(table: MetricTable) -> list[str]:
    """One line for each reason why columns are missing."""
    return [f"- {titles} {MISSING}: {reason}." for titles, reason in _grouped(table.missing)]


def _grouped(texts: Mapping[str, str]) -> list[tuple[str, str]]:
    """(titles, text) of the columns that share a text, in the order of the columns."""
    groups: dict[str, list[str]] = {}
    for column in (*PAPER, *BESIDE):
        if column.field in texts:
            title = column.title.partition(" [")[0].rstrip("↑↓")
            groups.setdefault(texts[column.field], []).append(title)
    return [(", ".join(dict.fromkeys(titles)), text) for text, titles in groups.items()]
