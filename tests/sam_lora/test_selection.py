"""What to label next: the uncertain, the different, and both."""

import numpy as np
import pytest

from sam_lora.build import build_sam_lora
from sam_lora.embedding import Embedder
from sam_lora.selection import Seen, by_both, by_diversity, by_uncertainty, look_at
from sam_lora.volumes import Volume


def seen(**points):
    """Name -> (uncertainty, angle) on a circle."""
    return {
        name: Seen(doubt, np.array([np.cos(angle), np.sin(angle)], np.float32))
        for name, (doubt, angle) in points.items()
    }


def test_the_most_uncertain_comes_first_and_the_unknown_last():
    assert by_uncertainty(seen(a=(0.2, 0), b=(0.9, 0), c=(None, 0), d=(0.5, 0))) == ["b", "d", "a", "c"]


def test_diversity_chooses_the_farthest_from_all_that_is_known():
    cases = seen(a=(0, 0.0), b=(0, 0.1), c=(0, 2.0), d=(0, 3.0))
    assert by_diversity(cases, ["a"]) == ["d", "c", "b"]
    assert by_diversity(cases, ["a", "d"]) == ["c", "b"]
    assert by_diversity(cases, ["a"], 1) == ["d"]
    assert by_diversity(cases, list("abcd")) == []


def test_without_a_label_diversity_begins_in_the_middle():
    cases = seen(a=(0, 0.0), b=(0, 0.5), c=(0, 1.0), d=(0, 1.2))
    assert by_diversity(cases, [])[:2] == ["b", "d"]


def test_both_takes_the_farthest_of_the_more_uncertain_half():
    cases = seen(known=(0.0, 0.0), a=(0.9, 0.1), b=(0.8, 2.0), c=(0.1, 3.0), d=(0.2, 1.0))
    assert by_both(cases, ["known"]) == ["b", "a", "d", "c"]
    assert by_both(cases, ["known"], 1) == ["b"]


def test_where_nothing_is_known_of_uncertainty_both_is_diversity():
    cases = seen(known=(None, 0.0), a=(None, 0.1), b=(None, 0.2), c=(None, 3.0), d=(None, 1.0))
    assert by_both(cases, ["known"]) == by_diversity(cases, ["known"]) == ["c", "d", "b", "a"]


@pytest.fixture(scope="module")
def embedder():
    return Embedder(build_sam_lora(image_size=64, tokens=True, labels={1: "bar", 2: "block"}, decoder="full").merged())


def test_a_volume_is_looked_at_the_same_way_each_time(embedder):
    array = np.random.RandomState(0).randint(0, 255, (30, 40, 5), np.uint8)
    volume = Volume(array)
    one, other = look_at(embedder, volume, [0, 1]), look_at(embedder, volume, [0, 1])
    assert one.uncertainty == other.uncertainty
    assert 0 <= one.uncertainty <= 1
    assert np.array_equal(one.features, other.features)
    assert np.linalg.norm(one.features) == pytest.approx(1)
    assert look_at(embedder, volume, []).uncertainty is None
    mirrored = Volume(array[::-1].copy())
    assert look_at(embedder, volume, [0, 1], mirrored=mirrored).uncertainty == one.uncertainty


def test_a_clear_object_is_less_uncertain_than_noise(embedder):
    rng = np.random.RandomState(0)
    clear = np.full((40, 40, 3), 20, np.uint8)
    clear[2:38, 2:38] = 200
    noise = rng.randint(0, 255, (40, 40, 3)).astype(np.uint8)
    assert look_at(embedder, Volume(clear), [0]).uncertainty < look_at(embedder, Volume(noise), [0]).uncertainty
