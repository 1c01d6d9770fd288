"""Commands end with a sentence and an exit code."""

import pytest

from sam_lora import cli
from sam_lora.cases import CaseError


def command(name: str) -> None:
    """Do it."""
    raise CaseError(f"{name} is broken.")


def test_an_error_is_a_sentence_and_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["x.py", "--name", "it"])
    with pytest.raises(SystemExit) as stop:
        cli.run(command, "x.py")
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: it is broken.\n"


def test_wrong_usage_exits_with_2(monkeypatch):
    monkeypatch.setattr("sys.argv", ["x.py"])
    with pytest.raises(SystemExit) as stop:
        cli.run(command, "x.py")
    assert stop.value.code == 2


def wrapped():
    from sam_lora.prompts import check_mode

    try:
        check_mode("x")
    except ValueError as error:
        raise RuntimeError("Failed to instantiate") from error


def test_under_monai_the_sentence_is_found_below_its_wrappers(capsys):
    try:
        wrapped()
    except RuntimeError as error:
        cli._print_sentence(type(error), error, error.__traceback__)
    assert capsys.readouterr().err.startswith("error: prompt_mode must be one of")


def test_other_errors_keep_their_traceback(capsys):
    try:
        int("x")
    except ValueError as error:
        cli._print_sentence(type(error), error, error.__traceback__)
    assert "Traceback" in capsys.readouterr().err


def test_other_programs_keep_their_own_error_handling():
    import sys

    before = sys.excepthook
    cli.errors_as_sentences()
    assert sys.excepthook is before
