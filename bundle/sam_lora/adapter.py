"""The sealed adapter: one safetensors file that says what it was made for, and is refused elsewhere."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sam_lora import __version__
from sam_lora.files import write_aside
from sam_lora.weights import tensors_digest

FORMAT_VERSION = 2  # 1 knew no label tokens and no neighbouring slices; its files still load
DEFAULT_INTENSITY = {"percentiles": [0.5, 99.5]}  # of raw intensities; what is uint8 already stays as it is
METADATA_KEY = "sam_lora_adapter"


class AdapterError(ValueError):
    """An adapter file is broken, or was made for something else."""


@dataclass(frozen=True)
class AdapterSpec:
    """What an adapter was made for; all of it is compared when the adapter is loaded.

    Args:
        variant: row of the table of variants.
        base_digest: digest of the base tensors, None for foreign files, which do not say.
        rank: inner width of the LoRA updates.
        alpha: the updates are scaled by ``alpha / rank``.
        targets: adapted projections, out of q, k, v, proj, mlp.
        layers: indices of the adapted attention layers, counted through the encoder.
        decoder: "frozen", "lora" or "full" (prompt encoder and mask decoder trained whole).
        image_size: pixels a side of what the encoder sees.
        labels: value -> name of the labels it was trained on; empty where the data named none.
        intensity: how raw intensities became [0, 255]: ``{"percentiles": [0.5, 99.5]}`` or
            ``{"window": [level, width]}``.
        tokens: the label values that have learned tokens, which segment them without a prompt, in the tokens' order.
        neighbours: whether the network sees the slices before and after as its other two channels.
    """

    variant: str
    base_digest: str | None
    rank: int
    alpha: float
    targets: tuple[str, ...]
    layers: tuple[int, ...]
    decoder: str
    image_size: int
    labels: dict[int, str] = field(default_factory=dict)
    intensity: dict[str, list[float]] = field(default_factory=dict)
    tokens: tuple[int, ...] = ()
    neighbours: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a dictionary that JSON can hold."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> AdapterSpec:
        """From :meth:`to_json`."""
        values = dict(content)
        values |= {name: tuple(values.get(name, ())) for name in ("targets", "layers", "tokens")}
        values["labels"] = {int(value): name for value, name in values["labels"].items()}
        return AdapterSpec(**values)


@dataclass(frozen=True)
class Adapter:
    """An adapter in memory.

    Args:
        spec: what it was made for.
        tensors: the trained tensors under the network's own names.
        record: what is told and not compared: training cases (salted digests), metrics, date, code version.
        path: of the file that it was read from; what sentences call it.
        digest: of that file's bytes, "sha256:hex"; empty where there is none.
    """

    spec: AdapterSpec
    tensors: dict[str, Tensor]
    record: dict[str, Any] = field(default_factory=dict)
    path: Path = Path("the adapter")
    digest: str = ""


def describe_cases(contents: list[str]) -> dict[str, Any]:
    """Digests of training cases under a fresh salt: a holder of a case can check it, nobody can read a name.

    Args:
        contents: one content digest per case.
    """
    salt = secrets.token_hex(16)
    return {"salt": salt, "cases": sorted(hashlib.sha256((salt + c).encode()).hexdigest() for c in contents)}


def write_adapter(path: Path, adapter: Adapter) -> None:
    """Write an adapter, aside and renamed: a reader sees all of it or the file before."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter.tensors.items()}
    content = {
        "format_version": FORMAT_VERSION,
        "spec": adapter.spec.to_json(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "code_version": __version__,
        **adapter.record,
    }
    said = json.dumps(content)
    metadata = {METADATA_KEY: said, "seal": _seal(said, tensors)}
    with write_aside(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))  # save_file would make it readable by its owner alone


def _seal(said: str, tensors: Mapping[str, Tensor]) -> str:
    """Digest of all that an adapter says, as it is written, and holds."""
    return f"sha256:{hashlib.sha256((said + tensors_digest(tensors)).encode()).hexdigest()}"


def read_adapter(path: Path, checked: str = "") -> Adapter:
    """Read an adapter and check its seal.

    The file is read once: what is hashed is what is used, whatever becomes of the file meanwhile.

    Args:
        path: of the file.
        checked: digest of a file whose seal is known to match, as that of a promoted one; where this is the same file,
            byte for byte, its tensors are not hashed a second time.

    Raises:
        AdapterError: if the file is missing, no safetensors file, not an adapter of ours, of an unknown format
            version, cut short, or altered since it was written.
    """
    if not path.is_file():
        raise AdapterError(f"There is no adapter {path}.")
    try:
        written = path.read_bytes()
        tensors = load(written)
        length = int.from_bytes(written[:8], "little")  # of the header; `load` knows that it is a sound one
        metadata = json.loads(written[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterError(
            f"{path} is no readable safetensors file: it is cut short, or of another format (a pickle is never read "
            f"as an adapter). A foreign adapter is taken in with `python scripts/adapter.py import`."
        ) from error
    if METADATA_KEY not in metadata:
        raise AdapterError(
            f"{path} is a safetensors file but no adapter of SAM-LoRA: `python scripts/adapter.py import` takes in "
            f"the formats of Sam_LoRA and SAMed."
        )
    try:
        content = json.loads(metadata[METADATA_KEY])
        version, spec = content.pop("format_version"), AdapterSpec.from_json(content.pop("spec"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(
            f"{path} was altered after it was written: what it says of itself cannot be read."
        ) from error
    if version not in range(1, FORMAT_VERSION + 1):
        raise AdapterError(
            f"{path} has format version {version}, this code reads versions 1 to {FORMAT_VERSION}: update the code."
        )
    digest = f"sha256:{hashlib.sha256(written).hexdigest()}"
    if digest != checked and metadata.get("seal") != _seal(metadata[METADATA_KEY], tensors):
        raise AdapterError(f"{path} was altered after it was written: its content does not match its seal.")
    return Adapter(spec, tensors, content, path, digest)


def check_adapter(adapter: Adapter, spec: AdapterSpec, path: Path) -> None:
    """Make sure that an adapter fits a network.

    Labels are refused where one value has two names. A foreign adapter knows no base digest and no intensity: its
    variant is all there is to compare.

    Raises:
        AdapterError: naming the first field that differs, and both values.
    """
    said = adapter.spec.to_json()
    for name, mine in spec.to_json().items():
        theirs = said[name]
        optional = name in {"base_digest", "intensity"} and not (theirs and mine)
        if name == "labels":
            optional = all(mine[value] == theirs[value] for value in mine.keys() & theirs.keys())
        if theirs != mine and not optional:
            raise AdapterError(
                f"{path} was made for {name} {_show(theirs)}, this network has {name} {_show(mine)}. Give the adapter's "
                f"own value, or none."
            )


def _show(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list | tuple) else str(value)
