"""How far a training is."""

import pytest

from monailabel_app.lib.trainers.progress import latest_progress
from sam_lora.files import write_json

SETTINGS = {"minutes": 2, "slices": 0, "device": "cpu", "parent": "none", "training_cases": 3, "held_out_cases": 1}


@pytest.fixture
def folder(tmp_path):
    """Two trainings, of which the second is on its way."""
    for name in ("20260101-000000", "20260102-000000"):
        run = tmp_path / name
        (run / "runs" / "train-1").mkdir(parents=True)
        write_json(run / "settings.json", {**SETTINGS, "name": name})
    write_json(tmp_path / "20260101-000000" / "verdict.json", {"promoted": True, "why": "the first.", "scores": {}})
    return tmp_path


def test_before_the_first_training_there_is_nothing_to_show(tmp_path):
    assert latest_progress(tmp_path) == {}


def test_before_its_first_epoch_all_time_is_left(folder):
    progress = latest_progress(folder)
    assert (progress["model"], progress["epoch"], progress["total_epochs"], progress["seconds_left"]) == (
        "20260102-000000", 0, 1, 120,
    )  # fmt: skip
    assert "promoted" not in progress  # that was the training before


def test_the_epochs_to_come_follow_from_the_time_that_the_first_ones_took(folder):
    rows = [{"seconds": 15.0, "slices": 100}, {"seconds": 30.0, "slices": 200}]
    write_json(folder / "20260102-000000" / "runs" / "train-1" / "history.json", rows)
    progress = latest_progress(folder)
    assert (progress["epoch"], progress["total_epochs"], progress["total_time"], progress["seconds_left"]) == (
        2, 8, "30 s", 90,
    )  # fmt: skip


def test_slices_that_end_a_training_before_its_time_say_how_much_is_left(folder):
    run = folder / "20260102-000000"
    write_json(run / "settings.json", {**SETTINGS, "slices": 500, "name": "20260102-000000"})
    write_json(run / "runs" / "train-1" / "history.json", [{"seconds": 30.0, "slices": 200}])
    progress = latest_progress(folder)
    assert (progress["epoch"], progress["total_epochs"], progress["seconds_left"]) == (1, 2, 45)
    write_json(run / "settings.json", {**SETTINGS, "slices": 10**6, "name": "20260102-000000"})
    assert latest_progress(folder)["seconds_left"] == 90  # the minutes are over first


def test_a_judged_training_has_a_dice_and_no_time_left(folder):
    scores = {"jittered_box": {"champion": 0.7, "challenger": 0.8}}
    verdict = {"promoted": False, "why": "worse by one click.", "scores": scores}
    write_json(folder / "20260102-000000" / "verdict.json", verdict)
    progress = latest_progress(folder)
    assert (progress["best_metric"], progress["seconds_left"], progress["promoted"], progress["why"]) == (
        0.8, 0, False, "worse by one click.",
    )  # fmt: skip
