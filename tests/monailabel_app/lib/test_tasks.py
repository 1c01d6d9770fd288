"""Processes in the background: whatever becomes of one, its status says so."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from monailabel.utils.async_tasks import utils
from monailabel.utils.async_tasks.task import AsyncTask

from monailabel_app.lib.http.tasks import task_routes
from monailabel_app.lib.tasks import is_running, start_task, stop_task
from tests.monailabel_app.served import wait_for


class App:
    """Stands for the app that is to do the work; its process is replaced by ``started``'s."""

    info = staticmethod(dict)
    bundle_path = staticmethod(lambda _: None)


def forget():
    for executor in utils.background_executors.values():
        executor.shutdown()
    for kept in (utils.background_tasks, utils.background_processes, utils.background_executors):
        kept.clear()


@pytest.fixture
def started(monkeypatch):
    """Starts a scoring whose process runs this Python code; gives what the status says of it."""
    forget()
    monkeypatch.setattr("monailabel.utils.async_tasks.task.app_instance", App)
    monkeypatch.setenv("PYTHONPATH", "")
    popen, processes = subprocess.Popen, []

    def start(code):
        def process(_, **options):
            processes.append(popen([sys.executable, "-c", code], **options))
            return processes[-1]

        monkeypatch.setattr(subprocess, "Popen", process)
        start_task("scoring", {"method": "uncertainty"})
        return lambda: AsyncTask.status("scoring")[0], processes

    yield start
    for process in processes:
        process.kill()
        process.wait()
    forget()


def test_one_that_ends_well_is_done(started):
    status, _ = started("print('looked at all')")
    assert wait_for(lambda: not is_running("scoring"), 20)
    assert (status()["status"], list(status()["details"])) == ("DONE", ["looked at all"])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_a_training_has_the_processor_before_scorings_and_batches(started):
    status, _ = started("import os; print(os.nice(0))")
    assert wait_for(lambda: not is_running("scoring"), 20)
    start_task("train", {})
    assert wait_for(lambda: not is_running("train"), 20)
    assert list(AsyncTask.status("train")[0]["details"]) == [str(os.nice(0))]
    assert list(status()["details"]) == [str(min(19, os.nice(0) + 10))]


def test_one_that_is_killed_has_failed_with_a_sentence(started):
    status, processes = started("import time; print('begun', flush=True); time.sleep(600)")
    assert wait_for(lambda: "begun" in status().get("details", ()), 20)
    processes[0].kill()
    assert wait_for(lambda: not is_running("scoring"), 20)
    assert wait_for(lambda: len(status()["details"]) == 2, 20)
    assert status()["status"] == "ERROR"
    assert status()["details"][-1].startswith("Its process ended before its work was done")


def test_one_that_is_stopped_has_not_failed(started):
    status, _ = started("import time; print('begun', flush=True); time.sleep(600)")
    assert wait_for(lambda: "begun" in status().get("details", ()), 20)
    assert stop_task("scoring")["status"] == "STOPPED"
    assert status()["status"] == "STOPPED"
    assert not is_running("scoring")


def test_one_that_cannot_be_started_has_failed_with_a_sentence(started, monkeypatch):
    monkeypatch.delenv("PYTHONPATH")  # MONAI Label's thread ends at that, and tells nobody
    status, _ = started("")
    assert wait_for(lambda: not is_running("scoring"), 20)
    assert status()["status"] == "ERROR"
    assert status()["end_ts"]
    assert list(status()["details"]) == ["The server could not start its process, or lost it: 'PYTHONPATH'"]


def test_one_that_cannot_be_followed_is_ended_with_its_children_and_has_failed(started, tmp_path):
    child = (
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    )
    said = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); sys.stdout.buffer.write(bytes([255, 10])); "
    status, processes = started(f"{child}; {said} sys.stdout.flush(); time.sleep(600)")
    assert wait_for(lambda: not is_running("scoring"), 20)
    assert wait_for(lambda: status().get("details"), 20)
    assert status()["status"] == "ERROR"
    assert "can't decode byte 0xff" in status()["details"][-1]
    assert processes[0].wait(20) == -9
    child = int(Path(tmp_path / "pid").read_text())
    assert wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie", 20)
    assert not utils.processes("scoring")  # the next one can be started


def test_one_whose_process_has_not_started_yet_runs_for_whoever_asks(started, monkeypatch):
    asked = TestClient(FastAPI())
    asked.app.include_router(task_routes(App()))
    may_start = threading.Event()
    follow = utils._task_func
    monkeypatch.setattr(utils, "_task_func", lambda *args: may_start.wait(20) and follow(*args))
    started("print('begun late')")
    url = "/scoring/?check_if_running=true"
    assert (asked.get(url).status_code, asked.get(url).json()["status"]) == (200, "SUBMITTED")
    may_start.set()
    assert wait_for(lambda: asked.get(url).status_code == 404, 20)
    assert asked.get(url).json() == {"detail": "No task of scoring is running."}
