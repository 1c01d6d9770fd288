"""The adapters of a server: a folder of sealed files, each loaded when it is first asked for, and looked at anew each time."""

from __future__ import annotations

import logging
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from sam_lora.adapter import AdapterError, read_adapter
from sam_lora.build import build_sam_lora
from sam_lora.cache import TensorCache
from sam_lora.embedding import Embedder
from sam_lora.weights import file_digest

logger = logging.getLogger(__name__)

ENDING = ".safetensors"
NEWEST, BASE = "newest", "none"  # what a request may ask for besides names
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_LOADED = 3  # networks kept in memory: the newest, and two that somebody compares it with


@dataclass(frozen=True)
class Served:
    """A network that answers requests.

    Args:
        name: of the adapter; "none" for the base without one.
        digest: of the adapter's file, "sha256:hex"; empty for the base.
        embedder: the merged network and its caches.
        labels: value -> name, as the adapter was trained.
        tokens: those of these values that it segments without a prompt.
        intensity: how it wants raw images, see :func:`sam_lora.cases.to_uint8`.
    """

    name: str
    digest: str
    embedder: Embedder
    labels: dict[int, str]
    tokens: tuple[int, ...]
    intensity: dict


class Adapters:
    """What is in a folder now, and what was loaded from it.

    A file counts from the moment it has its name, so whoever publishes one writes it aside and renames it. A file that
    cannot be read, or belongs to another base, is passed over with a line in the log when the newest is asked for,
    and refused with its reason when it is asked for by name.

    Args:
        folder: of adapter files; may be missing.
        variant: the base that serves without an adapter.
        device: where networks go.
        embeddings: cache shared by all of them.
    """

    def __init__(self, folder: Path, variant: str, device: str, embeddings: TensorCache) -> None:
        self.folder, self.variant, self.device, self.embeddings = folder, variant, device, embeddings
        self._lock = threading.Lock()
        self._loaded: OrderedDict[tuple, Served] = OrderedDict()
        self._refused: set[tuple] = set()

    def names(self) -> list[str]:
        """Of the adapters in the folder, the newest first."""
        found = [path for path in self.folder.glob(f"*{ENDING}") if _NAME.fullmatch(path.name.removesuffix(ENDING))]
        return [path.name.removesuffix(ENDING) for path in sorted(found, key=_age, reverse=True)]

    def get(self, asked: str | None = None) -> Served:
        """The network of an adapter.

        Args:
            asked: its name; "newest" or None: the newest that can be used, else the base; "none": the base.

        Raises:
            AdapterError: if there is no such adapter, or it cannot be used.
        """
        if asked not in (None, "", NEWEST):
            return self._load(str(asked))
        for name in self.names():
            try:
                return self._load(name)
            except AdapterError as error:
                key = self._key(name)
                if key not in self._refused:
                    logger.warning("The adapter %s is passed over: %s", name, error)
                self._refused.add(key)
        return self._load(BASE)

    def newest_labels(self) -> dict[int, str]:
        """Value -> name of the newest adapter that can be read, without loading its network; empty without one."""
        for name in self.names():
            try:
                return dict(read_adapter(self.folder / f"{name}{ENDING}").spec.labels)
            except AdapterError as error:
                logger.warning("The adapter %s is passed over: %s", name, error)
        return {}

    def _key(self, name: str) -> tuple:
        try:
            status = (self.folder / f"{name}{ENDING}").stat()
        except OSError:
            return (name,)
        return name, status.st_mtime_ns, status.st_size

    def _load(self, name: str) -> Served:
        if name != BASE and name not in self.names():
            known = ", ".join([NEWEST, BASE, *self.names()])
            raise AdapterError(f"adapter must be one of {known}, got {name!r}.")
        with self._lock:
            key = (BASE,) if name == BASE else self._key(name)
            if key not in self._loaded:
                self._loaded[key] = self._build(name)
                while len(self._loaded) > _LOADED:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(key)
            return self._loaded[key]

    def _build(self, name: str) -> Served:
        path = self.folder / f"{name}{ENDING}"
        network = build_sam_lora(self.variant) if name == BASE else build_sam_lora(adapter=str(path))
        spec, digest = network.spec, "" if name == BASE else file_digest(path, "sha256")
        embedder = Embedder(network.to(self.device).merged(), self.embeddings)
        logger.info("loaded the adapter %s (%s)", name, digest or self.variant)
        return Served(name, digest, embedder, dict(spec.labels), tuple(spec.tokens), dict(spec.intensity))


def _age(path: Path) -> tuple[int, str]:
    try:
        return path.stat().st_mtime_ns, path.name
    except OSError:  # gone since the folder was listed
        return 0, path.name
