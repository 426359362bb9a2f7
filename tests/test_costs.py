"""What a stage costs: measured against work of a known size."""

import platform
import time

import pytest
import torch

from cinescene_core.costs import CostMeter, StageCost

LINUX = platform.system() == "Linux"


def test_seconds_are_those_of_the_block():
    meter = CostMeter(torch.device("cpu"))
    with meter.stage("sleep"):
        time.sleep(0.05)
    with meter.stage("nothing"):
        pass
    asleep, nothing = meter.costs
    assert [asleep.stage, nothing.stage] == ["sleep", "nothing"]
    assert 0.05 <= asleep.seconds < 5  # a busy machine may wake late
    assert 0 <= nothing.seconds < asleep.seconds


@pytest.mark.skipif(not LINUX, reason="only Linux forgets a peak of resident memory")
def test_the_peak_is_that_of_the_stage_alone():
    meter = CostMeter(torch.device("cpu"))
    with meter.stage("small"):
        pass
    with meter.stage("large"):
        torch.ones(64 * 2**20, dtype=torch.uint8).sum()
    with meter.stage("small again"):
        pass
    small, large, again = (cost.peak_bytes for cost in meter.costs)
    # 64 MiB are written and freed; allocator and libraries may move a few.
    assert large - small > 56 * 2**20
    assert large - again > 56 * 2**20


def test_a_stage_that_fails_is_not_recorded():
    meter = CostMeter(torch.device("cpu"))
    with pytest.raises(RuntimeError, match="no"), meter.stage("fails"):
        raise RuntimeError("no")
    assert meter.costs == []


def test_a_line_says_stage_seconds_and_memory():
    assert str(StageCost("sampling", 83.456, 3 * 2**30)).split() == ["sampling", "83.46", "s", "3,072", "MiB"]
    assert str(StageCost("text", 0.5, None)).split() == ["text", "0.50", "s"]


def test_a_card_is_started_before_its_peak_is_forgotten(monkeypatch):
    called = []
    for name in ("init", "reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: called.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 12345)
    meter = CostMeter(torch.device("cuda"))
    with meter.stage("sampling"):
        called.append("work")
    # torch refuses to reset the counters of a card that nothing has used yet.
    assert called == ["init", "reset_peak_memory_stats", "work", "synchronize"]
    assert meter.costs[0].peak_bytes == 12345


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cards_peak_is_what_was_allocated():
    device = torch.device("cuda")
    meter = CostMeter(device)
    with meter.stage("large"):
        torch.ones(64 * 2**20, dtype=torch.uint8, device=device)
    with meter.stage("nothing"):
        pass
    large, nothing = (cost.peak_bytes for cost in meter.costs)
    assert large - nothing == 64 * 2**20
