"""Prompts and images in, label maps on the image's own grid out."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform
from torch import Tensor
from tqdm import tqdm

from sam_lora.adapter import DEFAULT_INTENSITY
from sam_lora.automatic import AutomaticMaskGenerator, label_map
from sam_lora.cases import CaseError, read_image, read_label, stem
from sam_lora.datalist import label_value, load_datalist
from sam_lora.datasets import plain
from sam_lora.dicom_seg import is_seg, read_seg
from sam_lora.drawn import read_drawn
from sam_lora.embedding import Embedder
from sam_lora.networks import Sam
from sam_lora.prompts import PromptError, refuse_unprompted_labels
from sam_lora.requests import REQUEST_KEYS, ObjectPrompts, by_token, read_requests
from sam_lora.segmentation import segment
from sam_lora.volumes import Volume

logger = logging.getLogger(__name__)


def inference_entries(
    image: str | None = None,
    prompts: str | Sequence[Mapping[str, Any]] | None = None,
    dataset_dir: str = "",
    datalist: str | None = None,
    mask: str | None = None,
    axis: int = 2,
) -> list[dict[str, Any]]:
    """What an inference run works on; of a datalist, this process's share where ``torchrun`` started several.

    Args:
        image: one image or volume; or None for the test cases of ``dataset_dir`` and ``datalist``.
        prompts: requests, or a JSON file of them; for a datalist, each entry's own ``prompts``.
        mask: a label map that prompts instead, or a DICOM SEG of the series; for a datalist, each entry's own ``mask``.
        dataset_dir: see :func:`sam_lora.datalist.load_datalist`.
        datalist: likewise.
        axis: of the slices that will be segmented.

    Raises:
        PromptError: if a prompts file cannot be read.
        CaseError: if there is no test case, or fewer than processes, or the datalist has slices along another axis.
    """
    if image:
        return [{"image": str(image), "prompts": _requests(prompts), "mask": mask}]
    entries = load_datalist(dataset_dir, datalist)["test"]
    if not entries:
        where = datalist or dataset_dir or "a dataset_dir, none is given"
        raise CaseError(f"There is no test case in {where}; `--image FILE` segments one file.")
    for entry in entries:
        if entry.get("axis", axis) != axis:
            raise CaseError(
                f"{entry['name']} has slices along axis {entry['axis']} in the datalist: give `--axis {entry['axis']}`, not {axis}."
            )
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if processes > len(entries):
        raise CaseError(f"There are {processes} processes for {len(entries)} test cases: start at most as many.")
    mine = entries[rank::processes]
    return [{**e, "prompts": _requests(e.get("prompts", prompts)), "mask": e.get("mask", mask)} for e in mine]


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

    A label map under ``mask`` is read too, and prompts in place of requests.
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
            if Path(str(d.get("label", ""))).is_absolute():  # a datalist's label map, not the name of a label
                del requests["label"]
        for key in self.key_iterator(d):
            path = Path(str(d[key]))
            array, meta = read_image(path, self.intensity)
            array = np.moveaxis(array, -1, 0) if array.ndim == 4 else array[None]
            name = str(d.get("name") or stem(path))
            kept: dict[str, Any] = {
                "filename_or_obj": str(path),
                "name": name,
                "prompts": json.dumps(requests),
                "space": "RAS",
                "has_place": meta["has_spacing"],
            }
            if d.get("mask"):
                kept["mask"] = _read_drawn(Path(str(d["mask"])), path, array.shape[-3:], meta)
            affine = torch.as_tensor(meta["affine"])
            kept["original_affine"] = affine.clone()  # by which MONAI Label places a mask
            d[key] = MetaTensor(torch.from_numpy(np.ascontiguousarray(array)), affine=affine, meta=kept)
        d.pop("prompts", None)
        d.pop("mask", None)
        return d


def _read_drawn(path: Path, image: Path, shape: Sequence[int], meta: Mapping[str, Any]) -> np.ndarray:
    """A label map ``(I, J, K)`` drawn on an image; CaseError if it lies on another grid."""
    if is_seg(path):
        return read_seg(path, image, meta["affine"])[0]
    return read_label(path, shape, image, meta)


class PromptInferer(Inferer):
    """Segment what the prompts in the image's metadata ask for; slices nobody asks about stay empty.

    Args:
        labels: value -> name of the labels that may be asked for; empty: any.
        label: without prompts, the label every slice is segmented for; None takes all that the network has tokens for,
            and is refused where there are several labels and no tokens.
        propagated: whole objects from their prompted slices, see :mod:`sam_lora.propagation`.
        axis: the slice axis.
        everything: instead of what prompts ask for, all that can be told apart, numbered on each slice by itself.
        show_progress: a bar on stderr, for volumes that take long.
    """

    def __init__(
        self,
        labels: Mapping[int, str] | None = None,
        label: str | int | None = None,
        propagated: bool = False,
        axis: int = 2,
        everything: bool = False,
        show_progress: bool = False,
    ) -> None:
        super().__init__()
        self.labels, self.label, self.axis = dict(labels or {}), label, axis
        self.propagated, self.everything, self.show_progress = propagated, everything, show_progress
        self._embedder: Embedder | None = None

    def __call__(self, inputs: Tensor, network: Any, *_: Any, **__: Any) -> Tensor:
        """Segment one volume.

        Args:
            inputs: ``(1, C, I, J, K)`` with metadata from :class:`LoadCased`, values in [0, 255].
            network: a :class:`sam_lora.networks.Sam`, or an :class:`Embedder` that keeps caches.

        Returns:
            Label map ``(1, 1, I, J, K)``, integers; where objects overlap, the one with the higher logit wins. Its
            metadata's ``labels`` names the values, as JSON.
        """
        if len(inputs) != 1:
            raise PromptError(f"Volumes are segmented one at a time, got a batch of {len(inputs)}: use batch_size 1.")
        array = plain(inputs)[0].cpu().numpy().astype(np.uint8)
        volume = Volume(array[0] if len(array) == 1 else np.moveaxis(array, 0, -1), self.axis)
        if self.everything:
            label, names = self._everything(volume, network), {}
        else:
            embedder = self.embedder_of(network)
            objects = self._objects(inputs, volume, embedder.network.tokens)
            names = {one.value: one.name for one in objects}
            with tqdm(desc="segmenting", unit="slice", disable=not self.show_progress) as bar:

                def on_slice(done: int, total: int) -> None:
                    bar.total = total
                    bar.update(done - bar.n)

                label = segment(embedder, volume, objects, self.propagated, on_slice=on_slice)
        meta = {"labels": [json.dumps(names)]}
        return MetaTensor(torch.from_numpy(label)[None, None].to(inputs.device), meta=meta)

    def _everything(self, volume: Volume, network: Any) -> np.ndarray:
        sam: Sam = network.network if isinstance(network, Embedder) else network
        generator = AutomaticMaskGenerator(sam)
        label = volume.empty_label(1 << 15)
        for k in range(len(volume)):
            image = volume.slice(k, sam.neighbours).permute(1, 2, 0).numpy().astype(np.uint8)
            records = generator.generate(image, self.show_progress)
            volume.slice_of(label, k)[...] = label_map(records, volume.size)
        if not label.any():
            logger.warning(
                "Nothing was found without a prompt: no mask passed the filters. LiteMedSAM (vit_t) was trained with "
                "boxes and answers points poorly; vit_b, vit_l and vit_h were trained for it."
            )
        return label if label.max() > 255 else label.astype(np.uint8)

    def embedder_of(self, network: Sam | Embedder) -> Embedder:
        """The caches of a network; they go when another one is asked."""
        if isinstance(network, Embedder):
            return network
        if self._embedder is None or self._embedder.network is not network:
            self._embedder = Embedder(network)
        return self._embedder

    def _objects(self, inputs: Tensor, volume: Volume, tokens: Sequence[int]) -> list[ObjectPrompts]:
        meta = getattr(inputs, "meta", {})
        drawn = meta.get("mask")
        if drawn is not None:
            return read_drawn(np.asarray(drawn).reshape(volume.shape), self.labels, volume.axis)
        stored = meta.get("prompts", "null")
        requests = json.loads(stored[0] if isinstance(stored, list | tuple) else stored)
        if requests is not None:
            try:
                return read_requests(requests, volume.shape, self.labels, volume.axis, tokens=tokens)
            except PromptError as error:
                name = meta.get("name", "the image")
                raise PromptError(f"{name[0] if isinstance(name, list) else name}: {error}") from error
        if self.label is None and not self.labels:
            raise PromptError(
                "There is no prompt: give `--prompts FILE.json`, or an adapter that was trained for one label without "
                "prompts."
            )
        value = label_value(self.label, self.labels)
        if tokens:
            asked = tokens if value is None else [value]
            named = [ObjectPrompts(v, self.labels.get(v, str(v)), {}) for v in asked]
            return [by_token(one, tokens, len(volume)) for one in named]
        if value is None:
            refuse_unprompted_labels("no", self.labels)
            value = next(iter(self.labels), 1)
        return [ObjectPrompts(value, self.labels.get(value, str(value)), {k: [] for k in range(len(volume))})]
