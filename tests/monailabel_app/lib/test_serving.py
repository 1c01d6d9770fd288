"""Starting a server: what cannot be is said before anything is loaded."""

import asyncio
import resource
import socket
import subprocess
import sys

import pytest
import requests
import uvicorn
from monailabel.utils.async_tasks import utils

from monailabel_app.lib.serving import TASKS, _Server, allow_open_files, read_token, rules_of, serve
from tests.conftest import REPOSITORY, run_python
from tests.monailabel_app.served import served


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
    ("host", "name"), [("192.0.2.7", "192.0.2.7"), ("2001:db8::7", "[2001:db8::7]"), ("127.0.0.1", "localhost")]
)
def test_a_server_may_be_called_by_the_address_it_listens_on(host, name):
    rules = rules_of(host, "t" * 16, ["http://viewer.example"])
    assert name in rules.allowed_hosts
    assert len(set(rules.allowed_hosts)) == len(rules.allowed_hosts) <= 4
    assert (rules.token, rules.allowed_origins) == ("t" * 16, ("http://viewer.example",))


@pytest.mark.parametrize("name", ["http://label.example.org", "label.example.org:8000", "*", "", "a b", "[::1]:80"])
def test_a_name_that_no_client_could_call_it_by_is_refused(name):
    with pytest.raises(ValueError, match="allowed_hosts must be names or addresses, without http:// and port, got"):
        rules_of("127.0.0.1", None, [], [name])


@pytest.mark.accept
def test_a_server_on_an_ipv6_address_answers(tmp_path):
    (tmp_path / "studies").mkdir()
    with served(tmp_path / "studies", "--host", "::1", "--allowed-hosts", "label.example.org,192.0.2.7") as (url, _):
        assert url.startswith("http://[::1]:")
        assert requests.get(f"{url}/info/", timeout=20).status_code == 200
        for host, status in (("label.example.org", 200), ("192.0.2.7:80", 200), ("evil.example", 403)):
            assert requests.get(f"{url}/info/", headers={"Host": host}, timeout=20).status_code == status


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


def test_as_many_files_may_be_open_as_the_user_may():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        allow_open_files()
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert 512 < allowed <= 16384


def test_one_that_ended_by_itself_just_now_keeps_no_other_from_being_ended(monkeypatch):
    async def nothing(_, sockets=None):
        pass

    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr(uvicorn.Server, "shutdown", nothing)
    for method, one in ((TASKS[0], ended), (TASKS[1], process)):
        monkeypatch.setitem(utils.background_tasks, method, [{"id": "1", "status": "RUNNING"}])
        monkeypatch.setitem(utils.background_processes, method, {"1": one})
    asyncio.run(_Server(uvicorn.Config(app=None)).shutdown())
    assert process.wait(10) == -9


@pytest.mark.parametrize("method", TASKS)
def test_what_runs_in_a_process_of_its_own_ends_with_the_server(monkeypatch, method):
    async def nothing(_, sockets=None):
        pass

    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr(uvicorn.Server, "shutdown", nothing)
    monkeypatch.setitem(utils.background_tasks, method, [{"id": "1", "status": "RUNNING"}])
    monkeypatch.setitem(utils.background_processes, method, {"1": process})
    asyncio.run(_Server(uvicorn.Config(app=None)).shutdown())
    assert process.wait(10) == -9
