"""Starting a server: what cannot be is said before anything is loaded."""

import socket

import pytest

from monailabel_app.lib.serving import read_token, serve
from tests.conftest import REPOSITORY, run_python


def test_a_token_is_long_enough_and_there(tmp_path):
    path = tmp_path / "token"
    with pytest.raises(ValueError, match="token_file .* cannot be read"):
        read_token(path)
    path.write_text("short\n")
    with pytest.raises(ValueError, match="must hold at least 16 characters; `openssl rand -hex 24` makes a secret"):
        read_token(path)
    path.write_text("0123456789abcdef\n")
    assert read_token(path) == "0123456789abcdef"


def test_others_come_only_with_a_token():
    with pytest.raises(ValueError, match=r"host 0\.0\.0\.0 can be reached by others: give --token_file too"):
        serve("0.0.0.0", 8000, None, [])  # noqa: S104  that is what is refused


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--studies", "missing"], "studies must be a folder with images, there is no"),
        (["--studies", ".", "--port", "0"], "port must be a whole number from 1 to 65535, got 0."),
        (["--studies", ".", "--port", "x"], "port must be a whole number from 1 to 65535, got 'x'."),
    ],
)
def test_a_wrong_start_is_a_sentence(tmp_path, arguments, sentence):
    done = run_python(REPOSITORY / "scripts" / "serve.py", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_said_so(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_python(REPOSITORY / "scripts" / "serve.py", "--studies", ".", "--port", port, cwd=tmp_path)
    assert done.returncode == 1
    assert f"Port {port} of 127.0.0.1 cannot be used" in done.stderr
