"""Which image comes next, and that two users do not get the same one."""

import json

import pytest

from monailabel_app.lib.scoring.seen import SeenFile
from monailabel_app.lib.strategies.unlabelled import Reservations, strategies

IMAGES = ["a", "b", "c", "d"]


class Store:
    def __init__(self, labelled=()):
        self.labelled = list(labelled)

    def get_unlabeled_images(self):
        return [image for image in IMAGES if image not in self.labelled]

    def get_labeled_images(self):
        return self.labelled


def write(path, **rows):
    path.write_text(
        json.dumps({image: {"uncertainty": doubt, "features": list(spot)} for image, (doubt, spot) in rows.items()})
    )


@pytest.fixture
def seen(tmp_path):
    return SeenFile(tmp_path / "seen.json")


@pytest.fixture
def scored(seen):
    write(seen.path, a=(0.1, (1, 0)), b=(0.9, (0.9, 0.1)), c=(0.8, (0, 1)), d=(0.2, (-1, 0)))
    return strategies(seen)


@pytest.mark.parametrize(
    ("strategy", "first"), [("first", "b"), ("uncertainty", "b"), ("diversity", "d"), ("hybrid", "c")]
)
def test_each_strategy_has_its_rule(scored, strategy, first):
    assert scored[strategy]({}, Store(["a"])) == {"id": first}


def test_at_random_every_image_comes_up(scored):
    found = {scored["random"]({"client_id": "me"}, Store(["a"]))["id"] for _ in range(60)}
    assert found == {"b", "c", "d"}


@pytest.mark.parametrize("strategy", ["random", "first", "uncertainty", "diversity", "hybrid"])
def test_before_a_scoring_and_after_the_last_label_they_answer_too(seen, strategy):
    found = strategies(seen)
    assert found[strategy]({}, Store())["id"] in IMAGES
    assert found[strategy]({}, Store(IMAGES)) is None
    seen.path.write_text("{broken")
    assert found[strategy]({}, Store())["id"] in IMAGES


def test_images_that_were_not_looked_at_yet_come_after_the_others(seen):
    write(seen.path, c=(0.5, (1, 0)), d=(None, (0, 1)))
    assert strategies(seen)["uncertainty"]({}, Store()) == {"id": "c"}


def test_two_users_get_two_images_whatever_their_strategies(scored):
    asked = [("uncertainty", "ann"), ("hybrid", "ben"), ("first", "cem")]
    found = [scored[strategy]({"client_id": client}, Store())["id"] for strategy, client in asked]
    assert len(set(found)) == 3
    assert scored["uncertainty"]({"client_id": "ann"}, Store())["id"] == found[0]  # hers is still hers


def test_reservations_end_and_those_without_a_name_are_anybody():
    now = [0.0]
    held = Reservations(seconds=10, now=lambda: now[0])
    assert [held.take("ab", ""), held.take("ab", ""), held.take("ab", "")] == ["a", "b", "a"]
    now[0] = 11
    assert held.take("ab", "x") == "a"
    assert held.take("ab", "y") == "b"
    assert held.take("ab", "x") == "a"
    assert held.take("", "x") is None
