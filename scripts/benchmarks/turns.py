"""Sides of a comparison that run in turns, each in a process of its own, so that they share the machine's moods."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from json import dumps, loads
from pathlib import Path
from typing import Any

COMMAND = Path(__file__).parents[1] / "benchmark.py"


def in_turns(sides: Sequence[Sequence[str]], turns: int, skipped: int = 0, first: str = "") -> list[dict[str, float]]:
    """Let several sides take turns: A B A B.

    Args:
        sides: arguments of ``benchmark.py`` that start a process which calls :func:`serve`.
        turns: of each side.
        skipped: how many first turns do not count.
        first: what each side is asked for before its turns; "" for nothing.

    Returns:
        Per side the median seconds of a turn and those of the processor, the sum of seconds, and peak memory in GB.
    """
    workers = [
        subprocess.Popen(  # noqa: S603  our own script
            [sys.executable, str(COMMAND), *side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for side in sides
    ]
    try:
        for worker in workers if first else []:
            _ask(worker, first)
        measured: list[list[dict[str, float]]] = [[] for _ in workers]
        for _ in range(turns):
            for worker, times in zip(workers, measured, strict=True):
                times.append(_ask(worker, "turn"))
        peaks = [_ask(worker, "peak")["gb"] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    results = []
    for times, peak in zip(measured, peaks, strict=True):
        seconds, processor = ([t[kind] for t in times[skipped:]] for kind in ("seconds", "processor"))
        results.append(
            {
                "seconds": statistics.median(seconds),
                "processor_seconds": statistics.median(processor),
                "sum_of_seconds": sum(seconds),
                "sum_of_processor_seconds": sum(processor),
                "peak_gb": peak,
            }
        )
    return results


def _ask(worker: subprocess.Popen[str], question: str) -> dict[str, float]:
    if worker.stdin is None or worker.stdout is None:
        raise ValueError("a worker must have been started with pipes.")
    worker.stdin.write(question + "\n")
    worker.stdin.flush()
    answer = worker.stdout.readline()
    if not answer:
        raise ValueError(f"{' '.join(map(str, worker.args[2:]))} ended: see its message above.")  # type: ignore[index]
    return loads(answer)


def serve(actions: Mapping[str, Callable[[], Any]]) -> None:
    """Answer a parent's questions on stdin, one a line, until it ends.

    Args:
        actions: question -> what is done and timed; "peak" is answered with the memory.
    """
    for line in sys.stdin:
        started, processor = time.perf_counter(), time.process_time()
        if line.strip() == "peak":
            answer = {"gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
        else:
            actions[line.strip()]()
            answer = {"seconds": time.perf_counter() - started, "processor": time.process_time() - processor}
        print(dumps(answer), flush=True)
