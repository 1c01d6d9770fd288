"""An image encoder as a start and a sequence of parts, which can be cut in two anywhere.

What lies below the lowest trained part answers the same to the same image for the whole of a training, so that it can
be computed once (:mod:`sam_lora.trunk`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sam_lora.networks.layers import wants_grad


class EncoderInParts(nn.Module, ABC):
    """Base of the image encoders: a start, then one part per block that holds attention, then the neck.

    Attributes:
        stride: pixels per position of the embedding.
        part_names: names of the modules of each part, which run one after the other.
        late: how many of the last blocks a training adapts that is to be fast.
        gradient_checkpointing: recompute the activations inside each block in the backward pass.
    """

    stride: int
    part_names: list[list[str]]
    late: int

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False

    @property
    def depth(self) -> int:
        """How many blocks hold attention; the neck is part number ``depth``."""
        return len(self.part_names) - 1

    @abstractmethod
    def start(self, image: Tensor) -> Tensor:
        """Image ``(B, 3, S, S)``, normalized and padded -> what the first part takes."""

    def trunk(self, image: Tensor, cut: int) -> Tensor:
        """Run the start and the parts before ``cut``.

        Args:
            image: ``(B, 3, S, S)``, normalized and padded.
            cut: from 0 (the start alone) to ``depth + 1`` (everything, the neck too).

        Returns:
            Activations ``(B, ...)`` for :meth:`rest`; the embedding where ``cut`` is ``depth + 1``.

        Raises:
            ValueError: if there is no such cut.
        """
        self._check(cut)
        return self._run(self.start(image), 0, cut)

    def rest(self, x: Tensor, cut: int) -> Tensor:
        """Run the parts from ``cut`` on: ``rest(trunk(image, cut), cut)`` is ``forward(image)`` at every cut.

        Args:
            x: from :meth:`trunk`.
            cut: as given to it.

        Returns:
            Embedding ``(B, C, S / stride, S / stride)``.

        Raises:
            ValueError: if there is no such cut.
        """
        self._check(cut)
        return self._run(x, cut, len(self.part_names))

    def forward(self, image: Tensor) -> Tensor:
        """``(B, 3, S, S)``, normalized and padded -> embedding ``(B, C, S / stride, S / stride)``."""
        return self.rest(self.trunk(image, 0), 0)

    def trunk_tensors(self, cut: int) -> dict[str, Tensor]:
        """Parameters and buffers that :meth:`trunk` reads, by name."""
        self._check(cut)
        above = tuple(f"{name}." for part in self.part_names[cut:] for name in part)
        return {name: tensor for name, tensor in self.state_dict(keep_vars=True).items() if not name.startswith(above)}

    def _check(self, cut: int) -> None:
        if not 0 <= cut <= self.depth + 1:
            raise ValueError(f"cut must be from 0 to {self.depth + 1}, the number of this encoder's parts, got {cut}.")

    def _run(self, x: Tensor, first: int, last: int) -> Tensor:
        for number in range(first, last):
            modules = [self.get_submodule(name) for name in self.part_names[number]]
            # Only blocks: the neck is small. Where nothing is recorded there is nothing to recompute.
            again = self.gradient_checkpointing and number < self.depth and wants_grad(x, *modules[0].parameters())
            x = checkpoint(_run_modules, modules, x, use_reentrant=False) if again else _run_modules(modules, x)
        return x


def _run_modules(modules: list[nn.Module], x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x
