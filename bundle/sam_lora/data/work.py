"""Long work over many cases: a progress bar, several processes, and one broken case that stops none of the others."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from sam_lora.files import clear_leftovers, write_json

Job = TypeVar("Job")
Result = TypeVar("Result")
FAILURES = "failures.json"


def do_all(jobs: Sequence[Job], do: Callable[[Job], Result], processes: int) -> list[Result | Exception]:
    """Do every job; an error that is about one job takes the place of its result.

    Args:
        jobs: what ``do`` takes; they travel to other processes, so both must be picklable.
        do: does one job; raises ValueError with a sentence where it cannot.
        processes: how many work at once; 1 stays in this process.

    Returns:
        One result for each job, in order.

    Raises:
        ValueError: if ``processes`` is not a number above 0, or a process was ended from outside.
    """
    if not isinstance(processes, int) or processes < 1:
        raise ValueError(f"processes must be a whole number above 0, got {processes!r}.")
    attempt = partial(_attempt, do)
    if processes == 1 or len(jobs) < 2:
        return [attempt(job) for job in tqdm(jobs, disable=len(jobs) < 2)]
    # Threads of a forked process may hold locks nobody releases: each worker starts anew.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), context, _end_with_parent) as pool:
        try:
            return list(tqdm(pool.map(attempt, jobs), total=len(jobs)))
        except BrokenProcessPool as error:
            raise ValueError(
                "A process was ended while it worked, as a rule for want of memory; what is done is kept. Run it again "
                "with fewer --processes."
            ) from error


def _attempt(do: Callable[[Job], Result], job: Job) -> Result | Exception:
    try:
        return do(job)
    except (ValueError, OSError, MemoryError) as error:
        return error
    except Exception as error:  # noqa: BLE001  a library's, about one file: its text says little without its kind
        return ValueError(f"{type(error).__name__}: {error}")


def _end_with_parent() -> None:
    """Let this worker end when its parent does: one that is killed cannot say so, and its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: wait([parent.sentinel]) and os._exit(1), daemon=True).start()


def run_jobs(
    jobs: Sequence[Job], do: Callable[[Job], Result], name: Callable[[Job], str], folder: Path, processes: int
) -> tuple[dict[str, Result], str | None]:
    """Do every job that writes into a folder; list those that failed.

    Args:
        jobs: see :func:`do_all`.
        do: likewise.
        name: of a job, for the list of failures.
        folder: ``failures.json`` (name -> sentence) goes here; an old one is removed, and so is what a killed run left.
        processes: see :func:`do_all`.

    Returns:
        Name -> result of what succeeded, and a sentence about what failed (None if nothing did).
    """
    (folder / FAILURES).unlink(missing_ok=True)
    clear_leftovers(folder)
    results = dict(zip(map(name, jobs), do_all(jobs, do, processes), strict=True))
    failures = {name: str(result) for name, result in results.items() if isinstance(result, Exception)}
    sentence = None
    if failures:
        write_json(folder / FAILURES, dict(sorted(failures.items())))
        first = min(failures)
        sentence = (
            f"{len(failures)} of {len(jobs)} cases failed, listed in {folder / FAILURES}; the first: {first}: "
            f"{failures[first]}"
        )
    return {n: r for n, r in results.items() if not isinstance(r, Exception)}, sentence
