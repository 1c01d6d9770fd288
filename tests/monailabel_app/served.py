"""A server in a process of its own, as `scripts/serve.py` starts it, and the clients that talk to it."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path

from tests.conftest import REPOSITORY


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(studies, *options, log=None):
    """Start the server and wait until it is ready; gives its address and process, and ends it by its own pid."""
    port, log = free_port(), log or studies.parent / "server.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, REPOSITORY / "scripts" / "serve.py", "--studies", studies, "--port", str(port), *options],
            stdout=subprocess.PIPE, stderr=file, encoding="utf-8", env={**os.environ},
        )  # fmt: skip
    with ended(process):
        said = iter(process.stdout.readline, "")  # libraries print too
        ready = next((line for line in said if line.startswith("ready: ")), None)
        assert ready, log.read_text(encoding="utf-8")[-3000:]
        yield ready.removeprefix("ready: ").strip(), process


@contextmanager
def ended(process):
    """End a server by its own pid, whatever happens meanwhile."""
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def monailabel_file(ending):
    """The file that comes with MONAI Label, outside of its package."""
    found = next(file for file in distribution("monailabel").files if str(file).endswith(ending))
    return Path(str(distribution("monailabel").locate_file(found))).resolve()


def slicer_client():
    """The class that 3D Slicer's module uses, from the file that comes with MONAI Label."""
    path = monailabel_file("MONAILabelLib/client.py")
    spec = importlib.util.spec_from_file_location("slicer_client", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MONAILabelClient


def wait_for(condition, seconds=120):
    """Ask until it is so; the last answer."""
    until = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.5)
    return found
