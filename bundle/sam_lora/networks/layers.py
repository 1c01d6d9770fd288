"""Small layers that several parts of SAM share."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm2d(nn.LayerNorm):
    """Layer normalization over the channels of an image-shaped tensor, eps 1e-6 as in ConvNeXt (Liu et al. 2022)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C, H, W)``, each pixel normalized over C."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MLPBlock(nn.Module):
    """Linear, activation, linear, as inside a transformer block.

    Args:
        channels: width of input and output.
        hidden: width between the two linear layers.
        activation: ``nn.GELU`` in the image encoder, ``nn.ReLU`` in the mask decoder.
    """

    def __init__(self, channels: int, hidden: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.lin1 = nn.Linear(channels, hidden)
        self.lin2 = nn.Linear(hidden, channels)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        """``(..., channels)`` -> ``(..., channels)``."""
        return self.lin2(self.act(self.lin1(x)))


class MLP(nn.Module):
    """A stack of linear layers with ReLU between them (heads of the mask decoder).

    Args:
        in_channels: width of the input.
        hidden: width of every layer but the last.
        out_channels: width of the output.
        depth: number of linear layers.
    """

    def __init__(self, in_channels: int, hidden: int, out_channels: int, depth: int) -> None:
        super().__init__()
        widths = [in_channels, *[hidden] * (depth - 1), out_channels]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_channels)`` -> ``(..., out_channels)``."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def neck(in_channels: int, out_channels: int) -> nn.Sequential:
    """The convolutions that turn encoder features into the embedding the mask decoder reads."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    )


def to_windows(x: Tensor, size: int) -> Tensor:
    """Cut ``(B, H, W, C)`` into windows ``(B * H/size * W/size, size * size, C)``; H and W are multiples of size."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // size, size, width // size, size, channels)
    return x.transpose(2, 3).reshape(-1, size * size, channels)


def from_windows(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    """Undo :func:`to_windows`: ``(B * H/size * W/size, size * size, C)`` -> ``(B, H, W, C)``."""
    channels = windows.shape[-1]
    x = windows.view(-1, height // size, width // size, size, size, channels)
    return x.transpose(2, 3).reshape(-1, height, width, channels)


def padded(length: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is at least ``length``."""
    return -(-length // multiple) * multiple


def wants_grad(*tensors: Tensor) -> bool:
    """Whether autograd would record an operation on these tensors."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
