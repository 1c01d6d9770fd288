"""What the pedigrees of a registry tell: who was trained on, and how two adapters compare."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sam_lora.registry import BASE, Registry, RegistryError


def trained_on(registry: Registry, case: str) -> list[str]:
    """Names of the adapters, removed ones too, that were trained on a case, or started from one that was.

    See :func:`of_unknown_origin` for those of which nobody can tell.

    Args:
        registry: of adapters.
        case: id of an image, or of a patient.
    """

    def saw(pedigree: dict[str, Any]) -> bool:
        return any(case in (one.get("image"), one.get("patient")) for one in pedigree.get("cases", []))

    return [name for name in registry.known() if any(saw(one) for one in _ancestry(registry, name))]


def of_unknown_origin(registry: Registry) -> list[str]:
    """Names of the adapters without a pedigree, put there by hand, and of those that started from one."""
    names = sorted({*registry.known(), *registry.names()})
    return [name for name in names if not all(_ancestry(registry, name))]


def _ancestry(registry: Registry, name: str) -> Iterator[dict[str, Any]]:
    """The pedigrees of an adapter, of what it started from, and so on; empty for one that has none."""
    while name != BASE:  # a parent is older than its child: this ends
        pedigree = registry.pedigree(name)
        yield pedigree
        name = pedigree.get("parent", BASE)


def compare_judged(registry: Registry, first: str, second: str) -> dict[str, dict[str, Any]]:
    """What two adapters reached on the held-out cases that both were judged on.

    Args:
        registry: of adapters.
        first: name.
        second: name.

    Returns:
        Protocol -> ``{"first", "second", "difference", "pairs"}``: mean Dice over the pairs of case and label, and how
        many there are.

    Raises:
        RegistryError: if there is no such adapter, or nothing that both were judged on.
    """
    judged = [_judged(registry, name) for name in (first, second)]
    result = {}
    for protocol in sorted(judged[0].keys() & judged[1].keys()):
        mine, theirs = judged[0][protocol], judged[1][protocol]
        keys = sorted(mine.keys() & theirs.keys())
        if keys:
            means = [sum(one[key] for key in keys) / len(keys) for one in (mine, theirs)]
            result[protocol] = {
                "first": means[0], "second": means[1], "difference": means[1] - means[0], "pairs": len(keys),
            }  # fmt: skip
    if not result:
        raise RegistryError(f"{first} and {second} were not judged on a case that both have.")
    return result


def _judged(registry: Registry, name: str) -> dict[str, dict[tuple[str, str], float]]:
    registry.path(name)  # refuses what is not there
    scores = registry.pedigree(name).get("scores") or {}
    return {
        protocol: {(pair["case"], pair["label"]): pair["challenger"] for pair in one["pairs"]}
        for protocol, one in scores.items()
    }
