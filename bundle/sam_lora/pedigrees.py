"""What the pedigrees of a registry tell: who was trained on, and how two adapters compare."""

from __future__ import annotations

from typing import Any

from sam_lora.registry import BASE, Registry, RegistryError


def trained_on(registry: Registry, case: str) -> list[str]:
    """Names of the adapters, removed ones too, that were trained on a case, or started from one that was.

    Args:
        registry: of adapters.
        case: id of an image, or of a patient.
    """
    pedigrees = {name: registry.pedigree(name) for name in registry.known()}

    def saw(name: str) -> bool:
        """A parent is older than its child: this ends."""
        pedigree = pedigrees.get(name, {})
        cases = pedigree.get("cases", [])
        return any(case in (one.get("image"), one.get("patient")) for one in cases) or saw_parent(pedigree)

    def saw_parent(pedigree: dict[str, Any]) -> bool:
        return pedigree.get("parent", BASE) != BASE and saw(pedigree["parent"])

    return [name for name in pedigrees if saw(name)]


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
