"""Inference over HTTP, as MONAI Label's clients speak it."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio.from_thread
from fastapi import APIRouter, File, Form, HTTPException, Request, Response, UploadFile
from monailabel.interfaces.app import MONAILabelApp
from monailabel.utils.sessions import SessionInfo
from requests_toolbelt import MultipartEncoder

from monailabel_app.lib.http.checks import INFER_PARAMS, RequestError, allowed, read_params, received
from monailabel_app.lib.http.guard import ServerRules


def infer_routes(app: MONAILabelApp, rules: ServerRules) -> APIRouter:
    """``POST /infer/{model}``.

    Args:
        app: answers.
        rules: how many may wait, and how long.
    """
    router, places = APIRouter(), threading.BoundedSemaphore(rules.max_waiting)

    @contextmanager
    def a_place() -> Iterator[None]:
        if not places.acquire(blocking=False):
            raise HTTPException(
                503, f"{rules.max_waiting} inferences are waiting already: try again in a while.", {"Retry-After": "2"}
            )
        try:
            yield
        finally:
            places.release()

    @router.post("/infer/{model}", summary="Segment an image from clicks, boxes, or without a prompt")
    def infer(
        http: Request,
        model: str,
        image: str = "",
        session_id: str = "",
        output: Literal["image", "json", "all"] | None = None,
        params: Annotated[str, Form()] = "{}",
        file: Annotated[UploadFile | None, File()] = None,
    ) -> Response:
        if model not in app.info()["models"]:
            raise HTTPException(404, f"There is no model {model[:100]!r}: {', '.join(app.info()['models'])} are known.")
        if http.headers.get("content-type", "").startswith("application/json"):
            raise RequestError("params come in a form, as the field params: a JSON body is not looked at.")
        request = {"model": model, **allowed(read_params(params), INFER_PARAMS)}
        with a_place(), ExitStack() as stack:
            if file is not None:
                upload = stack.enter_context(received(file.file, file.filename))
                stack.callback(app.parts.service.forget, upload)  # the next upload has another path
                request["image"] = str(upload)
            else:
                request["image"] = (
                    find_session(app, session_id)[1].image if session_id else app.datastore().get_image_uri(image)
                )
            request["max_wait_seconds"] = rules.max_wait_seconds
            request["is_cancelled"] = lambda: anyio.from_thread.run(http.is_disconnected)
            answer = app.infer(request)
        return _response(Path(answer["file"]), answer["params"], output)

    return router


def find_session(app: MONAILabelApp, session_id: str, update_ts: bool = True) -> tuple[str, SessionInfo]:
    """A session by its id, and the id as it was given out; 404 where the session has ended or never was.

    Args:
        app: keeps the sessions.
        session_id: of a client.
        update_ts: it is used now: its time begins anew.
    """
    try:
        name = str(uuid.UUID(session_id))
    except ValueError as error:
        raise RequestError(f"session_id must be what PUT /session/ gave, got {session_id[:60]!r}.") from error
    session = app.sessions().get_session(name, update_ts=update_ts)
    if session is None:
        raise HTTPException(404, f"The session {name} has ended: send the image again.")
    return name, session


def _response(path: Path, params: dict[str, Any], output: str | None) -> Response:
    content = path.read_bytes()
    path.unlink()
    if output == "json":
        return Response(json.dumps(params), media_type="application/json")
    if output == "image":
        name = {"Content-Disposition": f'attachment; filename="{path.name}"'}
        return Response(content, media_type="application/octet-stream", headers=name)
    form = MultipartEncoder(
        {
            "params": (None, json.dumps(params), "application/json"),
            "image": (path.name, content, "application/octet-stream"),
        }
    )
    return Response(form.to_string(), media_type=form.content_type)
