"""The card's benchmark, rehearsed at tiny sizes on the processor: its counting, its arithmetic, what it says."""

import dataclasses
import json
import os
import re
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cinescene_core.memory import Networks, ShotSize, predict_memory

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bench():
    """The package's modules; the root is on the path only while they are imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        import benchmarks.gpu.__main__ as main
        from benchmarks import flops
        from benchmarks.gpu import kernels, measure, page, roofline, sizes, steps

    modules = {"main": main, "flops": flops, "kernels": kernels, "measure": measure}
    return SimpleNamespace(**modules, page=page, roofline=roofline, sizes=sizes, steps=steps)


# Counting.


@pytest.fixture(scope="module")
def counts(bench):
    """What benchmarks/flops.py counts of the tiny shot."""
    shot = bench.sizes.TINY.shot
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.flops, "SHOT", shot)
        patch.setattr(bench.flops, "VGGT_GRID", (2, 3))
        patch.setattr(bench.flops, "TEXT_ROWS", 7)
        return bench.flops.count(bench.sizes.TINY.wan)


# 2 latent frames and 3 views of 2 x 4 tokens: 16 of video; 24 of pictures and as many of features.
VIDEO, CONTEXT, WIDTH, LAYERS, TEXT = 16, 48, 48, 2, 7
# The scene is embedded once a shot: 4 x 16 values to a token of pictures, 4 x 64 to one of features.
EMBEDDING = 2 * 24 * WIDTH * (4 * 16 + 4 * 64) / 1e12


@pytest.mark.parametrize(
    ("case", "theirs"),
    [
        ("plain", lambda counts: counts.plain_tflop),
        ("joint", lambda counts: counts.joint_tflop - EMBEDDING),
        ("cached", lambda counts: counts.cached_step_tflop),
        ("cached, float8", lambda counts: counts.cached_step_tflop),
        ("cached, on the host", lambda counts: counts.cached_step_tflop),
        ("read for cached", lambda counts: counts.cached_prefill_tflop),
        ("read per view", lambda counts: counts.per_view_prefill_tflop),
    ],
)
def test_flops_are_those_of_the_benchmark_that_only_counts(bench, counts, case, theirs):
    work = bench.steps.work_of(bench.sizes.TINY, bench.steps.CASES[case])
    assert work.tflop == pytest.approx(theirs(counts), rel=1e-12)


@pytest.mark.parametrize(
    ("case", "pairs"),
    [  # query and key tokens of one block; the prompt is read by what may read it
        ("plain", VIDEO * (VIDEO + TEXT)),
        ("joint", (VIDEO + CONTEXT) * (VIDEO + CONTEXT + TEXT)),
        ("cached", VIDEO * (VIDEO + CONTEXT + TEXT)),
        ("read for cached", CONTEXT * CONTEXT),
        ("read per view", CONTEXT * (CONTEXT // 3)),
    ],
)
def test_flops_of_attention_are_four_a_pair_and_channel(bench, case, pairs):
    work = bench.steps.work_of(bench.sizes.TINY, bench.steps.CASES[case])
    assert work.attention_tflop == pytest.approx(4 * pairs * WIDTH * LAYERS / 1e12, rel=1e-12)


def test_what_is_sent_from_the_host_is_the_cache(bench, counts):
    works = {name: bench.steps.work_of(bench.sizes.TINY, case) for name, case in bench.steps.CASES.items()}
    cache = 2 * 2 * CONTEXT * WIDTH * LAYERS / 1e9  # keys and values of two bytes
    assert works["cached, on the host"].sent_gigabytes == pytest.approx(cache)
    assert works["cached"].sent_gigabytes == 0
    assert counts.cache_gib * 2**30 / 1e9 == pytest.approx(cache)
    assert works["cached"].gigabytes - works["plain"].gigabytes == pytest.approx(cache)
    assert works["cached, float8"].gigabytes - works["plain"].gigabytes == pytest.approx(cache / 2)


# Roofline.


def test_the_roofline_is_the_longest_of_arithmetic_memory_and_link(bench):
    work, ceilings = bench.roofline.Work, bench.roofline.Ceilings(500.0, 2000.0, 50.0)
    assert bench.roofline.bound(work(600, 400, 1000, 10), ceilings) == (2.0, "arithmetic")  # 1000 TFLOP at 500 a second
    assert bench.roofline.bound(work(60, 40, 1000, 10), ceilings) == (0.5, "memory")
    assert bench.roofline.bound(work(60, 40, 100, 40), ceilings) == (0.8, "the host's link")


def test_what_every_kind_loses_adds_up_to_what_the_step_loses(bench):
    seconds = {"attention": 3.0, "matrix products": 0.5, "elementwise and norms": 0.75, "copies": 0.125, "idle": 0.125}
    work, ceilings = bench.roofline.Work(1000.0, 200.0, 0.0), bench.roofline.Ceilings(500.0, 2000.0, 50.0)
    found = {gap.kind: gap for gap in bench.roofline.gaps(seconds, work, ceilings)}
    assert found["attention"].lost == pytest.approx(3.0 - 2.0)
    assert found["matrix products"].lost == pytest.approx(0.5 - 0.4)
    assert found["idle"].lost == 0.125
    assert sum(gap.lost for gap in found.values()) == pytest.approx(sum(seconds.values()) - 1200 / 500)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, cutlass::bfloat16_t>>", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_kernel0_0", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel)", "attention"),
        ("nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_bias_TNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1", "matrix products"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", "matrix products"),
        ("sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x128x16", "matrix products"),
        ("void at::native::elementwise_kernel<128, direct_copy_kernel_cuda()>", "elementwise and norms"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float, float>", "elementwise and norms"),
        ("triton_poi_fused__to_copy_addmm_gelu_3", "elementwise and norms"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
    ],
)
def test_kernels_are_known_by_their_names(bench, name, kind):
    assert bench.roofline.kind_of(name) == kind


def test_idle_is_when_nothing_runs_on_any_stream(bench):
    kernel = bench.kernels.Kernel
    seen = [
        kernel("gemm", 0.0, 2.0),
        kernel("Memcpy HtoD", 1.0, 3.0),
        kernel("gemm", 5.0, 6.0),
        kernel("add", 5.2, 5.4),
    ]
    assert bench.kernels.covered(seen) == pytest.approx(3 + 1)
    found = bench.kernels.summary(seen, whole=6.0, busy=4.0)
    assert found["kinds_s"] == pytest.approx(
        {"matrix products": 3.0, "copies": 2.0, "elementwise and norms": 0.2, "idle": 2.0}
    )
    assert [(each["name"], each["runs"]) for each in found["kernels"]] == [("gemm", 2), ("Memcpy HtoD", 1), ("add", 1)]


# The rehearsal.

CHOSEN = ["ceilings", "values", "step: joint", "step: cached", "step: read for", "profile: joint", "scene"]
FILM = "film: 4 steps, joint"
CASES = ["step: joint", "step: cached", "step: cached, float8", "step: cached, on the host", "step: read for cached"]


@pytest.fixture(scope="module")
def rehearsal(bench, tmp_path_factory):
    """A run without diffusers: its exit status, the JSON and the page."""
    out = tmp_path_factory.mktemp("rehearsal")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "diffusers", None)
        given = ["--tiny", "--device", "cpu", "--out", str(out), "--only", *CHOSEN, FILM]
        status = bench.main.main(given)
    record = json.loads((out / "gpu_processor_tiny.json").read_text(encoding="utf-8"))
    return status, record["sections"], (out / "gpu_processor_tiny.md").read_text(encoding="utf-8")


def test_every_section_is_measured_and_every_value_right(rehearsal):
    status, sections, page = rehearsal
    assert {name: part.get("reason") for name, part in sections.items() if part["status"] != "measured"} == {}
    assert set(sections) == {"ceilings", "values", *CASES, "profile: joint", "scene", FILM}
    assert status == 0
    assert "All results are finite." in page
    assert "| NO |" not in page
    assert "| cached, on the host, and cached on the card in bfloat16 | 0.0e+00 | 0.0e+00 | yes |" in page


def test_rates_follow_from_the_raw_runs(bench, rehearsal):
    _, sections, page = rehearsal
    ceilings, joint = sections["ceilings"]["values"], sections["step: joint"]["values"]
    for product in ceilings["products"]:
        rows, inner, columns = product["shape"]
        flops = 2 * rows * inner * columns * product["repeats"]
        assert product["tflops"] == pytest.approx(flops / statistics.median(product["runs_s"]) / 1e12)
    for each in ceilings["attention"]:
        flops = 4 * each["queries"] * each["keys"] * WIDTH * each["repeats"]
        assert each["tflops"] == pytest.approx(flops / statistics.median(each["runs_s"]) / 1e12)
    within, sent = ceilings["copies"]
    assert within["gigabytes"] == pytest.approx(2 * 2**16 / statistics.median(within["runs_s"]) / 1e9)
    assert sent["gigabytes"] == pytest.approx(2**14 / statistics.median(sent["runs_s"]) / 1e9)
    assert len(joint["runs_s"]) == bench.sizes.TINY.runs
    assert joint["median_s"] == statistics.median(joint["runs_s"])
    work = joint["work"]["attention_tflop"] + joint["work"]["matmul_tflop"]
    share = work / joint["median_s"] / max(product["tflops"] for product in ceilings["products"])
    row = next(line for line in page.splitlines() if line.startswith("| joint | ") and "arithmetic" in line)
    assert f"| {share:.0%} |" in row


def test_what_the_planner_says_stands_beside_each_step(bench, rehearsal):
    _, sections, _ = rehearsal
    sizes = bench.sizes.TINY
    networks = Networks(wan=sizes.wan, vggt=sizes.vggt, vae_width=4)
    for name, stage, changes in (
        ("joint", "sampling", {}),
        ("cached, float8", "sampling", {"context_attention": "cached", "stored": "float8"}),
        ("cached, on the host", "sampling", {"context_attention": "cached", "place": "host"}),
        ("read for cached", "scene cache", {"context_attention": "cached"}),
    ):
        size = ShotSize.trained(sizes.shot, **changes)
        (wanted,) = predict_memory(networks, size, "cuda", [stage])
        assert sections[f"step: {name}"]["values"]["predicted"] == wanted.peak


def test_the_parts_of_a_profile_are_the_whole(rehearsal):
    profile = rehearsal[1]["profile: joint"]["values"]["profile"]
    assert sum(profile["kinds_s"].values()) == pytest.approx(profile["whole_s"], rel=1e-6)
    assert profile["kinds_s"]["attention"] > 0
    assert profile["kinds_s"]["matrix products"] > 0


def test_without_diffusers_the_page_says_what_is_missing(rehearsal):
    page = rehearsal[2]
    for name in ("scene", FILM):
        assert f"- {name}: The VAE is missing: diffusers is not installed here." in page


def test_a_film_that_was_not_run_is_only_extrapolated_by_that_name(bench, rehearsal):
    _, sections, page = rehearsal
    joint, film = sections["step: joint"]["values"], sections[FILM]["values"]
    others = sum(cost["seconds"] for stage, cost in film["stages"].items() if stage != "sampling")
    guess = bench.page.extrapolated(sections)
    assert guess == pytest.approx(100 * joint["median_s"] + others)
    assert f"| 50 steps, joint: EXTRAPOLATED, not run | – | – | – | – | {guess:,.1f} |" in page  # noqa: RUF001
    ran = sections | {"film: 50 steps, joint": sections[FILM]}
    assert bench.page.extrapolated(ran) is None


def test_the_next_bottleneck_is_what_loses_most(bench, rehearsal):
    sections = rehearsal[1]
    values = sections["profile: joint"]["values"]
    kinds = {"attention": 9.0, "matrix products": 5.0, "elementwise and norms": 4.0, "copies": 0.0, "idle": 0.0}
    work = {"attention_tflop": 8.0, "matmul_tflop": 2.0, "gigabytes": 0.0, "sent_gigabytes": 0.0}
    ceilings = sections["ceilings"]["values"] | {"products": [{"name": "", "shape": [], "tflops": 1.0}]}
    changed = {
        "ceilings": sections["ceilings"] | {"values": ceilings},
        "profile: joint": sections["profile: joint"]
        | {"values": values | {"work": work, "profile": {"kinds_s": kinds, "whole_s": 18.0}}},
    }
    page = bench.page.page({"machine": bench.main.machine_of(torch.device("cpu")), "what": "", "sections": changed})
    # Attention loses 1 s, products 3 s, elementwise kernels all of their 4 s.
    assert "- profile: joint: **elementwise and norms**, 4.000 s above the ceiling of 18.000 s in all." in page


# What goes wrong.


def test_a_section_that_fails_is_its_own_result_and_the_next_runs(bench, tmp_path):
    def out_of_memory(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80.00 GiB.\nMore.")

    def broken(_):
        raise RuntimeError("no kernel image")

    section = bench.main.Section
    sections = [
        section("first", out_of_memory, lambda _: 0.0),
        section("second", broken, lambda _: 0.0),
        section("third", lambda _: {"value": 3}, lambda _: 0.0),
        section("fourth", lambda _: {"value": 4}, lambda _: 1000.0),
        section("fifth", lambda _: {"value": 5}, lambda _: 1000.0),
    ]
    kept = {"status": "measured", "values": {"value": 5}, "date": "2026-01-01"}
    found, written = {"fifth": kept}, []
    setup = bench.measure.Bench(torch.device("cpu"), bench.sizes.TINY, found)
    bench.main.run_sections(setup, sections, 540.0, bench.main.time.perf_counter(), lambda: written.append(len(found)))
    assert found["first"]["reason"] == "out of memory: CUDA out of memory. Tried to allocate 80.00 GiB."
    assert found["second"]["reason"] == "failed with RuntimeError: no kernel image"
    assert found["second"]["called"][-1].endswith(" broken")
    assert found["third"]["values"] == {"value": 3}
    assert found["fourth"]["status"] == "not run"
    assert found["fourth"]["reason"].startswith("not run: it may take 1000 s and ")
    assert found["fifth"] is kept
    assert written == [2, 3, 4, 5, 5]  # after every section


def test_a_wrong_value_ends_in_a_failure(bench, tmp_path, monkeypatch, capsys):
    def wrong(_):
        nan = torch.tensor([float("nan")])
        return {"checks": [bench.measure.compared("the sum", nan, torch.ones(1), 0.1)]}

    monkeypatch.setattr(bench.main, "all_sections", lambda: [bench.main.Section("values", wrong, lambda _: 0.0)])
    assert bench.main.main(["--tiny", "--device", "cpu", "--out", str(tmp_path)]) == 1
    assert "WRONG: the sum" in capsys.readouterr().out
    assert "| the sum | nan | 1.0e-01 | NO |" in (tmp_path / "gpu_processor_tiny.md").read_text(encoding="utf-8")


def test_the_difference_is_a_share_of_the_wanted_values(bench):
    wanted = torch.tensor([3.0, -4.0])
    assert bench.measure.difference(wanted + 0.5, wanted) == pytest.approx(0.5 / (12.5**0.5))


def test_without_a_card_nothing_is_measured(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main.main(["--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said == "There is no CUDA card here, so nothing is measured; run this where there is one.\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--tiny", "--device", "cpu"], "--tiny is a rehearsal, and its times are no results; name another folder"),
        (["--device", "cpu"], "--device cpu would take days at full size; add --tiny."),
        (["--only", "dreams"], r"--only names no section \['dreams'\]; there are \['ceilings', 'values', "),
    ],
)
def test_options_that_make_no_sense_are_refused(bench, capsys, given, sentence):
    with pytest.raises(SystemExit):
        bench.main.main(given)
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(sentence, said)


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("CINESCENE_SLOW") != "1", reason="a minute: every section, with diffusers")
def test_every_section_runs(bench, tmp_path):
    assert bench.main.main(["--tiny", "--device", "cpu", "--out", str(tmp_path)]) == 0
    sections = json.loads((tmp_path / "gpu_processor_tiny.json").read_text(encoding="utf-8"))["sections"]
    assert list(sections) == [section.name for section in bench.main.all_sections()]
    assert {part["status"] for part in sections.values()} == {"measured"}
    assert not any("missing" in part["values"] for part in sections.values())


def test_the_defaults_are_the_full_shot(bench):
    full = bench.sizes.FULL
    assert (full.video_tokens, full.context_tokens, full.text_rows) == (20_160, 40_320, 512)
    assert dataclasses.asdict(full.wan) == dataclasses.asdict(bench.flops.WAN["1.3B"])
