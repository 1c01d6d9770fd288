"""Work in processes of its own, one of a kind at a time: trainings, scorings, batches."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any

import psutil
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import background_executors, processes

logger = logging.getLogger(__name__)

RUNNING = ("SUBMITTED", "RUNNING")  # MONAI Label's words for what has not ended
_NICE = 10  # a process of this niceness gets a tenth of what one without gets, where they want the same processor
_starting = threading.Lock()  # of two requests at the same moment one starts a task, the other is told that it runs


class TaskRunningError(RuntimeError):
    """A task of this kind is running already."""


def running_task(method: str) -> dict[str, Any] | None:
    """The task of a kind that is running or about to; None where none is."""
    tasks, _ = AsyncTask.status(method, all=True)
    return next((task for task in tasks or [] if task["status"] in RUNNING), None)


def is_running(method: str) -> bool:
    """Whether a task of a kind is running, or about to."""
    return running_task(method) is not None


def start_batch(model: str, images: str, request: dict[str, Any]) -> dict[str, Any]:
    """Start to draw drafts, one image after the other, on the app's own device.

    Args:
        model: that draws.
        images: "all", "labeled" or "unlabeled".
        request: more of what it is to do, checked.

    Raises:
        TaskRunningError: if a batch is running.
    """
    alone = {"multi_gpu": False, "max_workers": 1}  # MONAI Label would count GPUs, and divide by none
    return start_task("batch_infer", {"model": model, "images": images, "save_label": True, **alone, **request})


def stop_task(method: str) -> dict[str, Any] | None:
    """End the task of a kind, and what it has started; None where none is running."""
    try:
        return AsyncTask.stop(method)
    except psutil.NoSuchProcess:  # it ended by itself just now
        return None


def refuse_running(method: str) -> None:
    """Make sure that no task of a kind is running; TaskRunningError if one is."""
    if is_running(method):
        raise TaskRunningError(f"A task of {method} is running already: wait for its end, or stop it.")


def start_task(method: str, request: dict[str, Any]) -> dict[str, Any]:
    """Start a task.

    Args:
        method: train, scoring or batch_infer.
        request: what it is to do, checked.

    Raises:
        TaskRunningError: if one of this kind is running.
    """
    with _starting:
        refuse_running(method)
        step_back = None if method == "train" else _step_back
        background_executors.setdefault(method, _Thread(max_workers=1, initializer=step_back))
        task, reason = AsyncTask.run(method, request=request)
    if task is None:
        raise TaskRunningError(str(reason))
    return dict(task)


class _Thread(ThreadPoolExecutor):
    """Where MONAI Label follows the processes of a kind of task: what it forgets when one fails is done here."""

    def submit(self, follow: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Follow a process in a thread.

        Args:
            follow: MONAI Label's function for it.
            args: the task, its kind, and what else that function takes.
            kwargs: likewise.
        """
        future = super().submit(follow, *args, **kwargs)
        future.add_done_callback(partial(_see_end, *args[:2]))
        return future


def _step_back() -> None:
    """Let clicks and trainings have the processor first: what this thread starts has its priority, on Linux."""
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own, and the server's must stay
        os.nice(_NICE)


def _see_end(task: dict[str, Any], method: str, future: Future[Any]) -> None:
    """Say of a task that failed that it did, and why."""
    error = future.exception()
    if error is not None:
        logger.error("the task of %s cannot be followed any more", method, exc_info=error)
        process = processes(method).pop(task["id"], None)
        if process is not None:
            _end(process.pid)
    if task["status"] in RUNNING:
        task |= {"status": "ERROR", "end_ts": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    if task["status"] == "ERROR":
        said = "Its process ended before its work was done: the lines above are the last it said, the log has all."
        if error is not None:
            said = f"The server could not start its process, or lost it: {error}"
        task.setdefault("details", deque(maxlen=20)).append(said)


def _end(pid: int) -> None:
    """End a process and all that it has started."""
    try:
        for process in (*psutil.Process(pid).children(recursive=True), psutil.Process(pid)):
            process.kill()
    except psutil.NoSuchProcess:  # it ended by itself just now
        return
