"""What every method is given and what it gives back, so that all of them are timed and measured alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cohorts import Entry
from sam_lora.cases import Case, read_case
from sam_lora.embedding import Embedder
from sam_lora.evaluation import Answer, CaseTruth, EvaluationRules
from sam_lora.evaluation.segmenting import segment_case
from sam_lora.networks import Sam


@dataclass(frozen=True)
class Job:
    """One training.

    Args:
        cases: the training cases.
        labels: value -> name.
        seconds: how long the training may take.
        seed: of everything that is drawn.
        folder: where the method leaves what it has learned, and finds it again.
        min_pixels: objects smaller than this are left out.
        settings: what differs from the method's own settings.
        validation: cases to follow the training on, out of its own time; none by default.
    """

    cases: Sequence[Entry]
    labels: Mapping[int, str]
    seconds: float
    seed: int
    folder: Path
    min_pixels: int = 10
    settings: Mapping[str, Any] = field(default_factory=dict)
    validation: Sequence[Entry] = ()


# Answers a case's protocols; what the truth holds beyond the prompts of the protocols is not looked at.
Segmenter = Callable[[CaseTruth, EvaluationRules], dict[str, Answer]]


@dataclass(frozen=True)
class Method:
    """How something is trained and measured.

    Args:
        title: in tables.
        train: does a job; returns ``{"seconds": of training, "slices": images passed through the network}``.
        load: what :attr:`train` left in a job's folder.
        automatic: whether it also segments without prompts.
        ours: whether it is one of the presets that the choice is made among.
        by_parts: whether it is trained and asked by the parts of objects where the settings say so.
        prompted: whether it takes boxes; what does not runs where it is named.
    """

    title: str
    train: Callable[[Job], dict[str, Any]]
    load: Callable[[Job], Segmenter]
    automatic: bool = False
    ours: bool = False
    by_parts: bool = True
    prompted: bool = True


def sam_segmenter(network: Sam) -> Segmenter:
    """A promptable network as it is measured: asked as it is served."""
    return partial(segment_case, Embedder(network))


def read_cases(job: Job) -> list[Case]:
    """The job's training cases."""
    return [read_case(entry) for entry in job.cases]


def objects_of(cases: Sequence[Case], min_pixels: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every object of every slice: the slice's image ``(H, W[, 3])``, uint8, and the object's mask ``(H, W)``, bool."""
    return [
        (case.image[k], case.label[k] == value)
        for case in cases
        if case.label is not None
        for k in range(len(case.image))
        for value in np.unique(case.label[k])
        if value and (case.label[k] == value).sum() >= min_pixels
    ]


def as_image(image: np.ndarray) -> Tensor:
    """A slice ``(H, W)`` or ``(H, W, 3)``, uint8, as networks take it: ``(3, H, W)``, float32 in [0, 255]."""
    tensor = torch.from_numpy(image.astype(np.float32))
    return tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor.expand(3, -1, -1)


def train_for(
    seconds: float,
    batches: Iterator[Any],
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Any], Tensor],
    batch_size: int,
) -> dict[str, Any]:
    """Train until the time is over; the learning rate falls to zero with it, by a power of 0.9.

    Args:
        seconds: of training.
        batches: without end.
        optimizer: holds the rate to start with.
        loss_of: a batch -> its loss.
        batch_size: images in a batch.

    Returns:
        Seconds taken and images seen.
    """
    started, steps = time.perf_counter(), 0
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: _left(started, seconds) ** 0.9)
    while _left(started, seconds) > 0:
        optimizer.zero_grad(set_to_none=True)
        loss_of(next(batches)).backward()
        optimizer.step()
        schedule.step()
        steps += 1
    return {"seconds": time.perf_counter() - started, "slices": steps * batch_size}


def _left(started: float, seconds: float) -> float:
    """The share of the time that is left, 1 to 0."""
    return max(0.0, 1 - (time.perf_counter() - started) / seconds)
