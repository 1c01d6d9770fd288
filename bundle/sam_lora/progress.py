"""What one sees while a training runs."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine
from ignite.handlers import ProgressBar

NO_END = 10**6  # epochs of a training that ends by time or slices


class TrainingProgress(ProgressBar):
    """A bar per epoch on stderr: loss, speed, time left."""

    def __init__(self) -> None:
        super().__init__(bar_format="{desc} {n_fmt}/{total_fmt} |{bar}| {rate_fmt}, {remaining} left{postfix}")

    @staticmethod
    def _get_max_number_events(event_name: str, engine: Engine) -> int | None:
        """Where time or slices end a training, the number of epochs says nothing."""
        number = ProgressBar._get_max_number_events(event_name, engine)
        return None if number is None or number >= NO_END else number

    def attach(self, engine: Engine, *_: Any, **__: Any) -> None:
        """Show the loss of each iteration."""
        super().attach(engine, output_transform=lambda output: {"loss": loss_of(output)})


def loss_of(output: Any) -> float:
    """The loss in an engine's output, which MONAI gives once, or once per image of the batch."""
    first = output[0] if isinstance(output, list) else output
    return float(first["loss"])
