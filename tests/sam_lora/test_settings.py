"""Names and values of the command line, checked before any work."""

import pytest
from monai.bundle import ConfigParser

from sam_lora.settings import RULES, check_names, check_values
from tests.conftest import BUNDLE

TRAIN, EVALUATE, INFERENCE = (str(BUNDLE / "configs" / f"{n}.json") for n in ("train", "evaluate", "inference"))


def test_the_configs_own_values_are_right_and_every_rule_is_of_a_setting():
    known = set()
    for path in (TRAIN, EVALUATE, INFERENCE):
        content = ConfigParser.load_config_file(path)
        check_values(content)
        known |= content.keys()
    assert known >= RULES.keys()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("epochs", 0, "a whole number of at least 1, got 0"),
        ("epochs", "abc", "a whole number of at least 1, got 'abc'"),
        ("batch_size", True, "a whole number of at least 1, got True"),
        ("image_size", 64.0, "a whole number of at least 1, got 64.0"),
        ("seed", -1, "a whole number of at least 0, got -1"),
        ("learning_rate", 0, "a number above 0, got 0"),
        ("box_jitter", "abc", "a number of at least 0, got 'abc'"),
        ("protocols", 3, "a list of protocols, .* got 3"),
        ("max_clicks", 11, "a whole number from 0 to 10, got 11"),
        ("save_masks", "yes", "True or False, got 'yes'"),
        ("dataset_dir", 2024, "a path or name, got 2024"),
        ("task_name", "a/b", "a name without slashes, got 'a/b'"),
        ("intensity", "window", "like .*window.*, got 'window'"),
        ("device", "cuda:77", "a device of this machine, like cpu or cuda:0, got 'cuda:77'"),
    ],
)
def test_an_impossible_value_is_refused(name, value, words):
    with pytest.raises(ValueError, match=f"{name} must be {words}"):
        check_values({name: value})


def test_nulls_and_expressions_are_passed_over():
    check_values({"epochs": None, "device": "$'cuda'", "learning_rate": "@rate"})


def test_an_option_that_overrides_nothing_is_refused():
    check_names(
        ["run", "--config_file", TRAIN, "--rank", "8", "--train#trainer#max_epochs", "2", "--tracking", "mlflow"]
    )
    check_names(["run", f"--config_file={TRAIN}", "--train::trainer::max_epochs=2"])
    with pytest.raises(ValueError, match="There is no setting 'learnin_rate'; 'learning_rate' is near"):
        check_names(["run", "--config_file", f"['{TRAIN}']", "--learnin_rate", "5"])
    with pytest.raises(ValueError, match="There is no setting 'rank'"):
        check_names(["run", "--config_file", INFERENCE, "--rank", "8"])
