"""The measurements as a page, with everything that follows from them."""

from collections.abc import Iterator, Mapping
from typing import Any

from .measure import Record
from .roofline import Ceilings, Gap, Work, bound, gaps

Sections = Mapping[str, Record]
FORWARDS = 100
"""Of 50 guided steps."""
GIB = 2**30
EMPTY = "–"  # noqa: RUF001


def page(record: Record) -> str:
    """The whole page; what could not be measured is said in its place."""
    sections: Sections = record["sections"]
    ceilings = ceilings_of(sections)
    parts = [
        _head(record),
        _ceilings(sections),
        _steps(sections, ceilings),
        _kinds(sections, ceilings),
        _stages(sections),
        _films(sections),
        _checks(sections),
        _missing(sections),
        _next(sections, ceilings),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def measured(sections: Sections, name: str) -> Record | None:
    """The values of a section, or None where it was not measured."""
    section = sections.get(name, {})
    return section["values"] if section.get("status") == "measured" else None


def ceilings_of(sections: Sections) -> Ceilings | None:
    values = measured(sections, "ceilings")
    return None if values is None else Ceilings.of(values)


def _head(record: Record) -> str:
    machine, dates = record["machine"], sorted({part["date"] for part in record["sections"].values()})
    return (
        f"# {machine['card']}: what a shot costs\n\n"
        f"{', '.join(dates)}; {machine['card']}, {machine['memory_gib']:.0f} GiB, {machine['processors']} "
        f"multiprocessors, torch {machine['torch']}, CUDA {machine['cuda']}, Python {machine['python']}.\n"
        f"{record['what']}\n"
        "Networks have random weights: times and memory are those of trained ones, pictures are not.\n"
        "Times are medians; every run is in the JSON file beside this page. Made by `python -m benchmarks.gpu`."
    )


def _table(title: str, text: str, columns: str, rows: list[str]) -> str:
    if not rows:
        return ""
    line = "|" + "---|" * (columns.count("|") + 1)
    return "\n".join([f"## {title}", "", *([text, ""] if text else []), f"| {columns} |", line, *rows])


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _number(value: float | None, digits: int = 3) -> str:
    return EMPTY if value is None else f"{value:,.{digits}f}"


def _gib(count: int | None) -> str:
    return EMPTY if count is None else f"{count / GIB:.2f}"


def _ratio(peak: int | None, planned: int | None) -> str:
    return EMPTY if peak is None or planned is None else f"{planned / peak:.2f}"


def _ceilings(sections: Sections) -> str:
    values = measured(sections, "ceilings")
    if values is None:
        return ""
    rows = [
        _row(
            f"bfloat16 product, {each['name']}: {' x '.join(map(str, each['shape']))}", f"{each['tflops']:,.1f} TFLOP/s"
        )
        for each in values["products"]
    ]
    for each in values["attention"]:
        found = f"{each['tflops']:,.1f} TFLOP/s" if "tflops" in each else f"not there: {each['reason']}"
        rows.append(_row(f"attention, {each['queries']:,} x {each['keys']:,}, {each['name']}", found))
    rows += [_row(f"copy, {each['name']}", f"{each['gigabytes']:,.1f} GB/s") for each in values["copies"]]
    text = "The fastest product and the copies are the ceilings below. A copy on the card counts reading and writing."
    return _table("Ceilings", text, "what | measured", rows)


def _steps(sections: Sections, ceilings: Ceilings | None) -> str:
    text = (
        "One forward without guidance, or one reading of the scene. The roofline is the longest of FLOPs at the "
        "ceiling of products, bytes (unfused) at that of the card's memory, and bytes from the host at that of its "
        "link. Reading a scene is not compiled. The last column is the planner's prediction over the measured peak."
    )
    columns = (
        "case | first, s | median, s | TFLOP | TFLOP/s | share of the ceiling | roofline, s | bound by | peak, GiB | "
        "predicted, GiB | predicted / peak"
    )
    return _table("One step", text, columns, list(_step_rows(sections, ceilings)))


def _step_rows(sections: Sections, ceilings: Ceilings | None) -> Iterator[str]:
    for name in sections:
        values = measured(sections, name)
        if values is None or not name.startswith(("step: ", "compiled: ")):
            continue
        work, seconds = Work(**values["work"]), values["median_s"]
        share, least, by = EMPTY, EMPTY, EMPTY
        if ceilings is not None:
            share = f"{work.tflop / seconds / ceilings.matmul_tflops:.0%}"
            limit = bound(work, ceilings)
            least, by = _number(limit.seconds), limit.by
        planned = values.get("predicted")
        yield _row(
            name.removeprefix("step: "), _number(values["first_s"]), _number(seconds), _number(work.tflop, 1),
            _number(work.tflop / seconds, 1), share, least, by,
            _gib(values["peak"]), _gib(planned), _ratio(values["peak"], planned),
        )  # fmt: skip


def gaps_of(sections: Sections, name: str, ceilings: Ceilings | None) -> list[Gap] | None:
    """Where the time of a profiled step goes, or None where that is not known."""
    values = measured(sections, name)
    if values is None or ceilings is None:
        return None
    return gaps(values["profile"]["kinds_s"], Work(**values["work"]), ceilings)


def _profiled(sections: Sections) -> list[str]:
    return [name for name in sections if name.startswith(("profile: ", "compiled: "))]


def _kinds(sections: Sections, ceilings: Ceilings | None) -> str:
    rows = []
    for name in _profiled(sections):
        found = gaps_of(sections, name, ceilings)
        for gap in found or []:
            whole = sections[name]["values"]["profile"]["whole_s"]
            share = f"{gap.seconds / whole:.0%}"
            rows.append(
                _row(
                    name.removeprefix("profile: "),
                    gap.kind,
                    _number(gap.seconds),
                    share,
                    _number(gap.least),
                    _number(gap.lost),
                )
            )
    text = (
        "One profiled step by kind of kernel. At the ceiling, its FLOPs take the time in the fifth column; the rest is "
        "what the kind loses. Elementwise kernels, copies and idle time have no FLOPs to speak of: all their time is "
        "lost. What runs beside something else on another stream counts in both."
    )
    return _table("Where the time goes", text, "step | kind | s | share | at the ceiling, s | lost, s", rows)


def _stages(sections: Sections) -> str:
    rows = []
    for section in ("scene", "decoder"):
        for name, values in (measured(sections, section) or {"stages": {}})["stages"].items():
            seconds = values["median_s"]
            rows.append(
                _row(
                    name,
                    _number(values["first_s"]),
                    _number(seconds),
                    _number(values["tflop"], 2),
                    _number(values["tflop"] / seconds, 1),
                    _gib(values["peak"]),
                    _gib(values["predicted"]),
                    _ratio(values["peak"], values["predicted"]),
                )
            )
    text = "VGGT in bfloat16 and the VAE in float32, whose convolutions PyTorch computes in TF32, as shots run them."
    columns = "stage | first, s | median, s | TFLOP | TFLOP/s | peak, GiB | predicted, GiB | predicted / peak"
    return _table("Scene and video", text, columns, rows)


def _films(sections: Sections) -> str:
    rows, columns = [], ("scene", "cache", "sampling", "video")
    for name in sections:
        values = measured(sections, name) if name.startswith("film: ") else None
        if values is None:
            continue
        stages = values["stages"]
        cells = [
            f"{stages[stage]['seconds']:,.2f} ({_gib(stages[stage]['peak'])}, {_gib(stages[stage]['predicted'])})"
            if stage in stages
            else EMPTY
            for stage in columns
        ]
        rows.append(_row(name.removeprefix("film: "), *cells, _number(values["total_s"], 2)))
    guess = extrapolated(sections)
    if guess is not None:
        rows.append(_row("50 steps, joint: EXTRAPOLATED, not run", *[EMPTY] * len(columns), _number(guess, 1)))
    text = (
        "From views to frames by the package's own `generate`, each network brought to the card for its stage; seconds "
        "(peak and predicted GiB). 50 steps have guidance 5, two forwards each; 4 steps have guidance 1. The prompt's "
        "embedding is noise: the text encoder is not run."
    )
    if guess is not None:
        text += f" Extrapolated: {FORWARDS} x the measured joint step + all but sampling of the 4-step joint film."
    return _table("Whole films", text, f"film | {' | '.join(columns)} | total, s", rows)


def extrapolated(sections: Sections) -> float | None:
    """Seconds of the 50-step joint film where it was not run but its parts were."""
    if measured(sections, "film: 50 steps, joint") is not None:
        return None
    step, film = measured(sections, "step: joint"), measured(sections, "film: 4 steps, joint")
    if step is None or film is None:
        return None
    return FORWARDS * step["median_s"] + film["total_s"] - film["stages"]["sampling"]["seconds"]


def all_checks(sections: Sections) -> list[Record]:
    """Every check of values, among them that results are finite."""
    checks = []
    for name in sections:
        values = measured(sections, name) or {}
        checks += values.get("checks", []) + ([values["check"]] if "check" in values else [])
        finite = [values, *values.get("stages", {}).values()]
        if any("finite" in part for part in finite):
            passed = all(part.get("finite", True) for part in finite)
            checks.append({"what": f"{name}: all values are finite", "passed": passed})
    return checks


def _checks(sections: Sections) -> str:
    compared = [check for check in all_checks(sections) if "difference" in check]
    rows = [
        _row(check["what"], f"{check['difference']:.1e}", f"{check['limit']:.1e}", "yes" if check["passed"] else "NO")
        for check in compared
    ]
    others = [check for check in all_checks(sections) if "difference" not in check]
    failed = [check["what"] for check in others if not check["passed"]]
    text = "Root mean square of the difference, as a share of the values. " + (
        f"Besides, NOT finite: {'; '.join(failed)}." if failed else "All results are finite."
    )
    return _table("Values", text, "what | difference | limit | passed", rows)


def _missing(sections: Sections) -> str:
    lines = [f"- {name}: {section['reason']}" for name, section in sections.items() if section["status"] != "measured"]
    lines += [
        f"- {name}: {section['values']['missing']}"
        for name, section in sections.items()
        if section["status"] == "measured" and "missing" in section["values"]
    ]
    return "\n".join(["## Not measured", "", *lines]) if lines else ""


def _next(sections: Sections, ceilings: Ceilings | None) -> str:
    lines = []
    for name in _profiled(sections):
        found = gaps_of(sections, name, ceilings)
        if found:
            most, whole = max(found, key=lambda gap: gap.lost), sections[name]["values"]["profile"]["whole_s"]
            lines.append(
                f"- {name}: **{most.kind}**, {_number(most.lost)} s above the ceiling of {_number(whole)} s in all."
            )
    for name in sections:
        values: Any = measured(sections, name) if name.startswith("film: ") else None
        if values is not None:
            stage, cost = max(values["stages"].items(), key=lambda item: item[1]["seconds"])
            lines.append(f"- {name}: stage **{stage}**, {cost['seconds'] / values['total_s']:.0%} of the time.")
    rule = "Within a step, the kind of kernel that loses most seconds to the ceiling; in a film, the longest stage."
    return "\n".join(["## The next bottleneck", "", rule, "", *lines]) if lines else ""
