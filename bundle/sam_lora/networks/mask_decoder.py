"""SAM's mask decoder (Kirillov et al. 2023, section A), for batches of images with several objects each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sam_lora.networks.layers import MLP, LayerNorm2d
from sam_lora.networks.transformer import TwoWayTransformer

NUM_MASKS = 4  # one mask for a clear prompt, three for an ambiguous one


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
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(channels, channels // 4, kernel_size=2, stride=2),
            LayerNorm2d(channels // 4),
            nn.GELU(),
            nn.ConvTranspose2d(channels // 4, channels // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
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
        upscaled = self.output_upscaling(source.transpose(1, 2).unflatten(2, (height, width)))
        weights = torch.stack([self.output_hypernetworks_mlps[i](tokens[:, 1 + i]) for i in wanted], 1)
        logits = (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
        predicted_iou = self.iou_prediction_head(tokens[:, 0])[:, wanted.start : wanted.stop]
        return logits.unflatten(0, (batch, objects)), predicted_iou.unflatten(0, (batch, objects))
