"""Training, scoring, batches and the next image over HTTP, as MONAI Label's clients speak it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, HTTPException
from monailabel.interfaces.app import MONAILabelApp
from monailabel.utils.async_tasks.task import AsyncTask

from monailabel_app.lib.http.checks import INFER_PARAMS, TRAIN_PARAMS, allowed, check_params
from monailabel_app.lib.tasks import running_task, start_batch, start_task, stop_task

Params = Annotated[dict[str, Any] | None, Body()]


def task_routes(app: MONAILabelApp) -> APIRouter:
    """``/activelearning/{strategy}``, ``/train/``, ``/scoring/`` and ``/batch/infer``.

    Args:
        app: does the work; a training's in a process of its own.
    """
    router = APIRouter()

    @router.post("/activelearning/{strategy}")
    def next_sample(strategy: str, params: Params = None) -> Any:
        _known("strategy", strategy, app.info()["strategies"])
        client = check_params(params).get("client_id")
        found = app.next_sample({"strategy": strategy, "client_id": client if isinstance(client, str) else ""})
        return {**app.datastore().get_image_info(found["id"]), **found} if found else {}

    @router.post("/train/{model}")
    def train(model: str, params: Params = None) -> Any:
        _known("trainer", model, app.info()["trainers"])
        request = allowed(check_params(params), TRAIN_PARAMS)
        return app.start_training(request)

    @router.post("/train/")
    def train_all(params: Params = None) -> Any:
        checked = check_params(params)
        result = {}
        for model in app.info()["trainers"]:
            given = checked.get(model)
            request = allowed(given if isinstance(given, dict) else {}, TRAIN_PARAMS)
            result[model] = {"result": app.start_training(request), "detail": None}
        return result

    @router.post("/scoring/{method}")
    def score(method: str, params: Params = None) -> Any:
        _known("scoring method", method, app.info()["scoring"])
        check_params(params)
        return start_task("scoring", {"method": method})

    @router.post("/batch/infer/{model}")
    def batch(model: str, images: Literal["all", "labeled", "unlabeled"] = "unlabeled", params: Params = None) -> Any:
        _known("model", model, app.info()["models"])
        return start_batch(model, images, allowed(check_params(params), INFER_PARAMS))

    for path, method in (("/train/", "train"), ("/scoring/", "scoring"), ("/batch/infer", "batch_infer")):
        router.add_api_route(path, _status(method), methods=["GET"], name=f"{method}_status")
        router.add_api_route(path, _stop(method), methods=["DELETE"], name=f"{method}_stop")
    return router


def _known(what: str, name: str, among: Any) -> None:
    if name not in among:
        raise HTTPException(404, f"There is no {what} {name[:100]!r}: {', '.join(among) or 'none'} are known.")


def _status(method: str) -> Any:
    def status(all: bool = False, check_if_running: bool = False) -> Any:  # noqa: A002  the protocol's name
        if check_if_running:  # MONAI Label's own answer is no until the process of a task has started
            found, reason = running_task(method), f"No task of {method} is running"
        else:
            found, reason = AsyncTask.status(method, all)
        if found is None:
            raise HTTPException(404, f"{reason}.")
        return found

    return status


def _stop(method: str) -> Any:
    def stop() -> Any:
        return stop_task(method)

    return stop
