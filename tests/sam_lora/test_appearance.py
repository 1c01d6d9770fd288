"""The classifier of cells finds what it was shown, and only there."""

import torch

from sam_lora.appearance import EXPECTED, fit_appearance, learn_appearance, score_appearance


def scene(kinds):
    """An embedding ``(1, 6, 12, 12)`` whose cells are of a kind each, noisy, and the mask of kind 1."""
    generator = torch.Generator().manual_seed(int(kinds.sum()))
    directions = torch.eye(6)
    embedding = directions[kinds].permute(2, 0, 1)[None] + 0.1 * torch.randn(1, 6, 12, 12, generator=generator)
    mask = (kinds == 1).repeat_interleave(4, 0).repeat_interleave(4, 1)
    return embedding, mask


def fit(*slices, inside=(12, 12)):
    return fit_appearance([learn_appearance(embedding, mask, inside) for embedding, mask in slices])


def dice(one, other):
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_it_finds_the_object_where_it_has_moved_and_grown():
    kinds = torch.zeros(12, 12, dtype=torch.long)
    kinds[3:6, 4:8], kinds[8:, :] = 1, 2
    weights = fit(scene(kinds))
    moved = torch.zeros(12, 12, dtype=torch.long)
    moved[4:9, 5:11], moved[10:, :] = 1, 2
    embedding, mask = scene(moved)
    assert dice(score_appearance(weights, embedding) > EXPECTED, mask) > 0.9


def test_a_second_slice_teaches_what_the_first_did_not_hold():
    kinds = torch.zeros(12, 12, dtype=torch.long)
    kinds[3:6, 4:8] = 1
    other = kinds.clone()
    other[7:9, 4:8] = 3  # a neighbour that looks a little like the object
    first, (embedding, mask) = scene(kinds), scene(other)
    embedding = embedding.clone()
    embedding[:, 1] += 0.8 * (other == 3)
    alone = score_appearance(fit(first), embedding)
    both = score_appearance(fit(first, (embedding, mask)), embedding)
    neighbour = (other == 3).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert both[neighbour].mean() < alone[neighbour].mean() - 0.2
    assert dice(both > EXPECTED, mask) > 0.9 > dice(alone > EXPECTED, mask)


def test_padding_and_what_is_far_away_teach_nothing():
    kinds = torch.zeros(12, 12, dtype=torch.long)
    kinds[1:3, 1:3] = 1
    embedding, mask = scene(kinds)
    expected = fit((embedding, mask), inside=(8, 12))
    changed = embedding.clone()
    changed[:, :, 8:], changed[:, :, :, 10:] = 100, 100  # rows of padding; columns far from the object
    assert torch.equal(fit((changed, mask), inside=(8, 12)), expected)


def test_an_object_that_fills_everything_is_fitted():
    embedding, mask = scene(torch.ones(12, 12, dtype=torch.long))
    assert (score_appearance(fit((embedding, mask)), embedding) > 0.5).all()
