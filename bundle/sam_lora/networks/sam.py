"""The promptable network: one image of any size, prompts in its pixels, masks of its size.

What the pretrained weights fix (input size, resizing, padding, normalization, stride) is here and nowhere else.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_lora.networks.image_encoder import ImageEncoder
from sam_lora.networks.mask_decoder import MaskDecoder
from sam_lora.networks.prompt_encoder import PADDING, PromptEncoder
from sam_lora.networks.tiny_vit import TinyViT

Normalization = Literal["mean_std", "min_max"]
PIXEL_MEAN = (123.675, 116.28, 103.53)  # of images in [0, 255], as official SAM was trained
PIXEL_STD = (58.395, 57.12, 57.375)


def check_image_size(encoder: ImageEncoder | TinyViT, image_size: int) -> None:
    """ValueError if ``image_size`` is not a positive multiple of the encoder's stride."""
    if image_size < encoder.stride or image_size % encoder.stride:
        raise ValueError(
            f"image_size must be a positive multiple of {encoder.stride} for this encoder, got {image_size}."
        )


class Sam(nn.Module):
    """Segment Anything, batch-safe and differentiable.

    Args:
        image_encoder: ``(B, 3, S, S)`` -> ``(B, C, S / stride, S / stride)``.
        image_size: S, pixels a side of what the encoder sees; a multiple of the encoder's stride. The longest side of
            an image is resized to it and the rest padded with zeros, right and below.
        normalization: "mean_std" subtracts SAM's mean and divides by its deviation, images being in [0, 255];
            "min_max" stretches each resized image to [0, 1], as MedSAM does, whatever its range.

    Raises:
        ValueError: if ``image_size`` is not a positive multiple of the encoder's stride.

    Attributes:
        neighbours: whether an image's first and last channel are the slices before and after; else all are one slice,
            or a picture's colours.
        tokens: the label values that the prompt encoder has learned tokens for, in their order.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, image_encoder: ImageEncoder | TinyViT, image_size: int, normalization: Normalization) -> None:
        super().__init__()
        check_image_size(image_encoder, image_size)
        self.image_size = image_size
        self.normalization = normalization
        self.neighbours = False
        self.tokens: tuple[int, ...] = ()
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder()
        self.mask_decoder = MaskDecoder()
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width in pixels of an image of ``size`` (height, width) once its longest side is S."""
        scale = self.image_size / max(size)
        return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))

    def preprocess(self, image: Tensor) -> Tensor:
        """Resize, normalize and pad.

        Args:
            image: ``(B, 3, H, W)``, values in [0, 255].

        Returns:
            ``(B, 3, S, S)``, float32.
        """
        size = self.resized((image.shape[-2], image.shape[-1]))
        image = F.interpolate(image.float(), size=size, mode="bilinear", antialias=True, align_corners=False)
        if self.normalization == "mean_std":
            image = (image - self.pixel_mean.float()) / self.pixel_std.float()
        else:
            low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
            image = (image - low) / (high - low).clamp(min=1e-8)
        return F.pad(image, (0, self.image_size - size[1], 0, self.image_size - size[0]))

    def encode(self, image: Tensor) -> Tensor:
        """Image ``(B, 3, H, W)`` in [0, 255] -> embedding ``(B, C, h, w)``; the slow half, worth caching."""
        return self.image_encoder(self.preprocess(image).to(self._dtype))

    def trunk(self, image: Tensor, cut: int) -> Tensor:
        """The lower part of :meth:`encode`: image ``(B, 3, H, W)`` in [0, 255] -> activations ``(B, ...)`` at ``cut``.

        Args:
            image: as given to :meth:`encode`.
            cut: how many of the encoder's parts run, see :class:`sam_lora.networks.parts.EncoderInParts`.
        """
        return self.image_encoder.trunk(self.preprocess(image).to(self._dtype), cut)

    def rest(self, activations: Tensor, cut: int) -> Tensor:
        """The upper part of :meth:`encode`: activations at ``cut``, in any precision -> embedding ``(B, C, h, w)``."""
        return self.image_encoder.rest(activations.to(self._dtype), cut)

    @property
    def _dtype(self) -> torch.dtype:
        return self.image_encoder.get_parameter("neck.0.weight").dtype

    def decode(
        self,
        embedding: Tensor,
        points: Tensor | None,
        point_labels: Tensor | None,
        size: tuple[int, int],
        mask: Tensor | None = None,
        multimask: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Embedding and prompts -> masks at a quarter of the encoder's input and their predicted IoU.

        Args:
            embedding: from :meth:`encode`, ``(B, C, h, w)``.
            points: ``(B, P, N, 2)``, (x, y) in pixels of the image given to :meth:`encode`; None for no prompt.
            point_labels: ``(B, P, N)``: 1 foreground, 0 background, 2 and 3 box corners, -1 not a point, -2 padding,
                4 + 2n and 5 + 2n the tokens of the n-th label, where the network has them.
            size: (height, width) of that image.
            mask: logits of a previous answer ``(B, P, 4 * h, 4 * w)``.
            multimask: three masks for an ambiguous prompt instead of one.

        Returns:
            Logits ``(B, P, M, 4 * h, 4 * w)``, float32, and predicted IoU ``(B, P, M)``; M is 3 with ``multimask``,
            else 1. :meth:`upscale` brings the logits to the image's size.
        """
        if points is None or point_labels is None:
            objects = 1 if mask is None else mask.shape[1]
            points = torch.zeros(len(embedding), objects, 1, 2, device=embedding.device)
            point_labels = torch.full(points.shape[:-1], PADDING, device=embedding.device)
        height, width = self.resized(size)
        scale = torch.tensor([width / size[1], height / size[0]], device=points.device)
        sparse, is_token = self.prompt_encoder.embed_points(points.float() * scale, point_labels, self.image_size)
        dense = self.prompt_encoder.embed_mask(mask)
        embedding = embedding.to(sparse.dtype)
        positions = self.prompt_encoder.image_positions(*embedding.shape[-2:])
        logits, iou = self.mask_decoder(embedding, positions, sparse, is_token, dense, multimask)
        return logits.float(), iou.float()

    def upscale(self, low_res_logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits ``(B, P, 4 * h, 4 * w)`` of :meth:`decode` -> logits ``(B, P, H, W)`` of an image of ``size``."""
        height, width = self.resized(size)
        if low_res_logits.shape[-1] != self.image_size:
            square = (self.image_size, self.image_size)
            low_res_logits = F.interpolate(low_res_logits, size=square, mode="bilinear", align_corners=False)
        return F.interpolate(low_res_logits[..., :height, :width], size=size, mode="bilinear", align_corners=False)

    def forward(self, image: Tensor, points: Tensor | None = None, point_labels: Tensor | None = None) -> Tensor:
        """Segment P objects in each of B images.

        Args:
            image: ``(B, 3, H, W)``, values in [0, 255].
            points: ``(B, P, N, 2)``, (x, y) in pixels of ``image``; without prompts one object is segmented.
            point_labels: ``(B, P, N)``: 1 foreground, 0 background, 2 and 3 box corners, -1 not a point, -2 padding,
                4 + 2n and 5 + 2n the tokens of the n-th label, where the network has them.

        Returns:
            Logits ``(B, P, H, W)``, float32; the object is where they are above 0.
        """
        size = (image.shape[-2], image.shape[-1])
        low_res_logits, _ = self.decode(self.encode(image), points, point_labels, size)
        return self.upscale(low_res_logits[:, :, 0], size)
