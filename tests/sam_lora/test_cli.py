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
