"""LiteMedSAM's image encoder: TinyViT with a stride of 4, as distilled from MedSAM's ViT-B at 256 pixels.

Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers" (2022); Ma et al., "Segment Anything
in Medical Images" (2024), branch LiteMedSAM. It differs from TinyViT as published: patch embedding by 1 x 1
convolutions at full resolution, and no down-sampling before the last stage. Parameter names are LiteMedSAM's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_lora.networks.attention import attend_with_bias
from sam_lora.networks.layers import from_windows, neck, padded, to_windows
from sam_lora.networks.parts import EncoderInParts

WIDTHS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
HEADS = (2, 4, 5, 10)
WINDOWS = (7, 7, 14, 7)


class Conv2dBN(nn.Module):
    """Convolution and batch norm in one product: the norm's running statistics are folded into the weight.

    The norm is frozen by construction: its statistics are read and never updated, in training too, because
    adapters are trained on few images. What remains is a convolution with bias, whatever the mode.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` -> ``(B, out_channels, ceil(H / stride), ceil(W / stride))``."""
        bn = self.bn
        mean, variance = bn.get_buffer("running_mean"), bn.get_buffer("running_var")
        scale = bn.weight * torch.rsqrt(variance + bn.eps)
        bias = bn.bias - mean * scale
        return F.conv2d(
            x, self.c.weight * scale[:, None, None, None], bias, self.c.stride, self.c.padding, groups=self.c.groups
        )


class PatchEmbed(nn.Module):
    """Two 1 x 1 convolutions: one vector per pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(Conv2dBN(3, width // 2), nn.GELU(), Conv2dBN(width // 2, width))

    def forward(self, image: Tensor) -> Tensor:
        """``(B, 3, S, S)`` -> ``(B, width, S, S)``."""
        return self.seq(image)


class MBConv(nn.Module):
    """Inverted bottleneck: widen by 4, depth-wise 3 x 3, narrow, residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = Conv2dBN(width, 4 * width)
        self.conv2 = Conv2dBN(4 * width, 4 * width, kernel=3, groups=4 * width)
        self.conv3 = Conv2dBN(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, width, H, W)`` -> ``(B, width, H, W)``."""
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class PatchMerging(nn.Module):
    """Change width and, with stride 2, halve the resolution."""

    def __init__(self, width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv2dBN(width, out_width)
        self.conv2 = Conv2dBN(out_width, out_width, kernel=3, stride=stride, groups=out_width)
        self.conv3 = Conv2dBN(out_width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, width, H, W)`` -> ``(B, out_width, H / stride, W / stride)``, rounded up."""
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class Attention(nn.Module):
    """Multi-head attention inside windows, with one learned bias per head and offset (|dy|, |dx|).

    Args:
        width: channels of input and output.
        num_heads: heads; each has ``width / num_heads`` channels.
        window_size: side of the window in positions.
    """

    bias_index: Tensor

    def __init__(self, width: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads, self.window_size = num_heads, window_size
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window_size**2))
        y, x = torch.arange(window_size**2) // window_size, torch.arange(window_size**2) % window_size
        index = (y[:, None] - y).abs() * window_size + (x[:, None] - x).abs()
        self.register_buffer("bias_index", index, persistent=False)

    def qkv_rows(self, part: str) -> Tensor:
        """Rows of ``qkv.weight`` that make ``part``, one of "q", "k", "v": the layout is ``[q_h | k_h | v_h]`` per head."""
        width = self.proj.in_features
        channels = width // self.num_heads
        rows = torch.arange(3 * width).view(self.num_heads, 3, channels)
        return rows[:, "qkv".index(part)].flatten()

    def forward(self, x: Tensor) -> Tensor:
        """Windows ``(B, window_size ** 2, C)`` -> ``(B, window_size ** 2, C)``."""
        batch, positions, width = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, positions, self.num_heads, 3, width // self.num_heads)
        q, k, v = qkv.permute(3, 0, 2, 1, 4)
        bias = self.attention_biases[:, self.bias_index].to(q.dtype)[None]
        out = attend_with_bias(q, k, v, bias)
        return self.proj(out.transpose(1, 2).reshape(batch, positions, width))


class Mlp(nn.Module):
    """Normalization, linear, GELU, linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., width)`` -> ``(..., width)``."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class TinyViTBlock(nn.Module):
    """Window attention, depth-wise convolution, MLP."""

    def __init__(self, width: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.attn = Attention(width, num_heads, window_size)
        self.mlp = Mlp(width)
        self.local_conv = Conv2dBN(width, width, kernel=3, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C, H, W)``."""
        _, _, height, width = x.shape
        size = self.attn.window_size
        high, wide = padded(height, size), padded(width, size)
        tokens = x.permute(0, 2, 3, 1)
        windows = to_windows(F.pad(tokens, (0, 0, 0, wide - width, 0, high - height)), size)
        attended = from_windows(self.attn(windows), size, high, wide)[:, :height, :width]
        x = self.local_conv((tokens + attended).permute(0, 3, 1, 2))
        tokens = x.permute(0, 2, 3, 1)
        return (tokens + self.mlp(tokens)).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Holds the blocks of one width and the change to the next stage's width, where there is one; the encoder runs them."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample


class TinyViT(EncoderInParts):
    """Image of S pixels a side (any multiple of 4; trained at 256) -> embedding of S / 4 positions a side.

    Attention is windowed with offset biases only, so no position has to be interpolated for another image size. The
    first stage, which has no attention, belongs to the start; a change of width belongs to the block before it.

    Args:
        out_channels: channels of the embedding.
    """

    stride = 4
    late = DEPTHS[-1]

    def __init__(self, out_channels: int = 256) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(WIDTHS[0])
        stages: list[nn.Module] = []
        for i, (width, depth, heads, window) in enumerate(zip(WIDTHS, DEPTHS, HEADS, WINDOWS, strict=True)):
            blocks: list[nn.Module] = [TinyViTBlock(width, heads, window) if i else MBConv(width) for _ in range(depth)]
            last = i == len(WIDTHS) - 1
            merge = None if last else PatchMerging(width, WIDTHS[i + 1], stride=2 if i < 2 else 1)
            stages.append(Stage(blocks, merge))
        self.layers = nn.ModuleList(stages)
        self.neck = neck(WIDTHS[-1], out_channels)
        self.part_names = [*(part for stage in range(1, len(DEPTHS)) for part in _parts_of(stage)), ["neck"]]

    def start(self, image: Tensor) -> Tensor:
        """``(B, 3, S, S)``, normalized and padded -> ``(B, 128, S / 2, S / 2)``."""
        # Channels last lets window partition and linear layers read the convolutions' output without a copy.
        x = self.patch_embed(image.contiguous(memory_format=torch.channels_last))
        for name in _modules_of(0):
            x = self.get_submodule(name)(x)
        return x

    def rest(self, x: Tensor, cut: int) -> Tensor:
        """As :meth:`EncoderInParts.rest`; activations that were stored in another memory order run as fast."""
        return super().rest(x.contiguous(memory_format=torch.channels_last), cut)


def _modules_of(stage: int) -> list[str]:
    """Names of a stage's modules in the order in which they run."""
    merge = [] if stage == len(DEPTHS) - 1 else [f"layers.{stage}.downsample"]
    return [*(f"layers.{stage}.blocks.{i}" for i in range(DEPTHS[stage])), *merge]


def _parts_of(stage: int) -> list[list[str]]:
    """A stage's blocks, the last one with the change of width."""
    names, depth = _modules_of(stage), DEPTHS[stage]
    return [*([name] for name in names[: depth - 1]), names[depth - 1 :]]
