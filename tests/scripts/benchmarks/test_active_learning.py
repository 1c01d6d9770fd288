"""How strategies are compared."""

import pytest

from benchmarks.active_learning import STRATEGIES, areas
from benchmarks.curves import write_page
from benchmarks.learning_page import HEADING


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


def test_the_page_gets_a_section_with_a_plot_and_the_next_run_replaces_it(tmp_path):
    page = tmp_path / "learning.md"
    page.write_text(f"# Learning\n\n{HEADING}below\n", encoding="utf-8")
    for gained in (0.1, 0.3):
        runs = {
            str(seed): {
                "random": [{**one, "slices": 400} for one in rounds(0.2, 0.4)],
                "hybrid": [{**one, "slices": 250} for one in rounds(0.2, 0.4 + gained)],
            }
            for seed in range(2)
        }
        write_page({"areas": areas(runs), "runs": runs, "counts": (1, 3), "seconds": 60}, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert text.count("## What to label next") == 1
    assert text.endswith(f"{HEADING}below\n")
    assert "| random | 400 | 0.300 [0.300, 0.300] |  |" in text
    assert "| hybrid | 250 | 0.450 [0.450, 0.450] | +0.150 [+0.150, +0.150] |" in text
    assert (tmp_path / "active_learning.png").is_file()
