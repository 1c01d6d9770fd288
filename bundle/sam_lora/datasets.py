"""Slices of cases as training samples, each with a randomness of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Randomizable
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from sam_lora.adapter import DEFAULT_INTENSITY
from sam_lora.cases import Case, CaseError, read_case
from sam_lora.datalist import label_value
from sam_lora.prompts import PADDING, refuse_unprompted_labels
from sam_lora.transforms import IGNORED, RandPromptsd, object_values
from sam_lora.volumes import around


class SliceDataset(Dataset):
    """Every slice that holds an object, as one sample with all its objects; with ``absent`` every slice.

    A sample's randomness depends on the seed, the epoch and its own place, and on nothing drawn before: the same
    sample comes out with any number of workers, and after a resumed run.

    Args:
        data: datalist entries ``{"image", "label"}``.
        transform: turns ``{"image": (3, H, W) float32 in [0, 255], "label": (H, W) integers, "name", "case",
            "slice"}`` into a training sample.
        intensity: see :func:`sam_lora.cases.to_uint8`.
        min_pixels: slices without an object of this many pixels are left out.
        label: use only this label, a name or a value.
        labels: value -> name, as the datalist has them.
        prompt_mode: refused here where it cannot work with these labels.
        seed: start of all randomness.
        every: take every n-th of the slices.
        absent: label values that are objects of every slice, to come back empty where they are not there; with any,
            every slice is a sample.
        neighbours: the slices before and after are the first and last channel, instead of three times the same.
        versions: how many altered versions of a slice the random transforms before the prompts make: they come in turn,
            epoch by epoch, and a trunk cache finds them again; 0: each epoch another.
        cache_bytes: how many bytes of decoded volumes stay in memory.

    Attributes:
        places: (case, slice) of every sample.
        values: label values in each of them, of ``min_pixels`` or more.
        present: label values in the cases.
        empty: cases without an object.
        contents: digest of each case.

    Raises:
        CaseError: if a case is unusable, or none holds an object.
        PromptError: if ``prompt_mode`` is "no" and there are several labels.
    """

    def __init__(  # noqa: PLR0913  each argument is a name in the configs
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable | None = None,
        intensity: Mapping[str, Sequence[float]] = DEFAULT_INTENSITY,
        min_pixels: int = 1,
        label: str | int | None = None,
        labels: Mapping[int, str] | None = None,
        prompt_mode: str = "pt_box",
        seed: int = 0,
        every: int = 1,
        absent: Sequence[int] = (),
        neighbours: bool = False,
        versions: int = 0,
        cache_bytes: int = 4 << 30,
    ) -> None:
        self.data, self.transform, self.intensity, self.seed = list(data), transform, intensity, seed
        self.labels, self.min_pixels, self.every, self.prompt_mode = dict(labels or {}), min_pixels, every, prompt_mode
        self.value, self.neighbours, self.versions = label_value(label, self.labels), neighbours, versions
        self.absent = [value for value in absent if self.value in (None, value)]
        self._cache = _CaseCache(cache_bytes)
        self.contents: list[str] = []
        places: dict[tuple[int, int], list[int]] = {}
        for number in tqdm(range(len(self.data)), desc="reading cases", disable=len(self.data) < 2):
            case = self.case(number)
            self.contents.append(case.content)
            for k in range(len(case.image)):
                places[number, k] = object_values(self._label(number, k), min_pixels)
        present = {value for values in places.values() for value in values}
        if self.data and not present:
            raise CaseError(
                f"None of the {len(self.data)} cases has an object of at least {min_pixels} pixels"
                f"{'' if label is None else f' with label {label}'}: the masks are empty."
            )
        if self.value is None:
            refuse_unprompted_labels(prompt_mode, {v: self.labels.get(v, str(v)) for v in sorted(present)})
        self.present = sorted(present)
        holding = {place: values for place, values in places.items() if values}
        self.empty = sorted(set(range(len(self.data))) - {number for number, _ in holding})
        self.places = list(places if self.absent else holding)[::every]
        self.values = [places[place] for place in self.places]

    def __len__(self) -> int:
        return len(self.places)

    def case(self, number: int) -> Case:
        """The case of entry ``number``, from memory where it still is."""
        return self._cache.get(number, lambda: read_case(self.data[number], self.intensity))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample; ``index`` may carry an epoch, see :class:`sam_lora.sampling.SliceSampler`."""
        epoch, position = divmod(int(index), len(self))
        number, k = self.places[position]
        case = self.case(number)
        sample: dict[str, Any] = {
            "image": torch.from_numpy(three_channels(case.image, k, self.neighbours).astype(np.float32)),
            "label": self._label(number, k),
            "absent": self.absent,
            "name": f"{case.name} slice {k}",
            "case": number,
            "slice": k,
        }
        if self.transform is None:
            return sample
        self._reseed(epoch, number, k)
        return self.transform(sample)

    def _reseed(self, epoch: int, case: int, k: int) -> None:
        """Give each random transform a state that follows from seed, epoch, and the slice itself.

        Which other cases are there does not matter: an altered version comes again in another training on the slice.
        """
        content = int(self.contents[case][-16:], 16)
        for number, step in enumerate(getattr(self.transform, "transforms", [self.transform])):
            if isinstance(step, Randomizable):
                version = epoch % self.versions if self.versions and not isinstance(step, RandPromptsd) else epoch
                state = np.random.SeedSequence([self.seed, version, content, k, number]).generate_state(1)
                step.set_random_state(seed=int(state[0]))

    def _label(self, number: int, k: int) -> np.ndarray:
        """Label map ``(H, W)`` of one slice, with nothing but the chosen label where one is chosen."""
        label = self.case(number).label
        if label is None:
            raise CaseError(f"{self.data[number]['image']} has no label; training and evaluation need one.")
        return label[k] if self.value is None else np.where(label[k] == self.value, label[k], 0)


def three_channels(image: np.ndarray, k: int, neighbours: bool) -> np.ndarray:
    """What the network sees of slice ``k`` of an image ``(K, H, W)`` or ``(K, H, W, 3)``: ``(3, H, W)``.

    Args:
        image: the slices; colours stay as they are.
        k: the slice.
        neighbours: the slices before and after are the first and last channel, instead of k three times.
    """
    if image.ndim == 4:
        return np.moveaxis(image[k], -1, 0)
    return image[list(around(k, len(image)) if neighbours else (k, k, k))]


class _CaseCache:
    """Decoded cases, the least recently used forgotten first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._cases: OrderedDict[int, Case] = OrderedDict()

    def get(self, number: int, read: Callable[[], Case]) -> Case:
        if number in self._cases:
            self._cases.move_to_end(number)
            return self._cases[number]
        case = self._cases[number] = read()
        self._bytes += _size(case)
        while self._bytes > self._max_bytes and len(self._cases) > 1:
            self._bytes -= _size(self._cases.popitem(last=False)[1])
        return case


def _size(case: Case) -> int:
    return case.image.nbytes + (0 if case.label is None else case.label.nbytes)


def collate_slices(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Batch slices with different numbers of objects and points.

    Missing points get SAM's padding of ours (-2), missing objects a label map of -1, which
    :class:`sam_lora.losses.PerObjectLoss` leaves out.

    Raises:
        CaseError: if the slices differ in size: they cannot share a batch without being distorted.
    """
    sizes = sorted({tuple(s["image"].shape[-2:]) for s in samples})
    if len(sizes) > 1:
        raise CaseError(
            f"batch_size {len(samples)} needs slices of one size, these are {', '.join(f'{h} x {w}' for h, w in sizes)}"
            f" pixels: use batch_size 1 and accumulation_steps {len(samples)}."
        )
    objects = max(len(s["label"]) for s in samples)
    points = max(s["points"].shape[1] for s in samples)
    padded = []
    for sample in samples:
        rows, columns = objects - len(sample["label"]), points - sample["points"].shape[1]
        padded.append(
            {
                **sample,
                "label": F.pad(plain(sample["label"]), (0, 0, 0, 0, 0, rows), value=IGNORED),
                "points": F.pad(plain(sample["points"]), (0, 0, 0, columns, 0, rows)),
                "point_labels": F.pad(plain(sample["point_labels"]), (0, columns, 0, rows), value=PADDING),
                "values": F.pad(plain(sample["values"]), (0, rows)),
            }
        )
    return default_collate([{k: plain(v) for k, v in sample.items()} for sample in padded])


def plain(value: Any) -> Any:
    """A MetaTensor without its metadata; anything else as it is."""
    return value.as_tensor() if isinstance(value, MetaTensor) else value
