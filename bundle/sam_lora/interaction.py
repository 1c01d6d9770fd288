"""How training asks the network: once with the first prompts, then with clicks where its answer was wrong.

Iterative training as in Kirillov et al. 2023, section A ("Training algorithm") and Sofiiuk et al. 2021
(https://arxiv.org/abs/2102.06583): the image is encoded once, the decoder answers several times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from torch import Tensor

from sam_lora.prompts import BACKGROUND, FOREGROUND, PADDING

Answer = dict[str, Tensor]  # logits (B, P, R, H, W) and iou (B, P, R) of R rounds


class InteractiveInferer(Inferer):
    """Encode a batch once and decode it in rounds: the prompts, then corrective clicks on what came back wrong.

    Every draw follows from the samples' own ``draw``, so that a continued run draws what an unbroken one would.

    Args:
        corrections: corrective rounds at most; each batch gets a number from 0 to this. 0 asks once.
        with_mask: share of the batches whose corrective rounds also see the logits of the round before. A label
            server's client sends its whole list of clicks each time, so both kinds are met.
        trunk: what the encoder's frozen first part makes of images, from a cache; None computes it.
        cpu_bfloat16: the encoder's products are computed in bfloat16 on a CPU, for which MONAI's engines have no mixed
            precision. The decoder gains nothing by it.
    """

    def __init__(
        self,
        corrections: int = 0,
        with_mask: float = 0.5,
        trunk: Callable[[Tensor], Tensor] | None = None,
        cpu_bfloat16: bool = False,
    ) -> None:
        super().__init__()
        self.corrections, self.with_mask, self.trunk = corrections, with_mask, trunk
        self.cpu_bfloat16 = cpu_bfloat16

    def __call__(self, inputs: Tensor, network: Any, *_: Any, **prompts: Tensor) -> Answer:
        """Ask for every object of a batch.

        Args:
            inputs: ``(B, 3, H, W)``, values in [0, 255].
            network: a :class:`sam_lora.networks.Sam`.
            prompts: ``points``, ``point_labels``, ``label`` and ``draw`` of the batch, see
                :func:`sam_lora.datasets.collate_slices`.

        Returns:
            ``logits`` ``(B, P, R, H, W)`` and predicted ``iou`` ``(B, P, R)``, R being the number of rounds.
        """
        points, point_labels = prompts["points"], prompts["point_labels"]
        size = (inputs.shape[-2], inputs.shape[-1])
        embedding = self._embed(inputs, network)
        rng = np.random.RandomState(int(prompts["draw"][0])) if self.corrections else None
        rounds = 1 + (rng.randint(self.corrections + 1) if rng is not None else 0)
        with_mask = rng is not None and rng.rand() < self.with_mask
        mask: Tensor | None = None
        logits, ious = [], []
        for number in range(rounds):
            low_res, iou = network.decode(embedding, points, point_labels, size, mask)
            logits.append(network.upscale(low_res[:, :, 0], size))
            ious.append(iou[:, :, 0])
            if rng is not None and number + 1 < rounds:
                points, point_labels = corrected(points, point_labels, logits[-1], prompts["label"], rng)
                mask = low_res[:, :, 0].detach() if with_mask else None
        return {"logits": torch.stack(logits, 2), "iou": torch.stack(ious, 2)}

    def _embed(self, inputs: Tensor, network: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.cpu_bfloat16):
            embedding = network.encode(inputs) if self.trunk is None else network.rest(self.trunk(inputs), network.cut)
        return embedding.float() if self.cpu_bfloat16 else embedding


def corrected(
    points: Tensor, point_labels: Tensor, logits: Tensor, label: Tensor, rng: np.random.RandomState
) -> tuple[Tensor, Tensor]:
    """Add a click to every object, on a random pixel of what is wrong; where nothing is, padding.

    Args:
        points: ``(B, P, N, 2)``.
        point_labels: ``(B, P, N)``.
        logits: the last answer, ``(B, P, H, W)``.
        label: binary masks ``(B, P, H, W)``; negative where an object only fills the batch.
        rng: source of the draws.

    Returns:
        Points and point labels with one column more.
    """
    wrong = ((logits > 0) != (label > 0)).flatten(0, 1).cpu().numpy()
    truth = label.flatten(0, 1).cpu().numpy()
    added = np.zeros((len(wrong), 3), np.float32)
    added[:, 2] = PADDING
    for n, where in enumerate(wrong):
        places = np.flatnonzero(where)
        draw = rng.randint(max(1, len(places)))  # drawn for every object: a batch's draws do not depend on its answers
        if len(places) and truth[n].flat[0] >= 0:
            j, i = divmod(int(places[draw]), where.shape[1])
            added[n] = i + 0.5, j + 0.5, FOREGROUND if truth[n][j, i] > 0 else BACKGROUND
    new = torch.from_numpy(added).to(points.device).unflatten(0, points.shape[:2])[:, :, None]
    return torch.cat([points, new[..., :2]], 2), torch.cat([point_labels, new[..., 2].long()], 2)


def true_iou(logits: Tensor, label: Tensor) -> Tensor:
    """IoU of masks with their labels, what the predicted one is to be; 1 where both are empty.

    Args:
        logits: ``(..., H, W)``, the mask is where they are above 0.
        label: ``(..., H, W)``, binary.
    """
    mask, truth = logits > 0, label > 0
    common, either = (mask & truth).sum((-2, -1)), (mask | truth).sum((-2, -1))
    return torch.where(either > 0, common / either.clamp(min=1), 1.0)
