"""SAM's image encoder: a plain vision transformer with windowed attention and relative positions.

Kirillov et al., "Segment Anything" (2023), section A; Li et al., "Exploring Plain Vision Transformer Backbones for
Object Detection" (2022). Parameter names are those of the official checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_lora.networks.layers import MLPBlock, from_windows, neck, padded, to_windows, wants_grad
from sam_lora.networks.parts import EncoderInParts

QUERY_CHUNK = 1024  # queries per step of the chunked attention: 16 MB of bias at 4096 keys; 512 and 4096 were slower


class PatchEmbed(nn.Module):
    """Non-overlapping patches, each mapped to one vector."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """``(B, 3, S, S)`` -> ``(B, S/patch, S/patch, width)``."""
        return self.proj(image).permute(0, 2, 3, 1)


def relative_table(rel_pos: Tensor, length: int) -> Tensor:
    """Look up the relative position of every query-key pair along one axis.

    Args:
        rel_pos: learned table ``(2 * native - 1, C)``, entry ``native - 1`` being offset 0; interpolated linearly
            where ``length`` is not the native length, as official SAM does.
        length: positions along the axis.

    Returns:
        ``(length, length, C)``: query position, key position, channel.
    """
    if rel_pos.shape[0] != 2 * length - 1:
        rel_pos = F.interpolate(rel_pos.T[None], size=2 * length - 1, mode="linear")[0].T
    position = torch.arange(length, device=rel_pos.device)
    return rel_pos[position[:, None] - position[None, :] + length - 1]


def attend(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Attention with SAM's decomposed relative positions, without a score matrix of all queries and keys.

    The bias of query q and key (y, x) is ``rel_h[q, y] + rel_w[q, x]``, a dot product of ``[rel_h, rel_w]`` with two
    one-hot vectors, so appending those to query and key makes it plain attention, exactly. The values are padded to
    the longer width because fused kernels want equal widths. On a CPU without gradients the bias of a few
    queries of one head at a time is cheaper than the longer dot product, once there are many keys.

    Args:
        q: queries ``(B, heads, h * w, d)``; k and v have the same shape, keys in row-major order.
        k: keys.
        v: values.
        rel_h: ``(B, heads, h * w, h)``, the query's affinity to each key row.
        rel_w: ``(B, heads, h * w, w)``, the query's affinity to each key column.

    Returns:
        ``(B, heads, h * w, d)``.
    """
    height, width, channels = rel_h.shape[-1], rel_w.shape[-1], q.shape[-1]
    in_chunks = q.device.type == "cpu" and height * width > QUERY_CHUNK and not wants_grad(q, k, v, rel_h, rel_w)
    if in_chunks and not torch.compiler.is_compiling():  # torch.export would unroll the loop: 48 steps a layer
        return _attend_in_chunks(q, k, v, rel_h, rel_w)
    rows = torch.eye(height, dtype=q.dtype, device=q.device).repeat_interleave(width, 0)
    columns = torch.eye(width, dtype=q.dtype, device=q.device).repeat(height, 1)
    one_hot = torch.cat([rows, columns], -1).expand(*k.shape[:2], -1, -1)
    query = torch.cat([q * channels**-0.5, rel_h, rel_w], -1)
    key = torch.cat([k, one_hot], -1)
    return F.scaled_dot_product_attention(query, key, F.pad(v, (0, height + width)), scale=1.0)[..., :channels]


def _attend_in_chunks(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    out = torch.empty_like(q)
    for head in range(q.shape[1]):
        keys, values = k[:, head : head + 1], v[:, head : head + 1]
        for start in range(0, q.shape[2], QUERY_CHUNK):
            part = (slice(None), slice(head, head + 1), slice(start, start + QUERY_CHUNK))
            bias = (rel_h[part][..., :, None] + rel_w[part][..., None, :]).flatten(-2)
            out[part] = F.scaled_dot_product_attention(q[part], keys, values, attn_mask=bias)
    return out


class Attention(nn.Module):
    """Multi-head attention with relative positions, over the whole grid or over windows of it.

    Args:
        width: channels of input and output.
        num_heads: heads; each has ``width / num_heads`` channels.
        native_size: side, in patches, of the grid or window the relative positions were trained for.
        window_size: side of the windows in patches; 0 attends over the whole grid.
    """

    def __init__(self, width: int, num_heads: int, native_size: int, window_size: int) -> None:
        super().__init__()
        self.num_heads, self.window_size = num_heads, window_size
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * native_size - 1, width // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * native_size - 1, width // num_heads))

    def qkv_rows(self, part: str) -> Tensor:
        """Rows of ``qkv.weight`` that make ``part``, one of "q", "k", "v": the layout is ``[q | k | v]``."""
        width = self.proj.in_features
        return torch.arange(width) + "qkv".index(part) * width

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` -> ``(B, H, W, C)``."""
        _, height, width, _ = x.shape
        qkv = self.qkv(x)
        if not self.window_size:
            return self.proj(self._attend_grid(qkv))
        size = self.window_size
        high, wide = padded(height, size), padded(width, size)
        if (high, wide) != (height, width):
            # SAM pads the tokens with zeros before qkv, and qkv of zero is its bias: the padding needs no product.
            full = self.qkv.bias.to(qkv.dtype).expand(len(x), high, wide, -1).clone()
            full[:, :height, :width] = qkv
            qkv = full
        windows = to_windows(qkv, size).unflatten(1, (size, size))
        out = from_windows(self._attend_grid(windows).flatten(1, 2), size, high, wide)
        return self.proj(out[:, :height, :width])

    def _attend_grid(self, qkv: Tensor) -> Tensor:
        batch, height, width, _ = qkv.shape
        q, k, v = qkv.view(batch, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        grid = q.unflatten(2, (height, width))
        rel_h = torch.einsum("bnyxc,ykc->bnyxk", grid, relative_table(self.rel_pos_h, height).to(q.dtype))
        rel_w = torch.einsum("bnyxc,xkc->bnyxk", grid, relative_table(self.rel_pos_w, width).to(q.dtype))
        out = attend(q, k, v, rel_h.flatten(2, 3), rel_w.flatten(2, 3))
        return out.transpose(1, 2).reshape(batch, height, width, -1)


class Block(nn.Module):
    """Transformer block: attention and MLP, each with normalization before and a residual around."""

    def __init__(self, width: int, num_heads: int, native_size: int, window_size: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, num_heads, window_size or native_size, window_size)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLPBlock(width, 4 * width, nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` -> ``(B, H, W, C)``."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Neck(nn.Sequential):
    """SAM's neck, for the transformer's order of axes."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` -> embedding ``(B, out_channels, H, W)``."""
        return super().forward(x.permute(0, 3, 1, 2))


class ImageEncoder(EncoderInParts):
    """Image of ``image_size`` pixels a side -> embedding of ``image_size / patch_size`` positions a side.

    Args:
        width: channels of the transformer.
        depth: number of blocks.
        num_heads: heads per block.
        global_layers: blocks that attend over the whole grid; the others attend over windows.
        native_size: image side in pixels that the positions were trained for. Parameters keep that shape at any
            image size, so that official checkpoints load; positions are interpolated in the forward pass.
        patch_size: side of a patch in pixels.
        window_size: side of a window in patches.
        out_channels: channels of the embedding.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        num_heads: int,
        global_layers: tuple[int, ...],
        native_size: int = 1024,
        patch_size: int = 16,
        window_size: int = 14,
        out_channels: int = 256,
    ) -> None:
        super().__init__()
        grid = native_size // patch_size
        self.stride = patch_size
        self.late = max(1, depth // 4)
        self.part_names = [*([f"blocks.{i}"] for i in range(depth)), ["neck"]]
        self.patch_embed = PatchEmbed(patch_size, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, width))
        self.blocks = nn.ModuleList(
            Block(width, num_heads, grid, 0 if i in global_layers else window_size) for i in range(depth)
        )
        self.neck = Neck(*neck(width, out_channels))

    def start(self, image: Tensor) -> Tensor:
        """``(B, 3, S, S)``, normalized and padded -> ``(B, S / patch_size, S / patch_size, width)``."""
        x = self.patch_embed(image)
        return x + self._positions(x.shape[1], x.shape[2]).to(x.dtype)

    def _positions(self, height: int, width: int) -> Tensor:
        if self.pos_embed.shape[1:3] == (height, width):
            return self.pos_embed
        positions = self.pos_embed.float().permute(0, 3, 1, 2)
        positions = F.interpolate(positions, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
        return positions.permute(0, 2, 3, 1)
