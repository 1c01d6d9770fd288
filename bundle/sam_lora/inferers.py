"""Prompts and images in, label maps on the image's own grid out."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform
from torch import Tensor, nn

from sam_lora.adapter import DEFAULT_INTENSITY
from sam_lora.cases import CaseError, read_image, stem, write_mask
from sam_lora.datalist import load_datalist
from sam_lora.datasets import label_value, plain
from sam_lora.files import writable_folder
from sam_lora.prompts import REQUEST_KEYS, PromptError, SlicePrompts, prompts_from_requests, refuse_unprompted_labels


def inference_entries(
    image: str | None = None,
    prompts: str | Sequence[Mapping[str, Any]] | None = None,
    dataset_dir: str = "",
    datalist: str | None = None,
) -> list[dict[str, Any]]:
    """What an inference run works on.

    Args:
        image: one image or volume; or None for the test cases of ``dataset_dir`` and ``datalist``.
        prompts: requests, or a JSON file of them; for a datalist, each entry's own ``prompts``.
        dataset_dir: see :func:`sam_lora.datalist.load_datalist`.
        datalist: likewise.

    Raises:
        PromptError: if a prompts file cannot be read.
    """
    if image:
        return [{"image": str(image), "prompts": _requests(prompts)}]
    entries = load_datalist(dataset_dir, datalist)["test"]
    if not entries:
        raise CaseError(f"There is no test case in {datalist or dataset_dir}; `--image FILE` segments one file.")
    return [{**e, "prompts": _requests(e.get("prompts", prompts))} for e in entries]


def _requests(prompts: Any) -> Any:
    if not isinstance(prompts, str):
        return prompts
    try:
        return json.loads(Path(prompts).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PromptError(f"The prompts file {prompts} cannot be read as JSON: {error}.") from error


class LoadCased(MapTransform):
    """Read an image or volume of any format, with what is asked of it, the way training reads it.

    The path under each key becomes a MetaTensor ``(C, I, J, K)``, uint8, C 1 or 3, an image being a volume of one
    slice. The requests in ``prompts``, or those of a MONAI Label client beside the image, go into its metadata.

    Args:
        keys: the images.
        intensity: see :func:`sam_lora.cases.to_uint8`.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        intensity: Mapping[str, Sequence[float]] = DEFAULT_INTENSITY,
    ) -> None:
        super().__init__(keys)
        self.intensity = intensity

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load one entry."""
        d = dict(data)
        requests = d.get("prompts")
        if requests is None and any(d.get(key) for key in REQUEST_KEYS[1:]):
            requests = {key: d[key] for key in REQUEST_KEYS if d.get(key)}
        for key in self.key_iterator(d):
            path = Path(str(d[key]))
            array, meta = read_image(path, self.intensity)
            array = np.moveaxis(array, -1, 0) if array.ndim == 4 else array[None]
            name = str(d.get("name") or stem(path))
            kept = {"filename_or_obj": str(path), "name": name, "prompts": json.dumps(requests), "space": "RAS"}
            affine = torch.as_tensor(meta["affine"])
            d[key] = MetaTensor(torch.from_numpy(np.ascontiguousarray(array)), affine=affine, meta=kept)
        d.pop("prompts", None)
        return d


class PromptInferer(Inferer):
    """Segment what the prompts in the image's metadata ask for; slices nobody asks about stay empty.

    Args:
        labels: value -> name of the labels that may be asked for; empty: any.
        label: without prompts, the label every slice is segmented for; needed where there are several.
    """

    def __init__(self, labels: Mapping[int, str] | None = None, label: str | int | None = None) -> None:
        super().__init__()
        self.labels, self.label = dict(labels or {}), label

    def __call__(self, inputs: Tensor, network: nn.Module, *_: Any, **__: Any) -> Tensor:
        """Segment one volume.

        Args:
            inputs: ``(1, C, I, J, K)`` with metadata from :class:`LoadCased`, values in [0, 255].
            network: a :class:`sam_lora.networks.Sam`.

        Returns:
            Label map ``(1, 1, I, J, K)``, integers; where objects overlap, the one with the higher logit wins.
        """
        if len(inputs) != 1:
            raise PromptError(f"Volumes are segmented one at a time, got a batch of {len(inputs)}: use batch_size 1.")
        volume = inputs[0]
        found = self._prompts(inputs, volume.shape[1:])
        largest = max([0, *(max(s.values) for s in found.values())])
        result = torch.zeros(volume.shape[1:], dtype=torch.uint8 if largest < 256 else torch.int32)
        for k, slice_prompts in found.items():
            image = plain(volume[..., k]).float().transpose(1, 2)
            result[..., k] = segment_slice(network, image.expand(3, -1, -1), slice_prompts).T.to(result.dtype).cpu()
        return result[None, None].to(inputs.device)

    def _prompts(self, inputs: Tensor, shape: Sequence[int]) -> dict[int, SlicePrompts]:
        stored = getattr(inputs, "meta", {}).get("prompts", "null")
        requests = json.loads(stored[0] if isinstance(stored, list | tuple) else stored)
        if requests is not None:
            return prompts_from_requests(requests, shape, self.labels)
        if self.label is None and not self.labels:
            raise PromptError(
                "There is no prompt: give `--prompts FILE.json`, or an adapter that was trained for one label without "
                "prompts."
            )
        value = label_value(self.label, self.labels)
        if value is None:
            refuse_unprompted_labels("no", self.labels)
            value = next(iter(self.labels), 1)
        return {k: SlicePrompts((value,), None) for k in range(shape[2])}


def segment_slice(network: nn.Module, image: Tensor, asked: SlicePrompts) -> Tensor:
    """Segment the objects asked for in one slice, all in one decoder pass.

    Args:
        network: a :class:`sam_lora.networks.Sam`.
        image: ``(3, H, W)``, values in [0, 255].
        asked: prompts and label values.

    Returns:
        Label map ``(H, W)``, int64.
    """
    points = {}
    if asked.prompts is not None:
        points = {"points": asked.prompts.points, "point_labels": asked.prompts.point_labels}
    logits = network(image[None], **{k: v[None].to(image.device) for k, v in points.items()})[0]
    highest, which = logits.max(0)
    values = torch.tensor(asked.values, device=image.device)
    return torch.where(highest > 0, values[which], 0)


class MaskWriter:
    """Evaluator handler that writes each predicted label map: ``<folder>/<name>_mask.nii.gz``, .png for a picture.

    Args:
        folder: where the masks go.
    """

    def __init__(self, folder: str) -> None:
        self.folder = writable_folder(Path(folder), "output_dir")

    def attach(self, engine: Engine) -> None:
        """Follow the evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            path = Path(item["image"].meta["filename_or_obj"])
            mask = np.moveaxis(plain(output["pred"])[0].cpu().numpy(), (0, 1, 2), (2, 1, 0))
            name = f"{item['image'].meta['name']}_mask"
            written = write_mask(self.folder / name, mask, np.asarray(item["image"].affine), path)
            print(written)  # noqa: T201  results go to stdout
