"""Long work over many cases: a progress bar, several processes, and one broken case that stops none of the others."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from sam_lora.files import write_json

Job = TypeVar("Job")
FAILURES = "failures.json"


def run_jobs(
    jobs: Sequence[Job], do: Callable[[Job], None], name: Callable[[Job], str], folder: Path, processes: int
) -> None:
    """Do every job; at the end say which failed.

    Args:
        jobs: what ``do`` takes; they travel to other processes, so both must be picklable.
        do: does one job; raises ValueError with a sentence where it cannot.
        name: of a job, for the list of failures.
        folder: ``failures.json`` (name -> sentence) goes here; an old one is removed.
        processes: how many work at once; 1 stays in this process.

    Raises:
        ValueError: after all jobs, if some failed, naming the first.
    """
    (folder / FAILURES).unlink(missing_ok=True)
    for left in folder.glob(".*.part"):  # what a killed run was writing; nobody else writes here
        left.unlink()
    failures = _in_turn(jobs, do, name) if processes <= 1 or len(jobs) < 2 else _at_once(jobs, do, name, processes)
    if failures:
        write_json(folder / FAILURES, dict(sorted(failures.items())))
        first = min(failures)
        raise ValueError(
            f"{len(failures)} of {len(jobs)} cases failed, listed in {folder / FAILURES}; the first: {first}: "
            f"{failures[first]}"
        )


def _in_turn(jobs: Sequence[Job], do: Callable[[Job], None], name: Callable[[Job], str]) -> dict[str, str]:
    failures = {}
    for job in tqdm(jobs, disable=len(jobs) < 2):
        try:
            do(job)
        except (ValueError, OSError) as error:
            failures[name(job)] = str(error)
    return failures


def _at_once(
    jobs: Sequence[Job], do: Callable[[Job], None], name: Callable[[Job], str], processes: int
) -> dict[str, str]:
    failures = {}
    # Threads of a forked process may hold locks nobody releases: each worker starts anew.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
        futures = {pool.submit(do, job): job for job in jobs}
        for future in tqdm(as_completed(futures), total=len(jobs)):
            failed = future.exception()
            if isinstance(failed, ValueError | OSError):
                failures[name(futures[future])] = str(failed)
            elif failed is not None:
                raise failed
    return failures
