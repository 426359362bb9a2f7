"""The table: means and intervals by hand and by simulation, what is missing, JSON, and runs side by side."""

import dataclasses
import json
import math
import statistics

import pytest
import torch

from cinescene_core.checks import FileFormatError
from cinescene_core.metrics import CameraErrors, MatchedPixels
from cinescene_training.evaluate import (
    EvaluationRecord,
    MetricTable,
    VideoScores,
    compare,
    read_table,
    to_markdown,
    write_table,
)
from cinescene_training.evaluate.instruments import Instruments
from cinescene_training.evaluate.table import interval_over_places, make_row, make_rows, paired_psnr

PAPER = "Mat. Pix.(K)↑ | CLIP-V↑ | PSNR↑ | SSIM↑ | LPIPS↓ | RotErr↓ | TransErr↓ | CamMC↓ | CLIP-T↑ | VBench↑"
"""The header of the paper's table 1."""
PROTOCOL = EvaluationRecord(
    run="tiny", digest="0123456789abcdef", identity="fedcba", checkpoint="last.ckpt", commit="abc", machine="a desk",
    split="test", clips=2, seeds=(0, 1), width=64, height=32, num_frames=5, num_views=3, steps=4, guidance=5.0,
    shift=8.0, solver="unipc", compared_frames=2, stride=4, estimator="the truth itself",
)  # fmt: skip


def camera(rot_err=0.5, trans_err=1.5):
    return CameraErrors(
        num_frames=2, stride=4, estimator="the truth itself", rot_err=rot_err, rot_err_mean_degrees=3.0,
        trans_err=trans_err, trans_err_least_squares=trans_err, cam_mc=trans_err,
        reason="" if trans_err else "static ground truth",
    )  # fmt: skip


def video(clip="a", seed=0, variant="model", place="here", has_subject=False, **values):
    return VideoScores(variant=variant, clip=clip, place=place, has_subject=has_subject, seed=seed, **values)


def table_of(videos, missing=None, **protocol):
    record = dataclasses.replace(PROTOCOL, **protocol)
    tools = Instruments(stride=4).missing(rendered=True, with_subject=True) if missing is None else missing
    return MetricTable(rows=make_rows(videos), protocol=record, instruments={}, missing=tools, videos=tuple(videos))


def cells(text, name, block=0):
    """Column title to cell of one row of a block."""
    tables = [part for part in text.split("\n\n") if part.startswith("| |")]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables[block].splitlines()]
    return dict(zip(lines[0], next(line for line in lines if line[0] == name), strict=True))


# ---- means ------------------------------------------------------------------------------------


def test_a_row_is_the_mean_over_its_videos_and_says_of_how_many():
    matched = MatchedPixels(matcher="m", threshold=0.5, pixels=(1000, 3000))
    row = make_row(
        "model",
        [
            video("a", 0, psnr=20.0, ssim=0.5, camera=camera(0.5, 1.5), matched=matched),
            video("a", 1, psnr=30.0, ssim=0.7, camera=camera(0.7, None)),
            video("b", 0, psnr=10.0, clip_t=0.3, camera=camera(0.9, 2.5)),
            video("b", 1, problem="The sampled latents hold NaN or infinity."),
        ],
    )
    assert (row.videos, row.clips, row.places, row.failed) == (4, 2, 1, 1)
    assert (row.psnr.value, row.psnr.videos, row.psnr.missing) == (20.0, 3, 1)
    assert row.ssim.value == pytest.approx(0.6)
    assert (row.mat_pix.value, row.mat_pix_share.value) == (4.0, pytest.approx(4000 / (2 * 672 * 384)))
    assert row.rot_err.value == pytest.approx(0.7)
    assert (row.trans_err.value, row.trans_err.videos) == (2.0, 2)  # of the moves that travel
    assert (row.clip_t.value, row.clip_t.missing) == (0.3, 3)
    assert (row.lpips.value, row.vbench.value, row.vbench.missing) == (None, None, 4)


def test_the_paper_s_columns_stand_in_the_paper_s_order_with_reasons_for_what_is_missing():
    text = to_markdown(table_of([video("a", psnr=14.5094, ssim=0.4133), video("b", psnr=14.5), video("c", psnr=None)]))
    assert f"| | {PAPER} |" in text.splitlines()
    row = cells(text, "model")
    assert row["PSNR↑"] == "14.50 (2 of 3)"
    assert row["SSIM↑"] == "0.4133 (1 of 3)"
    without = ("Mat. Pix.(K)↑", "CLIP-V↑", "LPIPS↓", "RotErr↓", "TransErr↓", "CamMC↓", "CLIP-T↑", "VBench↑")
    assert {row[title] for title in without} == {"missing"}
    assert "- LPIPS missing: its weights were not named; give alexnet-owt-7be5be79.pth as --lpips-alexnet" in text
    assert "- Mat. Pix.(K), Mat. Pix. share missing: no matcher was named" in text
    assert "- CLIP-V, CLIP-T missing: no CLIP was named" in text
    assert "- VBench missing: it needs an environment of its own" in text
    assert "the run's VGGT has no camera head" in text
    assert "N = 2 frames, stride 4, estimator: the truth itself" in text


def test_what_was_measured_and_is_undefined_is_not_called_missing():
    pan = [video("a", camera=camera(0.5, None)), video("b", camera=camera(0.7, None))]
    row = cells(to_markdown(table_of(pan, missing={})), "model")
    assert (row["RotErr↓"], row["TransErr↓"], row["CamMC↓"]) == ("0.6000", "-", "-")


def test_every_failure_is_named():
    text = to_markdown(table_of([video("a", psnr=1.0), video("b", problem="The sampled latents hold NaN.")]))
    assert text.endswith("1 videos failed:\n\n- b, model: The sampled latents hold NaN.\n")
    assert cells(text, "model", block=1)["failed"] == "1"


# ---- intervals --------------------------------------------------------------------------------


def test_the_interval_of_many_places_is_the_normal_one():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    low, high = interval_over_places((str(i), value) for i, value in enumerate(values))
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(400)
    # 2000 draws leave the 2.5 % quantile uncertain by about 0.06 deviations.
    assert low == pytest.approx(mean - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.2 * error)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    generator = torch.Generator().manual_seed(1)
    held, places, twins, trials = 0, 30, 4, 300
    for _ in range(trials):
        # Videos of a place share most of what makes them hard: drawn singly, they would promise twice the accuracy.
        shared = 2 * torch.randn(places, 1, generator=generator)
        values = 20 + shared + 0.5 * torch.randn(places, twins, generator=generator)
        low, high = interval_over_places((str(p), float(v)) for p, row in enumerate(values) for v in row)
        held += low < 20 < high
    # Percentile intervals of 30 places cover about 93.5 %; three binomial deviations (1.4 %) to either side.
    assert 0.89 < held / trials < 0.98


def test_the_interval_repeats_itself_and_needs_two_places():
    values = [("a", 1.0), ("a", 3.0), ("b", 5.0), ("b", None)]
    assert interval_over_places(values) == interval_over_places(values) == (2.0, 5.0)  # both a, or both b
    assert interval_over_places([("a", 1.0), ("a", 3.0), ("b", None)]) is None


# ---- JSON -------------------------------------------------------------------------------------


def full_table():
    matched = MatchedPixels(matcher="m", threshold=0.5, pixels=(1000, 3000))
    return table_of(
        [
            video("a", 0, psnr=20.0, psnr_background=math.inf, camera=camera(), matched=matched, has_subject=True),
            video("b", 1, place="there", psnr=21.0, psnr_background=30.0, camera=camera(0.1, None)),
            video("b", None, "VAE", "there", problem="It ends after 3 frames."),
        ]
    )


def test_json_gives_back_the_table(tmp_path):
    table = full_table()
    write_table(table, tmp_path / "evaluation.json")
    assert read_table(tmp_path / "evaluation.json") == table
    text = (tmp_path / "evaluation.json").read_text(encoding="utf-8")
    assert "Infinity" not in text  # strict JSON has no such number
    assert "NaN" not in text
    assert to_markdown(read_table(tmp_path / "evaluation.json")) == to_markdown(table)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda record: record.pop("format"), r"it is no JSON object with format 1"),
        (lambda record: record.update(format=2), r"it is no JSON object with format 1"),
        (lambda record: record.pop("rows"), r"'rows' must be a list; got None"),
        (lambda record: record["rows"][0].pop("psnr"), r"The field 'rows\[0\]\.psnr' is missing"),
        (lambda record: record["videos"][1].update(psnr="high"), r"'videos\[1\]\.psnr' must be float; got 'high'"),
        (lambda record: record["protocol"].update(solver="heun"), r"'protocol\.solver' must be one of unipc, euler"),
        (lambda record: record.update(missing=[1]), r"'missing' must hold texts by column; got \[1\]"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, change, sentence):
    write_table(full_table(), tmp_path / "t.json")
    record = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    change(record)
    (tmp_path / "t.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(
        FileFormatError,
        match=rf"t\.json is no table of an evaluation: {sentence}.*Delete it, and measure the run again\.",
    ):
        read_table(tmp_path / "t.json")


def test_a_file_that_is_cut_short_or_absent_is_refused(tmp_path):
    (tmp_path / "t.json").write_text('{"format": 1', encoding="utf-8")
    for name in ("t.json", "none.json"):
        with pytest.raises(
            FileFormatError, match=rf"{name} is no table of an evaluation: .*Delete it, and measure the run again\."
        ):
            read_table(tmp_path / name)


# ---- runs side by side ------------------------------------------------------------------------


def run(*psnrs, first="a", missing=None, **protocol):
    """Clips a, b, ... in a place each, every one from two seeds half a dB apart on either side."""
    videos = [
        video(chr(ord(first) + i), seed, place=f"room {i}", psnr=value + side, psnr_decoded=value + 5)
        for i, value in enumerate(psnrs)
        for seed, side in ((0, -0.5), (1, 0.5))
    ]
    return table_of(videos, missing, **protocol)


def test_runs_are_compared_clip_by_clip():
    without, full = run(10.0, 20.0, 30.0), run(14.0, 24.5, 34.1)
    mean, interval, clips = paired_psnr(without, full)
    assert (mean, clips) == (pytest.approx(4.2), 3)
    # The clips differ by 20 dB and the gains by half of one: the pairs see only the gains.
    assert interval == (pytest.approx(4.0), pytest.approx(4.5))
    text = compare([("without context", without), ("full", full)], "without context")
    assert cells(text, "full")["PSNR↑"] == "24.20"
    gains = cells(text, "full", block=1)
    assert gains["PSNR against without context, same clips [95 %]"] == "+4.20 dB [4.00, 4.50] (3 clips)"
    assert gains["the same, to the VAE's truth"] == "+4.20 dB [4.00, 4.50] (3 clips)"
    assert f"| | {PAPER} |" in text.splitlines()
    assert "does not compare" not in text


def test_gains_are_over_the_run_that_is_named_wherever_it_stands():
    runs = [("worse", run(9.0, 8.0)), ("base", run(10.0, 10.0)), ("better", run(11.0, 13.0))]
    text = compare(runs, "base", {"worse": "Ordered (table 3)", "base": "Ours", "better": "W/o camera (table 6)"})
    title = "PSNR against base, same clips [95 %]"
    found = {name: cells(text, name, block=1)[title] for name, _ in runs}
    # Of two places a bootstrap draws each twice in a quarter of all cases: the interval is from one gain to the other.
    assert found == {
        "worse": "-1.50 dB [-2.00, -1.00] (2 clips)",
        "base": "-",
        "better": "+2.00 dB [1.00, 3.00] (2 clips)",
    }
    assert cells(text, "worse")["In the paper"] == "Ordered (table 3)"
    assert "PSNR against" not in compare(runs, None)


def test_gains_on_videos_without_any_error_are_none_infinite_or_undefined():
    exact, other = run(math.inf, 20.0), run(30.0, math.inf)
    assert paired_psnr(exact, exact)[0] == 0.0
    assert paired_psnr(run(30.0, 20.0), exact)[0] == math.inf
    assert paired_psnr(exact, other) is None  # infinitely better on one clip, and infinitely worse on another


def test_only_common_clips_are_compared():
    ours = [video("a", place="x", psnr=1.0), video("b", place="y", psnr=20.0)]
    theirs = [video("b", place="y", psnr=23.0), video("c", place="z", psnr=90.0), video("b", 0, "VAE", "y", psnr=50.0)]
    assert paired_psnr(table_of(ours), table_of(theirs)) == (3.0, None, 1)
    assert paired_psnr(table_of(ours[:1]), table_of(theirs)) is None
    assert (
        cells(compare([("one", table_of(ours[:1])), ("two", table_of(theirs))], "one"), "two", 1)[
            "PSNR against one, same clips [95 %]"
        ]
        == "-"
    )


def test_runs_that_were_measured_differently_are_told_apart():
    text = compare([("one", run(10.0)), ("two", run(10.0, steps=50, stride=1, run="other", num_views=1))], "one")
    assert "- **two does not compare with one**: steps 50 (not 4), stride 1 (not 4)." in text
    assert "(configuration 0123456789abcdef), shown 1 views, measured by commit abc" in text
    assert "missing: no matcher was named" in text
    assert text.count("- VBench missing") == 1


def test_columns_by_other_instruments_are_told_apart():
    alex = dataclasses.replace(run(10.0), instruments={"lpips": "LPIPS 0.1, AlexNet"})
    vgg = dataclasses.replace(run(11.0), instruments={"lpips": "LPIPS 0.1, VGG", "clip_v": "CLIP"})
    text = compare([("one", alex), ("two", vgg)], None)
    assert "- **two does not compare with one**: lpips by LPIPS 0.1, VGG (not LPIPS 0.1, AlexNet)." in text


def test_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match=r"There is nothing to compare; give the tables of one or more runs"):
        compare([], None)
    with pytest.raises(ValueError, match=r"The table of 'one' has no row 'model'. Run cinescene-train evaluate"):
        compare([("one", table_of([video(variant="VAE")]))], None)
    with pytest.raises(ValueError, match=r"There is no run 'base' to compare with; name one of one, two\."):
        compare([("one", run(10.0)), ("two", run(11.0))], "base")
