"""Masks of everything in an image: SAM's automatic mask generation (Kirillov et al. 2023, appendix B).

Every point of a grid is a prompt. Masks that the network is sure of, and that hardly change with the threshold, are
kept; of several masks in nearly the same box, the best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torchvision.ops import nms
from tqdm import tqdm

from sam_lora.networks import Sam
from sam_lora.point_grids import Box, check_grids, crop_boxes, regular_grids
from sam_lora.rle import compress_rle, mask_to_rle, pycocotools_mask, rle_to_mask

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
_EDGE = 20  # pixels; a mask that ends this near a crop's edge counts as cut off there, as in official SAM
_LOGITS_AT_ONCE = 2**24  # brought to full size in one go: 64 MB, however many points a batch has


@dataclass(eq=False)
class AutomaticMaskGenerator:
    """Segments everything in an image. The options are those of segment-anything's SamAutomaticMaskGenerator.

    Args:
        network: any SAM in evaluation mode, adapted or not; its device does the work.
        points_per_side: points of the grid along each side of the image; None where ``point_grids`` is given.
        points_per_batch: points in one pass of the mask decoder; more need more memory and change no mask.
        pred_iou_thresh: masks whose IoU the network predicts to be above this are kept; 0 keeps all.
        stability_score_thresh: masks at least this stable are kept; 0 keeps all.
        stability_score_offset: stability is the IoU of the masks of logits above plus and above minus this.
        box_nms_thresh: of two masks of one crop whose boxes overlap by an IoU above this, the one with the lower
            predicted IoU goes.
        crop_n_layers: layer n adds 2**n by 2**n crops of the image, each segmented like an image of its own.
        crop_nms_thresh: like ``box_nms_thresh`` between crops; the mask from the larger crop goes.
        crop_overlap_ratio: overlap of the first layer's crops, as a part of the image's shorter side; it halves with
            each layer.
        crop_n_points_downscale_factor: layer n has ``points_per_side`` divided by this factor n times.
        point_grids: instead of ``points_per_side``: for the image and each layer of crops, points ``(N, 2)`` as (x, y)
            from 0 to 1.
        min_mask_region_area: if above 0, holes and islands of fewer pixels are removed.
        output_mode: what ``segmentation`` holds: "binary_mask" an array ``(H, W)``; "uncompressed_rle" run lengths, see
            :func:`sam_lora.rle.mask_to_rle`; "coco_rle" compressed ones (needs pycocotools).
        multimask: three masks per point, as official SAM has learned them; False asks for the single one, the only one
            that MedSAM's and LiteMedSAM's weights, and training here, have taught. Training here leaves the predicted
            IoU as it was: judge adapted decoders by stability, with ``pred_iou_thresh`` 0.

    Raises:
        ValueError: naming the option, the rule and the value.
    """

    network: Sam
    points_per_side: int | None = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: Sequence[np.ndarray] | None = None
    min_mask_region_area: int = 0
    output_mode: str = "binary_mask"
    multimask: bool = True

    def __post_init__(self) -> None:
        for name, lowest in (
            ("points_per_batch", 1),
            ("crop_n_layers", 0),
            ("crop_n_points_downscale_factor", 1),
            ("min_mask_region_area", 0),
        ):
            _check_whole(name, getattr(self, name), lowest)
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh"):
            _check_number(name, getattr(self, name), 1)
        _check_number("crop_overlap_ratio", self.crop_overlap_ratio, 1)
        _check_number("stability_score_offset", self.stability_score_offset, math.inf)
        if self.output_mode not in OUTPUT_MODES:
            raise ValueError(f"output_mode must be one of {', '.join(OUTPUT_MODES)}, got {self.output_mode!r}.")
        if self.output_mode == "coco_rle":
            pycocotools_mask()  # missed now, not after minutes of work
        self._grids = self._checked_grids()

    def _checked_grids(self) -> list[np.ndarray]:
        """Points ``(N, 2)`` as (x, y) from 0 to 1, of the image and of each layer of crops."""
        if self.points_per_side is None and self.point_grids is not None:
            return check_grids(self.point_grids, self.crop_n_layers)
        if self.points_per_side is None or self.point_grids is not None:
            raise ValueError(
                "Either points_per_side or point_grids must be given and the other be None, got "
                f"{'neither' if self.points_per_side is None else 'both'}."
            )
        _check_whole("points_per_side", self.points_per_side, 1)
        return regular_grids(self.points_per_side, self.crop_n_points_downscale_factor, self.crop_n_layers)

    @torch.no_grad()
    def generate(self, image: np.ndarray, progress: bool = False) -> list[dict[str, Any]]:
        """Segment everything.

        Args:
            image: ``(H, W)`` or ``(H, W, 3)``, rows y and columns x, uint8.
            progress: show a bar on stderr that counts points.

        Returns:
            A record per mask. Without crops and removed regions the highest predicted IoU comes first; else masks from
            smaller crops, and masks nothing was removed from. Boxes are [x, y, width, height] in pixels of ``image``.

            - ``segmentation``: the mask, in the form of ``output_mode``;
            - ``area``: its pixels;
            - ``bbox``: from its first to its last pixel: a single pixel has width 0, as in official SAM;
            - ``predicted_iou``, ``stability_score``: what it was kept for;
            - ``point_coords``: ``[[x, y]]``, the point that it answers;
            - ``crop_box``: the crop it was found in.

        Raises:
            ValueError: if the image is none, or too small for the crops, or the network is in training mode.
        """
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or not _is_image(image.shape):
            got = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"image must be a uint8 array (H, W) or (H, W, 3) with at least one pixel, got {got}.")
        if self.network.training:
            raise ValueError("The network is in training mode; masks are made in evaluation mode: call network.eval().")
        crops = list(crop_boxes((image.shape[0], image.shape[1]), self.crop_n_layers, self.crop_overlap_ratio))
        points = sum(len(self._grids[layer]) for _, layer in crops)
        with tqdm(total=points, unit="point", desc="masks", disable=not progress) as bar:
            records = [record for box, layer in crops for record in self._segment_crop(image, box, layer, bar)]
        if len(crops) > 1:
            smaller_first = [-math.prod(record["crop_box"][2:]) for record in records]
            records = _without_duplicates(records, smaller_first, self.crop_nms_thresh)
        if self.min_mask_region_area > 0:
            unchanged_first = [not _remove_small_regions(record, self.min_mask_region_area) for record in records]
            records = _without_duplicates(records, unchanged_first, max(self.box_nms_thresh, self.crop_nms_thresh))
        for record in records:
            if self.output_mode != "uncompressed_rle":
                convert = rle_to_mask if self.output_mode == "binary_mask" else compress_rle
                record["segmentation"] = convert(record["segmentation"])
        return records

    def _segment_crop(self, image: np.ndarray, crop: Box, layer: int, bar: tqdm) -> list[dict[str, Any]]:
        """Records of one crop without duplicates; the masks are run lengths of the whole image."""
        x0, y0, x1, y1 = crop
        size = (y1 - y0, x1 - x0)
        pixels = torch.tensor(image[y0:y1, x0:x1], device=self.network.pixel_mean.device).view(*size, -1)
        embedding = self.network.encode(pixels.permute(2, 0, 1).expand(1, 3, -1, -1))
        points = self._grids[layer] * [size[1], size[0]]
        records: list[dict[str, Any]] = []
        for start in range(0, len(points), self.points_per_batch):
            batch = points[start : start + self.points_per_batch]
            for which, mask, scores in self._segment_points(embedding, batch, size):
                whole = np.zeros(image.shape[:2], bool)
                whole[y0:y1, x0:x1] = mask
                bbox = _bbox(whole)
                if not _is_cut_off(bbox, crop, image.shape):
                    x, y = batch[which].tolist()
                    records.append(
                        {
                            "segmentation": mask_to_rle(whole),
                            "area": int(mask.sum()),
                            "bbox": bbox,
                            **scores,
                            "point_coords": [[x + x0, y + y0]],
                            "crop_box": [x0, y0, size[1], size[0]],
                        }
                    )
            bar.update(len(batch))
        return _without_duplicates(records, [record["predicted_iou"] for record in records], self.box_nms_thresh)

    def _segment_points(
        self, embedding: Tensor, points: np.ndarray, size: tuple[int, int]
    ) -> Iterator[tuple[int, np.ndarray, dict[str, float]]]:
        """Of each mask that passes both thresholds: the index of its point, its pixels ``(h, w)``, its scores."""
        prompts = torch.tensor(points, dtype=torch.float32, device=embedding.device)[None, :, None]
        foreground = torch.ones(prompts.shape[:-1], dtype=torch.int64, device=embedding.device)
        logits, iou = self.network.decode(embedding, prompts, foreground, size, multimask=self.multimask)
        masks_per_point = iou.shape[-1]
        logits, iou = logits[0].flatten(0, 1), iou.flatten()
        # The predicted IoU costs nothing more: only masks that pass are brought to full size, a few at a time.
        sure = (iou > (self.pred_iou_thresh or -math.inf)).nonzero()[:, 0]
        at_once = max(1, _LOGITS_AT_ONCE // max(math.prod(size), self.network.image_size**2))
        for some in sure.split(at_once) if len(sure) else ():
            upscaled = self.network.upscale(logits[None, some], size)[0]
            certain, possible = ((upscaled > sign * self.stability_score_offset).sum((1, 2)) for sign in (1, -1))
            stability = certain / possible
            masks = upscaled > 0
            kept = masks.any(-1).any(-1)  # an empty mask is no object, whatever the thresholds
            kept &= stability >= self.stability_score_thresh
            for n in kept.nonzero()[:, 0].tolist():
                scores = {"predicted_iou": iou[some[n]].item(), "stability_score": stability[n].item()}
                yield int(some[n]) // masks_per_point, masks[n].cpu().numpy(), scores


def label_map(records: Sequence[Mapping[str, Any]], shape: tuple[int, int]) -> np.ndarray:
    """Put masks into one map; smaller ones lie over larger ones, so that they stay visible.

    Args:
        records: from :meth:`AutomaticMaskGenerator.generate`, in any output mode.
        shape: (H, W) of the image.

    Returns:
        ``(H, W)``, uint8 or, from 256 masks on, int32: n where ``records[n - 1]`` is seen, 0 where no mask is.

    Raises:
        ValueError: if a mask has another shape.
    """
    result = np.zeros(shape, np.uint8 if len(records) < 256 else np.int32)
    for index in sorted(range(len(records)), key=lambda index: -records[index]["area"]):
        mask = records[index]["segmentation"]
        mask = mask if isinstance(mask, np.ndarray) else rle_to_mask(mask)
        if mask.shape != tuple(shape):
            raise ValueError(f"Mask {index + 1} has shape {mask.shape}, the map {tuple(shape)}; they must be equal.")
        result[mask] = index + 1
    return result


def _bbox(mask: np.ndarray) -> list[int]:
    """[x, y, width, height] from the first to the last pixel of a mask that has one."""
    xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return [int(n) for n in (xs[0], ys[0], xs[-1] - xs[0], ys[-1] - ys[0])]


def _corners(bbox: Sequence[int]) -> tuple[int, int, int, int]:
    x, y, width, height = bbox
    return x, y, x + width, y + height


def _is_cut_off(bbox: Sequence[int], crop: Box, shape: Sequence[int]) -> bool:
    """Whether a mask ends where its crop does and the image goes on."""
    sides = zip(_corners(bbox), crop, (0, 0, shape[1], shape[0]), strict=True)
    return any(abs(side - of_crop) <= _EDGE < abs(side - of_image) for side, of_crop, of_image in sides)


def _without_duplicates(
    records: list[dict[str, Any]], scores: Sequence[float], threshold: float
) -> list[dict[str, Any]]:
    """Records by falling score, without those whose box overlaps an earlier one's by an IoU above the threshold."""
    boxes = torch.tensor([_corners(record["bbox"]) for record in records], dtype=torch.float32).view(-1, 4)
    return [records[n] for n in nms(boxes, torch.tensor(scores, dtype=torch.float32), threshold).tolist()]


def _remove_small_regions(record: dict[str, Any], min_area: int) -> bool:
    """Fill a mask's small holes, then remove its small islands except the largest; True if it had any."""
    mask = rle_to_mask(record["segmentation"])
    holes, is_small_hole = _small_regions(~mask, min_area)
    mask |= is_small_hole[holes]
    islands, is_small_island = _small_regions(mask, min_area)
    had_any = bool(is_small_hole.any() or is_small_island.any())
    is_small_island[np.bincount(islands[mask]).argmax()] = False
    mask &= ~is_small_island[islands]
    record.update(segmentation=mask_to_rle(mask), area=int(mask.sum()), bbox=_bbox(mask))
    return had_any


def _small_regions(mask: np.ndarray, min_area: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers ``(H, W)`` of a mask's regions, which may be joined at corners only, and of each if it is small."""
    regions, _ = ndimage.label(mask, np.ones((3, 3)))
    is_small = np.bincount(regions.ravel()) < min_area
    is_small[0] = False  # what lies outside
    return regions, is_small


def _is_image(shape: tuple[int, ...]) -> bool:
    return math.prod(shape) > 0 and (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3))


def _check_whole(name: str, value: Any, lowest: int) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < lowest:
        raise ValueError(f"{name} must be a whole number from {lowest}, got {value!r}.")


def _check_number(name: str, value: Any, highest: float) -> None:
    if not isinstance(value, int | float | np.number) or not 0 <= value <= highest or value == math.inf:
        rule = "a number from 0" if highest == math.inf else f"a number from 0 to {highest}"
        raise ValueError(f"{name} must be {rule}, got {value!r}.")
