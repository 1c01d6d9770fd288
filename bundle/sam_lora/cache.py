"""Tensors worth keeping between clicks: bounded in bytes, shared by threads, each computed once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class CacheStatistics:
    """What a cache has done: answers found, answers computed, and bytes held now."""

    hits: int
    misses: int
    bytes: int


class TensorCache:
    """Least recently used first out; a value that several threads ask for at once is computed by one of them.

    Values are shared: nobody may write into them.

    Args:
        max_bytes: of all tensors held; one that is larger by itself is handed out and not kept.

    Raises:
        ValueError: if ``max_bytes`` is negative.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes of a cache must be at least 0, got {max_bytes}.")
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, Tensors] = OrderedDict()
        self._in_flight: dict[Hashable, Future[Tensors]] = {}
        self._bytes = self._hits = self._misses = 0

    @property
    def statistics(self) -> CacheStatistics:
        """Hits, misses and bytes up to now."""
        with self._lock:
            return CacheStatistics(self._hits, self._misses, self._bytes)

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._held

    def clear(self) -> None:
        """Forget everything, for instance before a training wants the memory."""
        with self._lock:
            self._held.clear()
            self._bytes = 0

    def get(self, key: Hashable, make: Callable[[], Tensors]) -> Tensors:
        """The value of one key; see :meth:`get_many`."""
        return self.get_many([key], lambda _: [make()])[0]

    def get_many(self, keys: Sequence[Hashable], make: Callable[[list[int]], Sequence[Tensors]]) -> list[Tensors]:
        """The values of several keys, those that nobody has computed in one call.

        Args:
            keys: of what is wanted.
            make: positions in ``keys`` of what is missing -> their values. What it raises is raised here; another
                thread that waits for one of these keys then computes it itself.

        Returns:
            One value per key, in their order.
        """
        found: dict[Hashable, Tensors] = {}
        distinct = list(dict.fromkeys(keys))
        while len(found) < len(distinct):
            mine, theirs = self._claim([key for key in distinct if key not in found], found)
            # What this thread claimed is computed before it waits for others: nobody waits in a circle.
            if mine:
                found |= self._make(mine, keys, make)
            for key, future in theirs.items():
                if future.exception() is None:
                    found[key] = future.result()
                    with self._lock:
                        self._hits += 1
        return [found[key] for key in keys]

    def _claim(
        self, keys: Sequence[Hashable], found: dict[Hashable, Tensors]
    ) -> tuple[list[Hashable], dict[Hashable, Future[Tensors]]]:
        """Put what is held into ``found``; divide the rest into keys for this thread and those in other hands."""
        mine: list[Hashable] = []
        theirs: dict[Hashable, Future[Tensors]] = {}
        with self._lock:
            for key in keys:
                if key in self._held:
                    self._held.move_to_end(key)
                    found[key] = self._held[key]
                    self._hits += 1
                elif key in self._in_flight:
                    theirs[key] = self._in_flight[key]
                else:
                    mine.append(key)
                    self._in_flight[key] = Future()
                    self._misses += 1
        return mine, theirs

    def _make(
        self, mine: list[Hashable], keys: Sequence[Hashable], make: Callable[[list[int]], Sequence[Tensors]]
    ) -> dict[Hashable, Tensors]:
        try:
            made = dict(zip(mine, make([keys.index(key) for key in mine]), strict=True))
        except BaseException as error:
            with self._lock:
                waiting = [self._in_flight.pop(key) for key in mine]
            for future in waiting:
                future.set_exception(error)
            raise
        with self._lock:
            for key, value in made.items():
                self._keep(key, value)
            waiting = [self._in_flight.pop(key) for key in mine]
        for future, value in zip(waiting, made.values(), strict=True):
            future.set_result(value)
        return made

    def _keep(self, key: Hashable, value: Tensors) -> None:
        size = size_of(value)
        if size > self.max_bytes:
            return
        self._held[key] = value
        self._bytes += size
        while self._bytes > self.max_bytes:
            self._bytes -= size_of(self._held.popitem(last=False)[1])


def size_of(value: Tensors) -> int:
    """Bytes of a value's tensors."""
    return sum(tensor.nbytes for tensor in value)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What products on a device are computed in where mixed precision is on, None where it is off: part of a key."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
