"""Low-rank adaptation of linear layers (Hu et al. 2021, https://arxiv.org/abs/2106.09685). Knows torch only.

``y = x W^T + b + (alpha / rank) * (x A^T) B^T`` with ``A (rank, in)`` random and ``B (out, rank)`` zero at the start,
so that an adapted layer begins as the layer it adapts, bit for bit. A fused projection gets one pair (A, B) per part
("q", "v"), and each part says which output rows it writes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LORA_PREFIX = "lora_"


class LoRALinear(nn.Linear):
    """A linear layer that also holds low-rank updates; its weight and bias keep their names in a state dict.

    Args:
        linear: the layer to adapt. Its parameters are shared, not copied.
        parts: part name -> rows of the weight it updates, a 1-D integer tensor; None for all rows.
        rank: inner width of each update, 1 to the smaller side of the part.
        alpha: the update is scaled by ``alpha / rank``.

    Raises:
        ValueError: if the rank does not fit the layer.
    """

    def __init__(self, linear: nn.Linear, parts: Mapping[str, Tensor | None], rank: int, alpha: float) -> None:
        nn.Module.__init__(self)  # not Linear's own, which would draw a weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight
        self.register_parameter("bias", linear.bias)
        self.rank, self.alpha = rank, alpha
        self.parts = tuple(parts)
        for part, rows in parts.items():
            out_features = linear.out_features if rows is None else len(rows)
            largest = min(out_features, linear.in_features)
            if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= largest:
                raise ValueError(
                    f"rank must be a whole number from 1 to {largest}, the smaller side of this layer, got {rank!r}."
                )
            lora_a = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
            nn.init.kaiming_uniform_(lora_a, a=math.sqrt(5))
            self.register_parameter(f"lora_a_{part}", lora_a)
            self.register_parameter(f"lora_b_{part}", nn.Parameter(linear.weight.new_zeros(out_features, rank)))
            rows = torch.arange(linear.out_features) if rows is None else rows
            self.register_buffer(f"rows_{part}", rows.to(linear.weight.device), persistent=False)

    @property
    def scaling(self) -> float:
        """What the product of B and A is multiplied with: ``alpha / rank``."""
        return self.alpha / self.rank

    def factors(self) -> tuple[Tensor, Tensor]:
        """All parts side by side: A ``(rank * parts, in)`` and, scaled and in its rows, B ``(out, rank * parts)``."""
        lora_a = torch.cat([getattr(self, f"lora_a_{part}") for part in self.parts])
        lora_b = lora_a.new_zeros(self.out_features, len(lora_a))
        for i, part in enumerate(self.parts):
            rows, columns = getattr(self, f"rows_{part}"), slice(i * self.rank, (i + 1) * self.rank)
            lora_b[rows, columns] = getattr(self, f"lora_b_{part}") * self.scaling
        return lora_a, lora_b

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` -> ``(..., out_features)``."""
        lora_a, lora_b = self.factors()
        if not torch.is_grad_enabled():
            return F.linear(x, self.weight + lora_b @ lora_a, self.bias)  # one product less over all positions
        return super().forward(x) + F.linear(F.linear(x, lora_a), lora_b)

    def merged(self) -> nn.Linear:
        """A plain linear layer with the same output; nothing is shared with this one."""
        lora_a, lora_b = self.factors()
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        with torch.no_grad():  # one pass over the weight, and no product of its size beside it
            linear.weight = nn.Parameter(torch.addmm(self.weight, lora_b, lora_a), requires_grad=False)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        return linear.train(self.training)

    def extra_repr(self) -> str:
        """What ``print`` shows beside the class name."""
        return f"{super().extra_repr()}, parts={self.parts}, rank={self.rank}, alpha={self.alpha}"


def inject_lora(network: nn.Module, name: str, parts: Mapping[str, Tensor | None], rank: int, alpha: float) -> None:
    """Replace the linear layer called ``name`` in ``network`` by a :class:`LoRALinear` that shares its parameters."""
    linear = network.get_submodule(name)
    if not isinstance(linear, nn.Linear) or isinstance(linear, LoRALinear):
        raise ValueError(f"{name} must be a plain linear layer to be adapted, it is a {type(linear).__name__}.")
    network.set_submodule(name, LoRALinear(linear, parts, rank, alpha).train(linear.training))


def merge_lora(network: nn.Module) -> None:
    """Replace every :class:`LoRALinear` in ``network`` by the plain layer it amounts to: inference costs nothing extra."""
    for name, module in list(network.named_modules()):
        if isinstance(module, LoRALinear):
            network.set_submodule(name, module.merged())


def lora_parameter_names(network: nn.Module) -> set[str]:
    """Names of all LoRA parameters in ``network``."""
    return {
        f"{module_name}.{name}"
        for module_name, module in network.named_modules()
        if isinstance(module, LoRALinear)
        for name, _ in module.named_parameters(recurse=False)
        if name.startswith(LORA_PREFIX)
    }
