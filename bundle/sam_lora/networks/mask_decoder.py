"""SAM's mask decoder (Kirillov et al. 2023, section A), for batches of images with several objects each."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_lora.networks.layers import MLP, LayerNorm2d
from sam_lora.networks.transformer import TwoWayTransformer

NUM_MASKS = 4  # one mask for a clear prompt, three for an ambiguous one


class Upscaling(nn.Sequential):
    """From an image's positions to its pixels, four a side.

    A transposed convolution whose kernel is as large as its stride is a linear layer from one position to its four
    pixels. Computed so, nothing but the masks at the end has to be brought into an image's order.

    Args:
        channels: width of a position; a pixel's is an eighth of it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(channels, channels // 4, kernel_size=2, stride=2),
            LayerNorm2d(channels // 4),
            nn.GELU(),
            nn.ConvTranspose2d(channels // 4, channels // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )

    def forward(self, source: Tensor) -> Tensor:
        """``(B, h * w, C)`` -> ``(B, h * w, 4, 4, C / 8)``: 2 x 2 pixels of each position, and 2 x 2 of each of those."""
        first, norm, act, second = self[0], cast("LayerNorm2d", self[1]), self[2], self[3]
        fine = act(F.layer_norm(_spread(first, source), norm.normalized_shape, norm.weight, norm.bias, norm.eps))
        return act(_spread(second, fine))


def _spread(layer: nn.Module, x: Tensor) -> Tensor:
    """A transposed convolution of 2 x 2 pixels with stride 2: ``(..., C)`` -> ``(..., 4, D)``, rows before columns."""
    convolution = cast("nn.ConvTranspose2d", layer)
    weight, bias = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2), cast("Tensor", convolution.bias).repeat(4)
    return F.linear(x, weight, bias).unflatten(-1, (4, -1))


class MaskDecoder(nn.Module):
    """Image embedding and prompt embeddings -> masks and their predicted IoU.

    Args:
        channels: width of all embeddings.
    """

    def __init__(self, channels: int = 256) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(channels=channels)
        self.iou_token = nn.Embedding(1, channels)
        self.mask_tokens = nn.Embedding(NUM_MASKS, channels)
        self.output_upscaling = Upscaling(channels)
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(channels, channels, channels // 8, depth=3) for _ in range(NUM_MASKS)
        )
        self.iou_prediction_head = MLP(channels, 256, NUM_MASKS, depth=3)

    def forward(
        self, image: Tensor, image_pe: Tensor, sparse: Tensor, is_token: Tensor, dense: Tensor, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """Decode all objects of all images in one pass.

        Args:
            image: embeddings ``(B, C, h, w)``.
            image_pe: positions ``(1, C, h, w)``.
            sparse: prompt tokens ``(B, P, T, C)``.
            is_token: ``(B, P, T)``, False where a token is padding.
            dense: ``(B, P, C, h, w)``, or anything that broadcasts to it.
            multimask: three masks for an ambiguous prompt instead of one.

        Returns:
            Logits ``(B, P, M, 4 * h, 4 * w)`` and predicted IoU ``(B, P, M)``, M being 3 with ``multimask``, else 1.
        """
        batch, objects = sparse.shape[:2]
        height, width = image.shape[-2:]
        outputs = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(batch * objects, -1, -1)
        tokens = torch.cat([outputs, sparse.flatten(0, 1)], 1)
        is_token = torch.cat([is_token.new_ones(batch * objects, outputs.shape[1]), is_token.flatten(0, 1)], 1)
        source = (image[:, None] + dense).expand(-1, objects, -1, -1, -1).flatten(0, 1)
        tokens, source = self.transformer(source, image_pe, tokens, is_token)

        wanted = range(1, NUM_MASKS) if multimask else range(1)
        weights = torch.stack([self.output_hypernetworks_mlps[i](tokens[:, 1 + i]) for i in wanted], 1)
        logits = self.output_upscaling(source) @ weights[:, None, None].transpose(-1, -2)
        logits = logits.unflatten(3, (2, 2)).unflatten(2, (2, 2)).unflatten(1, (height, width))
        logits = logits.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(-1, len(wanted), 4 * height, 4 * width)
        predicted_iou = self.iou_prediction_head(tokens[:, 0])[:, wanted.start : wanted.stop]
        return logits.unflatten(0, (batch, objects)), predicted_iou.unflatten(0, (batch, objects))
