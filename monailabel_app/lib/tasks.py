"""Work in processes of its own, one of a kind at a time: trainings, scorings, batches."""

from __future__ import annotations

import threading
from typing import Any

import psutil
from monailabel.utils.async_tasks.task import AsyncTask

_starting = threading.Lock()  # of two requests at the same moment one starts a task, the other is told that it runs


class TaskRunningError(RuntimeError):
    """A task of this kind is running already."""


def is_running(method: str) -> bool:
    """Whether a task of a kind is running, or about to."""
    tasks, _ = AsyncTask.status(method, all=True)
    return any(task["status"] in ("SUBMITTED", "RUNNING") for task in tasks or [])


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
        task, reason = AsyncTask.run(method, request=request)
    if task is None:
        raise TaskRunningError(str(reason))
    return dict(task)
