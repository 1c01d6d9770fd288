"""A challenger serves only where it is not worse, on cases that were held out."""

import copy
import json

import numpy as np
import pytest
import torch

from sam_lora import promotion
from sam_lora.build import build_sam_lora
from sam_lora.promotion import AUTOMATIC, PROMPTED, decide, judge

LABELS = {1: "bar", 2: "block"}


def measured(automatic=None, **dice):
    """Protocol -> (case, value) -> Dice; both prompted protocols the same."""
    found = {protocol: {("a", 1): dice["box"], ("b", 1): dice["box"]} for protocol in PROMPTED}
    return found if automatic is None else {**found, AUTOMATIC: {("a", 1): automatic}}


@pytest.mark.parametrize(
    ("champion", "challenger", "promoted"),
    [
        (measured(box=0.8), measured(box=0.8), True),
        (measured(box=0.8), measured(box=0.791), True),  # within the margin
        (measured(box=0.8), measured(box=0.78), False),
        (measured(box=0.8, automatic=0.5), measured(box=0.9, automatic=0.4), False),
        (measured(box=0.8, automatic=0.2), measured(box=0.9, automatic=0.1), True),  # nobody relies on 0.2
        (measured(box=0.8, automatic=0.5), measured(box=0.9), False),  # it no longer finds the label at all
        (measured(box=0.8), measured(box=0.8, automatic=0.1), True),
        ({}, {}, False),
    ],
)
def test_promoted_only_if_not_worse_in_every_protocol_that_counts(champion, challenger, promoted):
    assert decide(champion, challenger, LABELS, margin=0.01).promoted is promoted


def test_the_verdict_says_why():
    assert decide(measured(box=0.8), measured(box=0.5), LABELS).why == (
        "Worse than the champion on the held-out cases: jittered_box 0.500 after 0.800, clicks_1 0.500 after 0.800."
    )
    assert decide({}, {}, LABELS).why == "No case is held out yet: promoting is up to you."
    better = decide(measured(box=0.5), measured(box=0.8), LABELS)
    assert better.why.startswith("Not worse than the champion on the held-out cases: jittered_box 0.800 after 0.500")
    assert better.scores["jittered_box"]["pairs"][0] == {
        "case": "a",
        "label": "bar",
        "champion": 0.5,
        "challenger": 0.8,
    }


def test_one_protocol_that_is_better_does_not_make_up_for_another():
    champion = {"jittered_box": {("a", 1): 0.8}, "clicks_1": {("a", 1): 0.4}}
    challenger = {"jittered_box": {("a", 1): 0.95}, "clicks_1": {("a", 1): 0.3}}
    assert not decide(champion, challenger, LABELS).promoted


@pytest.fixture(scope="module")
def small():
    """vit_t at 64 px with tokens for two labels, as it starts."""
    return build_sam_lora(image_size=64, tokens=True, labels=LABELS, decoder="full").eval()


def test_a_network_is_as_good_as_itself_and_a_broken_one_is_not(small, dataset_dir):
    path = str(dataset_dir / "test" / "case0.npz")
    case = {"image": path, "label": path, "patient": "p"}
    broken = copy.deepcopy(small)
    with torch.no_grad():
        for parameter in broken.mask_decoder.parameters():
            parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    told = []
    same = judge(small, copy.deepcopy(small), [case], LABELS, on_case=lambda *place: told.append(place))
    assert same.promoted
    assert told == [(1, 2), (2, 2)]
    assert {protocol: one["difference"] for protocol, one in same.scores.items()} == dict.fromkeys(
        (*PROMPTED, AUTOMATIC), 0.0
    )
    worse = judge(small, broken, [case], LABELS)
    assert not worse.promoted
    assert worse.scores["jittered_box"]["difference"] < -0.01


@pytest.fixture
def asked(monkeypatch):
    """Names of the cases that are measured, each time a network is asked by boxes and clicks."""
    names, evaluate = [], promotion.evaluate_case

    def counting(embedder, case, labels, rules):
        names.extend([case.name] if rules.protocols == PROMPTED else [])
        return evaluate(embedder, case, labels, rules)

    monkeypatch.setattr(promotion, "evaluate_case", counting)
    return names


@pytest.fixture
def held_out(dataset_dir):
    """Three cases, as entries of a datalist."""
    paths = [dataset_dir / part for part in ("test/case0.npz", "train/case0.npz", "train/case1.npz")]
    return [{"image": str(path), "label": str(path), "name": f"{n}", "patient": f"{n}"} for n, path in enumerate(paths)]


def weakened(network):
    """A challenger."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.mask_decoder.iou_token.weight.add_(0.5)
    return other


def test_what_is_known_of_the_champion_is_not_measured_again_and_the_verdict_is_the_same(small, held_out, asked):
    first = judge(small, weakened(small), held_out[:2], LABELS)
    assert asked == ["0", "1"] * 2
    asked.clear()
    again = judge(weakened(small), small, held_out, LABELS, known=json.loads(json.dumps(first.measured)))
    assert asked == ["2", "2"]  # the case that is new, by both
    assert len(again.measured) == 6
    asked.clear()
    assert judge(weakened(small), small, held_out, LABELS) == again  # every figure to its last digit
    assert len(asked) == 6


@pytest.mark.parametrize("change", ["label", "image", "name", "names of labels", "every", "network", "version"])
def test_what_differs_in_anything_is_measured_again(small, held_out, asked, change, monkeypatch):
    entry, labels, every, champion = held_out[0], LABELS, 1, small
    known = judge(small, small, [entry], labels).measured
    asked.clear()
    content = dict(np.load(entry["image"]))
    if change in ("label", "image"):
        array = content["gts" if change == "label" else "imgs"]
        array[array == array.max()] = 0
        np.savez_compressed(entry["image"], **content)
    elif change == "name":
        entry = {**entry, "name": "other"}  # its boxes are moved by other draws
    elif change == "names of labels":
        labels = {1: "bar", 2: "body"}
    elif change == "every":
        every = 2
    elif change == "network":
        champion = weakened(small)
    else:
        monkeypatch.setattr(promotion, "__version__", "next")
    judge(champion, champion, [entry], labels, every=every, known=known)
    assert asked == [entry["name"]] * 2


def test_without_a_held_out_case_nothing_is_promoted(small):
    assert not judge(small, small, [], LABELS).promoted


def test_a_negative_margin_is_refused(small):
    with pytest.raises(ValueError, match="margin must be a Dice of at least 0, got -0.1"):
        judge(small, small, [], LABELS, margin=-0.1)
