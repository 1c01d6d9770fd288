"""The two halves of the network for ONNX, where sizes are known only when they run.

:class:`~sam_lora.networks.sam.Sam` computes sizes as Python numbers, which an exporter would freeze at those of its
example. Here sizes are tensors, and resizing is a product with matrices computed inside, which every ONNX runtime knows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_lora.networks.sam import Sam


def resized_size(size: Tensor, image_size: int) -> Tensor:
    """What :meth:`Sam.resized` computes, of a tensor (height, width), so that it may be known at run time only."""
    size = size.double()  # as Python computes it: a side rounded otherwise shifts every pixel
    return (size * (image_size / size.max()) + 0.5).floor().clamp(min=1).float()


def resize_matrix(rows: int, columns: int, target: Tensor, source: Tensor, antialias: bool) -> Tensor:
    """The matrix whose product with a line of ``columns`` pixels resizes its first ``source`` ones bilinearly.

    Args:
        rows: of the matrix; those from ``target`` on are zero.
        columns: of the matrix; those from ``source`` on are zero.
        target: length after resizing, in pixels.
        source: length before it.
        antialias: widen the triangle where the line is shortened, as ``interpolate(antialias=True)`` does.

    Returns:
        ``(rows, columns)``, float32.
    """
    row, column = torch.arange(rows).float()[:, None], torch.arange(columns).float()
    scale = source / target
    distance = (column + 0.5 - (row + 0.5) * scale).abs()
    weight = (1 - distance / (scale.clamp(min=1) if antialias else 1)).clamp(min=0) * (column < source)
    return weight / weight.sum(-1, keepdim=True).clamp(min=1e-6) * (row < target)


class Encoder(nn.Module):
    """``image`` (1, 3, H, W), float32 in [0, 255] -> ``image_embeddings`` (1, C, h, w)."""

    def __init__(self, network: Sam) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Resize, normalize, pad and encode; equals :meth:`Sam.encode`."""
        network, side = self.network, self.network.image_size
        size = torch.tensor([image.shape[-2], image.shape[-1]])
        height, width = resized_size(size, side)
        down = resize_matrix(side, image.shape[-2], height, size[0], antialias=True)
        right = resize_matrix(side, image.shape[-1], width, size[1], antialias=True)
        square = down @ image @ right.T
        inside = (torch.arange(side)[:, None] < height) & (torch.arange(side) < width)
        if network.normalization == "mean_std":
            square = (square - network.pixel_mean) / network.pixel_std
        else:
            low = square.masked_fill(~inside, torch.inf).amin((1, 2, 3), keepdim=True)
            high = square.masked_fill(~inside, -torch.inf).amax((1, 2, 3), keepdim=True)
            square = (square - low) / (high - low).clamp(min=1e-8)
        return network.image_encoder(square * inside)


class Decoder(nn.Module):
    """Embedding and the prompts of P objects -> their masks at the image's size.

    Args:
        network: merged.
        multimask: three masks per object (M = 3) instead of one.
    """

    def __init__(self, network: Sam, multimask: bool) -> None:
        super().__init__()
        self.network, self.multimask = network, multimask

    def forward(
        self,
        image_embeddings: Tensor,
        points: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode; equals :meth:`Sam.decode` and :meth:`Sam.upscale`. All tensors are float32.

        Args:
            image_embeddings: ``(1, C, h, w)``, from the encoder.
            points: ``(1, P, N, 2)``, (x, y) in pixels of the image given to the encoder.
            point_labels: ``(1, P, N)``: 1 foreground, 0 background, 2 and 3 box corners, -1 not a point, -2 padding.
            mask_input: ``(1, P, 4 * h, 4 * w)``, ``low_res_masks`` of a previous answer; zeros where there is none.
            has_mask_input: ``(1,)``, 1 to read ``mask_input``, 0 to ignore it.
            orig_im_size: ``(2,)``, height and width of that image.

        Returns:
            ``masks`` ``(1, P, M, H, W)``, logits, the object being where they are above 0; ``iou_predictions``
            ``(1, P, M)``; ``low_res_masks`` ``(1, P, M, 4 * h, 4 * w)``, logits.
        """
        network, prompts = self.network, self.network.prompt_encoder
        size = resized_size(orig_im_size, network.image_size)
        scale = (size / orig_im_size).flip(0)  # of x, of y
        sparse, is_token = prompts.embed_points(points * scale, point_labels, network.image_size)
        dense = torch.where(has_mask_input > 0, prompts.embed_mask(mask_input), prompts.embed_mask(None))
        positions = prompts.image_positions(*image_embeddings.shape[-2:])
        low_res, iou = network.mask_decoder(image_embeddings, positions, sparse, is_token, dense, self.multimask)
        return self._upscale(low_res, size, orig_im_size), iou, low_res

    def _upscale(self, low_res: Tensor, size: Tensor, orig_im_size: Tensor) -> Tensor:
        side = self.network.image_size
        square = F.interpolate(low_res.flatten(0, 1), size=(side, side), mode="bilinear", align_corners=False)
        height, width = orig_im_size.long().tolist()
        down = resize_matrix(height, side, orig_im_size[0], size[0], antialias=False)
        right = resize_matrix(width, side, orig_im_size[1], size[1], antialias=False)
        return (down @ square @ right.T).unflatten(0, low_res.shape[:2])
