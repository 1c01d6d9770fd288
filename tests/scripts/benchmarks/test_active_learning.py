"""How strategies are compared."""

import pytest

from benchmarks.active_learning import STRATEGIES, areas


def rounds(*values, cases="ab"):
    return [
        {"dice": {protocol: dict.fromkeys(cases, value) for protocol in ("automatic", "jittered_box")}}
        for value in values
    ]


def test_areas_are_means_over_rounds_with_what_is_gained_over_random():
    runs = {str(seed): {"random": rounds(0.2, 0.4), "hybrid": rounds(0.2, 0.6)} for seed in range(3)}
    found = areas(runs)
    assert found["random"]["automatic"] == {
        "area": pytest.approx(0.3), "interval": pytest.approx((0.3, 0.3)), "difference": None, "difference_interval": None,
    }  # fmt: skip
    hybrid = found["hybrid"]["automatic"]
    assert hybrid["difference"] == pytest.approx(0.1)
    assert hybrid["difference_interval"] == pytest.approx((0.1, 0.1))


def test_an_interval_holds_what_seeds_and_cases_differ_by():
    runs = {"0": {"random": rounds(0.5), "hybrid": rounds(0.4)}, "1": {"random": rounds(0.5), "hybrid": rounds(0.6)}}
    low, high = areas(runs)["hybrid"]["jittered_box"]["difference_interval"]
    assert (low, high) == pytest.approx((-0.1, 0.1))


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_chooses_as_many_as_are_asked_for_and_none_twice(name):
    import numpy as np

    from sam_lora.selection import Seen

    seen = {f"p{n}": Seen(n / 10, np.array([np.cos(n), np.sin(n)], np.float32)) for n in range(8)}
    chosen = STRATEGIES[name](seen, ["p0", "p7"], 3, np.random.RandomState(0))
    assert len(set(chosen)) == 3
    assert not {"p0", "p7"} & set(chosen)
