"""SAM's prompt encoder (Kirillov et al. 2023, section A), for batches of images with several objects each.

Point labels: 1 foreground, 0 background, 2 and 3 the first and second corner of a box, -1 SAM's "not a point" token,
-2 padding of ours, which no attention sees. Those from 4 on are label tokens: learned, without a place, two per label.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sam_lora.networks.layers import LayerNorm2d

PADDING, NOT_A_POINT, BACKGROUND, FOREGROUND, BOX_START, BOX_END, TOKEN = range(-2, 5)
TOKENS_PER_LABEL = 2  # as many as a box has corners, which is what they start as


class PositionEmbeddingRandom(nn.Module):
    """Positions as sine and cosine of random frequencies (Tancik et al. 2020, Fourier features)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, channels // 2))

    def forward(self, position: Tensor) -> Tensor:
        """Encode positions.

        Args:
            position: ``(..., 2)``, (x, y) with 0 and 1 the borders of the image.

        Returns:
            ``(..., channels)``, float32: the phases of a 1024 px image do not fit half precision.
        """
        x, y = (2 * position.float() - 1).split(1, dim=-1)
        frequencies = self.positional_encoding_gaussian_matrix.float()
        # Two products instead of a matrix product: autocast leaves these in float32.
        phase = 2 * math.pi * (x * frequencies[0] + y * frequencies[1])
        return torch.cat([phase.sin(), phase.cos()], -1)


class PromptEncoder(nn.Module):
    """Points, boxes and a previous mask -> sparse and dense embeddings.

    Args:
        channels: width of the embeddings.
        mask_channels: hidden width of the convolutions that read a mask.
    """

    def __init__(self, channels: int = 256, mask_channels: int = 16) -> None:
        super().__init__()
        self.pe_layer = PositionEmbeddingRandom(channels)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, channels) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, channels)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, channels, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, channels)
        self.label_tokens: nn.Embedding | None = None

    @torch.no_grad()
    def add_label_tokens(self, labels: int, image_size: int) -> None:
        """Give each of ``labels`` labels tokens of its own, which start as a box around the whole frame.

        Args:
            labels: how many.
            image_size: side in pixels of the image that the encoder sees.
        """
        device = self.no_mask_embed.weight.device
        frame = torch.tensor([[[[0.0, 0.0], [image_size, image_size]]]], device=device)
        embeddings, _ = self.embed_points(frame, torch.tensor([[[BOX_START, BOX_END]]], device=device), image_size)
        start = embeddings[0, 0, :TOKENS_PER_LABEL]
        self.label_tokens = nn.Embedding.from_pretrained(start.repeat(labels, 1), freeze=False)

    def image_positions(self, height: int, width: int) -> Tensor:
        """Positions of an embedding's grid: ``(1, channels, height, width)``, in the dtype of the weights."""
        weight = self.no_mask_embed.weight
        y = (torch.arange(height, device=weight.device) + 0.5) / height
        x = (torch.arange(width, device=weight.device) + 0.5) / width
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        return self.pe_layer(grid).permute(2, 0, 1)[None].to(weight.dtype)

    def embed_points(self, points: Tensor, point_labels: Tensor, image_size: int) -> tuple[Tensor, Tensor]:
        """Embed the points of several objects.

        Where an object has points and no box corner or label token, one "not a point" token is appended, as official
        SAM does.

        Args:
            points: ``(B, P, N, 2)``, (x, y) in pixels of the image that the encoder saw.
            point_labels: ``(B, P, N)``, from -2; the last label's tokens are the highest there is.
            image_size: side of that image in pixels.

        Returns:
            Embeddings ``(B, P, N + 1, channels)`` and ``(B, P, N + 1)``, False where a token is padding.
        """
        has_box = (point_labels >= BOX_START).any(-1, keepdim=True)
        has_point = (point_labels != PADDING).any(-1, keepdim=True)
        last = torch.where(has_point & ~has_box, NOT_A_POINT, PADDING).to(point_labels.dtype)
        labels = torch.cat([point_labels, last], -1).long()
        points = nn.functional.pad(points.float(), (0, 0, 0, 1))
        position = self.pe_layer(
            (points + 0.5) / image_size
        )  # SAM shifts every coordinate by half a pixel of its input
        position = position * ((labels >= BACKGROUND) & (labels < TOKEN))[..., None]
        not_a_point = self.not_a_point_embed.weight
        points_and_corners = [embedding.get_parameter("weight") for embedding in self.point_embeddings]
        learned = [] if self.label_tokens is None else [self.label_tokens.weight]
        table = torch.cat([torch.zeros_like(not_a_point), not_a_point, *points_and_corners, *learned])
        embeddings = position.to(table.dtype) + table[labels - PADDING]
        return embeddings, labels != PADDING

    def embed_mask(self, mask: Tensor | None) -> Tensor:
        """Embed the logits of a previous mask.

        Args:
            mask: ``(B, P, 4 * h, 4 * w)`` or None.

        Returns:
            ``(B, P, channels, h, w)``, or ``(1, 1, channels, 1, 1)`` where there is no mask.
        """
        if mask is None:
            return self.no_mask_embed.weight.view(1, 1, -1, 1, 1)
        weight = self.no_mask_embed.weight
        return self.mask_downscaling(mask.flatten(0, 1)[:, None].to(weight.dtype)).unflatten(0, mask.shape[:2])
