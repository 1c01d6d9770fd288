"""Which adapter a training goes on from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sam_lora.adapter import read_adapter
from sam_lora.registry import BASE, Registry

logger = logging.getLogger(__name__)


def choose_parent(registry: Registry, settings: Mapping[str, Any], names: Mapping[int, str]) -> str:
    """What a training starts from: name of the champion, where it fits what is asked for, else "none".

    Args:
        registry: the adapters, and which of them serves.
        settings: see :func:`monailabel_app.lib.trainers.settings.read_settings`.
        names: value -> name of the labels that are to be learned; the champion has to know each by the same value.
    """
    name = registry.champion()
    if settings["start"] == "base" or name == BASE:
        return BASE
    adapter = read_adapter(registry.path(name))
    learned = {value: adapter.spec.labels.get(value) for value in adapter.spec.tokens}
    reasons = [
        f"it has not learned {label}, or by another value than {value}"
        for value, label in names.items()
        if learned.get(value) != label
    ] + [
        f"its {what} is {is_now}, not {asked}"
        for what, is_now, asked in (
            ("preset", adapter.record.get("preset"), settings["preset"]),
            ("image_size", adapter.spec.image_size, settings["image_size"] or adapter.spec.image_size),
        )
        if is_now != asked
    ]
    if reasons:
        logger.info("the training starts from the base and not from %s: %s", name, reasons[0])
    return BASE if reasons else name
