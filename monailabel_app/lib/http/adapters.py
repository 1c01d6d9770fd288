"""The registry of adapters over HTTP: what there is, what it came from, which one serves."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException

from sam_lora.pedigrees import compare_judged, of_unknown_origin
from sam_lora.pedigrees import trained_on as find_trained_on
from sam_lora.registry import Registry, RegistryError


def adapter_routes(registry: Registry) -> APIRouter:  # noqa: C901  one function per route
    """``/adapters/...``; whoever may use the server may use them.

    Args:
        registry: of the served adapters.
    """
    router = APIRouter(prefix="/adapters")

    @router.get("/")
    def adapters(trained_on: str | None = None) -> Any:
        found: dict[str, Any] = {"champion": registry.champion(), "line": registry.line()}
        if trained_on is None:
            return {**found, "adapters": registry.names()}
        return {
            **found, "adapters": find_trained_on(registry, trained_on), "unknown": of_unknown_origin(registry),
        }  # fmt: skip

    @router.get("/compare")
    def compare(first: str, second: str) -> Any:
        return compare_judged(registry, _known(first), _known(second))

    @router.get("/{name}")
    def adapter(name: str) -> Any:
        return registry.pedigree(_known(name))

    @router.post("/rollback")
    def rollback() -> Any:
        return {"champion": registry.rollback("asked for over HTTP")}

    @router.post("/prune")
    def prune(keep: int = 5) -> Any:
        return {"removed": registry.prune(keep)}

    @router.post("/{name}/promote")
    def promote(name: str) -> Any:
        registry.promote(_known(name), "asked for over HTTP")
        return {"champion": registry.champion()}

    def _known(name: str) -> str:
        try:
            return registry.named(name)
        except RegistryError as error:
            raise HTTPException(404, str(error)[:500]) from error

    return router
