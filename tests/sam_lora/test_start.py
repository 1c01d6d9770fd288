"""Errors of a bundle run as sentences."""

from sam_lora import start


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
        start._print_sentence(type(error), error, error.__traceback__)
    assert capsys.readouterr().err.startswith("error: prompt_mode must be one of")


def test_other_errors_keep_their_traceback(capsys):
    try:
        int("x")
    except ValueError as error:
        start._print_sentence(type(error), error, error.__traceback__)
    assert "Traceback" in capsys.readouterr().err


def test_other_programs_keep_their_own_error_handling():
    import sys

    before = sys.excepthook
    start.start_run()
    assert sys.excepthook is before
