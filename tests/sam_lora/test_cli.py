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


def test_help_says_what_each_argument_means(monkeypatch, capsys):
    def do(case: str, size: int = 3, tag: str | None = None) -> None:
        """Do it to CASE.

        Args:
            case: what it is done to.
            size: in pixels.
            tag: its name.
        """

    monkeypatch.setattr("sys.argv", ["x.py", "do", "--help"])
    cli.run({"do": do}, "x.py")
    assert capsys.readouterr().out.splitlines() == [
        "x.py do CASE [OPTIONS]", "", "Do it to CASE.", "", "  CASE    what it is done to.", "  --size  in pixels. [3]",
        "  --tag   its name.",
    ]  # fmt: skip
    for words in ([], ["--help"], ["no", "--help"]):
        monkeypatch.setattr("sys.argv", ["x.py", *words])
        cli.run({"do": do}, "x.py")
        assert capsys.readouterr().out.splitlines() == [
            "x.py COMMAND, one of:",
            "",
            "  do  Do it to CASE.",
            "",
            "x.py COMMAND --help says more.",
        ]
