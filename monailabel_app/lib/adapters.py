"""The adapters of a server: the registry's champion answers, and any other by name; each is loaded when it is first asked for."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from sam_lora.adapter import AdapterError, read_adapter
from sam_lora.build import Base, build_sam_lora, load_base
from sam_lora.cache import TensorCache
from sam_lora.embedding import Embedder
from sam_lora.registry import BASE, CHAMPION, Registry, RegistryError

logger = logging.getLogger(__name__)

_LOADED = 3  # networks kept in memory: the champion, and two that somebody compares it with


@dataclass(frozen=True)
class Served:
    """A network that answers requests; it never changes.

    Args:
        name: of the adapter; "none" for the base without one.
        digest: of the adapter's file, "sha256:hex"; empty for the base.
        embedder: the merged network and its caches.
        labels: value -> name, as the adapter was trained.
        tokens: those of these values that it segments without a prompt.
        intensity: how it wants raw images, see :func:`sam_lora.cases.to_uint8`.
        quality: protocol -> mean Dice on the held-out cases when it was trained; empty where nobody measured it.
    """

    name: str
    digest: str
    embedder: Embedder
    labels: dict[int, str]
    tokens: tuple[int, ...]
    intensity: dict
    quality: dict[str, float] = field(default_factory=dict)


class Adapters:
    """A registry, and the networks of what is in it.

    Which adapter is the champion is read from the registry at each request, so that a promotion or a roll-back by
    whatever process holds from the next request on. An answer is one network's from its beginning to its end.

    Args:
        folder: of the registry; may be missing.
        variant: the base that serves without an adapter.
        device: where networks go.
        embeddings: cache shared by all of them.
        base: of some variant, where it is on the device already; read when it is first needed otherwise.
    """

    def __init__(
        self, folder: Path, variant: str, device: str, embeddings: TensorCache, base: Base | None = None
    ) -> None:
        self.folder, self.variant, self.device, self.embeddings = folder, variant, device, embeddings
        self.registry = Registry(folder)
        self._lock = threading.Lock()  # of what is loaded; held for a moment
        self._loading = threading.Lock()  # held while a network is built; whoever asks for a loaded one needs it not
        self._loaded: OrderedDict[tuple, Served] = OrderedDict()
        self._refused: set[tuple] = set()
        self._base = base

    def names(self) -> list[str]:
        """Of the adapters in the folder, the newest first."""
        return self.registry.names()

    def get(self, asked: str | None = None) -> Served:
        """The network of an adapter.

        Args:
            asked: its name or digest; "champion" or None: the champion, where its file cannot be used the one before
                it, at last the base; "none": the base.

        Raises:
            AdapterError: if there is no such adapter, or it cannot be used.
        """
        if asked == BASE:
            return self._load(BASE, "")
        if asked not in (None, "", CHAMPION):
            served = self._load(self._named(str(asked)))
            if str(asked).startswith("sha256:") and served.digest != asked:
                raise AdapterError(f"{self.registry.path(served.name)} is another file than {asked}.")
            return served
        for entry in reversed(self.registry.line()):
            try:
                return self._load(self.registry.named(entry["name"]), entry["digest"])
            except ValueError as error:
                key = (entry["name"], entry["digest"])
                if key not in self._refused:
                    logger.error("The champion %s cannot serve, the one before it does: %s", entry["name"], error)
                self._refused.add(key)
        return self._load(BASE, "")

    def champion_labels(self) -> dict[int, str]:
        """Value -> name of the champion, without loading its network; empty without one."""
        name = self.registry.champion()
        return {} if name == BASE else dict(read_adapter(self.registry.path(name)).spec.labels)

    def _named(self, asked: str) -> str:
        try:
            return self.registry.named(asked)
        except RegistryError as error:
            known = ", ".join([CHAMPION, BASE, *self.names()])
            raise AdapterError(f"adapter must be one of {known}, or a digest of one, got {asked!r}.") from error

    def _load(self, name: str, digest: str | None = None) -> Served:
        key = (BASE,) if name == BASE else self._key(name)
        served = self._held(key)
        if served is None:
            with self._loading:
                served = self._held(key) or self._keep(key, self._build(name, digest or ""))
        if digest is not None and served.digest != digest:
            raise AdapterError(f"{self.registry.path(name)} is another file than was promoted.")
        return served

    def _held(self, key: tuple) -> Served | None:
        with self._lock:
            if key in self._loaded:
                self._loaded.move_to_end(key)
            return self._loaded.get(key)

    def _keep(self, key: tuple, served: Served) -> Served:
        with self._lock:
            self._loaded[key] = served
            while len(self._loaded) > _LOADED:
                self._loaded.popitem(last=False)
        return served

    def _key(self, name: str) -> tuple:
        try:
            status = self.registry.path(name).stat()
        except OSError as error:
            raise AdapterError(f"The adapter {name} was removed just now.") from error
        return name, status.st_mtime_ns, status.st_size

    def _build(self, name: str, promoted: str) -> Served:
        """Read and merge; ``promoted`` is the digest of the file whose seal was checked when it was promoted."""
        if name == BASE:
            network, digest = build_sam_lora(self.variant, base_of=self._base_of), ""
        else:
            adapter = read_adapter(self.registry.path(name), checked=promoted)
            network, digest = build_sam_lora(adapter=adapter, base_of=self._base_of), adapter.digest
        spec, merged = network.spec, network.merged(copied=False)
        embedder = Embedder(merged, self.embeddings, digest=f"{spec.base_digest} {digest}")
        logger.info("loaded the adapter %s (%s)", name, digest or self.variant)
        quality = {} if name == BASE else self._quality(name)
        return Served(name, digest, embedder, dict(spec.labels), tuple(spec.tokens), dict(spec.intensity), quality)

    def _quality(self, name: str) -> dict[str, float]:
        """Mean Dice by protocol of what an adapter's pedigree says of the hold-out."""
        try:
            scores = self.registry.pedigree(name).get("scores") or {}
        except RegistryError as error:  # its masks are none the worse
            logger.warning("the quality of %s is not known: %s", name, error)
            return {}
        found = {protocol: one.get("challenger") for protocol, one in scores.items()}
        return {protocol: round(value, 4) for protocol, value in found.items() if value is not None}

    def _base_of(self, variant: str) -> Base:
        """The base of a variant, read once; networks share with it what their adapters leave alone."""
        if self._base is None or self._base.variant != variant:
            self._base = load_base(variant)
            self._base.network.to(self.device)
        return self._base
