"""The benchmark of hot swaps: what it times is a swap, and its adapters are as small as they are said to be."""

import json

import pytest

from benchmarks.swap import KINDS, MOST_KB, swap
from sam_lora.weights import WeightsError


def test_a_swap_is_timed_by_part(tmp_path, capsys):
    swap(swaps=2, only="vit_t", json=str(tmp_path / "figures.json"))
    figures = json.loads((tmp_path / "figures.json").read_text())
    small, large = (figures[f"vit_t, {kind}"] for kind in KINDS)
    assert small["kb"] < MOST_KB < large["kb"]
    for one in (small, large):
        for name in ("request", "promotion", "both", "reading", "building", "merging"):
            assert 0 < one[name]["median_ms"] <= one[name]["worst_ms"]
        assert one["both"]["worst_ms"] > one["request"]["median_ms"]
        assert one["peak_growth_mb"] >= 0
    said = capsys.readouterr().out
    assert "vit_t, rank 4: 124 kB, at most 1000; peak memory +" in said
    assert "random" not in said


def test_weights_that_are_not_there_are_random(monkeypatch, capsys):
    def missing(_):
        raise WeightsError("missing")

    monkeypatch.setattr("benchmarks.swap.find_weights", missing)
    monkeypatch.setattr("benchmarks.swap.KINDS", {"rank 4": {}})
    swap(swaps=1, only="vit_t")
    assert "the weights of vit_t are not there: random ones" in capsys.readouterr().out


def test_what_the_benchmark_refuses():
    with pytest.raises(ValueError, match="only must be one of vit_t, vit_b, got 'vit_h'."):
        swap(only="vit_h")
