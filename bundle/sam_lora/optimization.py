"""How the weights move: learning rates by part and by progress, and gradients made ready for a step."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from torch import nn

DECAYS = ("cosine", "poly", "none")


def parameter_groups(network: nn.Module, learning_rate: float, decoder_learning_rate: float) -> list[dict[str, Any]]:
    """What an optimizer trains: LoRA and label tokens at one rate, whole layers of the decoder at another.

    Args:
        network: what is trained; parameters that require no gradient are left out.
        learning_rate: of what begins without knowing anything and wants large steps: LoRA at zero, all label tokens as
            the same box.
        decoder_learning_rate: of everything else, which begins at published weights.
    """
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    new = [p for name, p in trained if ".lora_" in name or "label_tokens" in name]
    others = [p for name, p in trained if ".lora_" not in name and "label_tokens" not in name]
    groups = [{"params": new, "lr": learning_rate}, {"params": others, "lr": decoder_learning_rate}]
    return [group for group in groups if group["params"]]


def build_optimizer(
    name: str, params: list[dict[str, Any]], weight_decay: float, **options: Any
) -> torch.optim.Optimizer:
    """An optimizer of torch.optim; on a CPU by its fused kernel where it has one, which is faster.

    Args:
        name: of the class.
        params: groups with their rates.
        weight_decay: of all groups.
        options: what else the class takes.
    """
    kind = getattr(torch.optim, name)
    on_cpu = all(p.device.type == "cpu" for group in params for p in group["params"])
    fused = {"fused": True} if on_cpu and "fused" in inspect.signature(kind).parameters else {}
    optimizer: torch.optim.Optimizer = kind(params, weight_decay=weight_decay, **{**fused, **options})
    return optimizer


def rate_factor(progress: float, step: int, warm_up: int, decay: str) -> float:
    """What the learning rates are multiplied with.

    Args:
        progress: of the whole training, 0 to 1.
        step: number of the optimizer step, from 0.
        warm_up: steps over which the factor grows linearly to that of its progress.
        decay: "cosine" (Loshchilov and Hutter 2017), "poly" (power 0.9, as in DeepLab and nnU-Net), or "none".
    """
    rising = min(1.0, (step + 1) / (warm_up + 1))
    if decay == "cosine":
        return rising * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return rising * (1 - min(1.0, progress)) ** 0.9 if decay == "poly" else rising


class LearningRate:
    """Sets the learning rates before each step, from the training's progress alone: a continued run needs no state.

    Args:
        optimizer: its groups' rates at the start are the highest.
        warm_up: see :func:`rate_factor`.
        decay: likewise.
        minutes: that end the training, see :class:`sam_lora.training.TrainingRun`; progress is time then.
        slices: likewise. Where both are given progress is slices: a machine that does other work for a while changes
            nothing, and only where the minutes will be over first, time takes over in their second half.
            Without both it is iterations.

    Raises:
        ValueError: if ``decay`` is unknown.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warm_up: int,
        decay: str,
        minutes: float | None = None,
        slices: int | None = None,
    ) -> None:
        if decay not in DECAYS:
            raise ValueError(f"decay must be one of {', '.join(DECAYS)}, got {decay!r}.")
        self.optimizer, self.warm_up, self.decay = optimizer, warm_up, decay
        self.minutes, self.slices = minutes, slices
        self.highest = [group["lr"] for group in optimizer.param_groups]

    def attach(self, engine: Engine) -> None:
        """Follow the trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set the rates of the coming iteration."""
        done = engine.state.iteration - 1
        steps = done // max(1, getattr(engine, "accumulation_steps", 1))
        factor = rate_factor(self._progress(engine), steps, self.warm_up, self.decay)
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            group["lr"] = highest * factor

    def _progress(self, engine: Engine) -> float:
        state = engine.state
        time = state.seconds / (60 * self.minutes) if self.minutes else 0.0
        if self.slices:
            return max(state.slices / self.slices, 2 * time - 1)
        return time if self.minutes else (state.iteration - 1) / (state.epoch_length * state.max_epochs)


class GradientsReady:
    """Before each optimizer step: average the gradients of all processes, then clip their norm.

    The adapters are small: one message a step is all there is to send, and no wrapper hides the network.

    Args:
        network: what is trained.
        optimizer: its optimizer.
        max_norm: of all gradients together; 0 does not clip.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float) -> None:
        self.network, self.optimizer, self.max_norm = network, optimizer, max_norm

    def attach(self, engine: Engine) -> None:
        """Give all processes the weights of the first, and follow the trainer."""
        if is_distributed():
            for parameter in self._trained():
                dist.broadcast(parameter.detach(), 0)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.network.parameters() if p.requires_grad]

    def __call__(self, engine: Engine) -> None:
        """Work at the end of an accumulation, where the trainer is about to step."""
        if not is_step(engine):
            return
        if is_distributed():
            average_gradients(self._trained())
        if self.max_norm:
            if getattr(engine, "scaler", None) is not None:
                engine.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._trained(), self.max_norm)


def is_distributed() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized()


def is_step(engine: Engine) -> bool:
    """Whether the trainer steps at the end of this iteration: after an accumulation, and at the end of an epoch."""
    length, steps = engine.state.epoch_length, max(1, getattr(engine, "accumulation_steps", 1))
    place = (engine.state.iteration - 1) % length + 1
    return place % steps == 0 or place == length


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their mean over all processes.

    One that is missing in some processes, of a token that nobody asked for there say, counts as zero; one that is
    missing in all stays missing, as it would on one process.
    """
    parameters = list(parameters)
    there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32, device=parameters[0].device)
    flat = torch.cat([there, *((torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters)])
    dist.all_reduce(flat)
    there, *gradients = flat.split([len(parameters), *(p.numel() for p in parameters)])
    for parameter, somewhere, gradient in zip(parameters, there.tolist(), gradients, strict=True):
        parameter.grad = (gradient / dist.get_world_size()).view_as(parameter) if somewhere else None
