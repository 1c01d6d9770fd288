"""Files are whole or not there."""

import pytest

from sam_lora.files import read_json, writable_folder, write_aside, write_json


def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError, match="in the middle"):
        _break_off(path)
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def _break_off(path):
    with write_aside(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("in the middle")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError, match="output_dir must be a folder that can be written to, .*file/x is not: Not a directory"
    ):
        writable_folder(tmp_path / "file" / "x", "output_dir")
