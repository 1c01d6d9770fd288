"""The HTTP server: MONAI Label's protocol, an allow-list of its routes, and nothing that is not asked for."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException
from starlette.exceptions import HTTPException

from monailabel_app.lib.device import BusyError
from monailabel_app.lib.http.adapters import adapter_routes
from monailabel_app.lib.http.guard import Guard, ServerRules
from monailabel_app.lib.http.infer import infer_routes
from monailabel_app.lib.http.studies import datastore_routes, session_routes
from monailabel_app.lib.http.tasks import task_routes
from monailabel_app.lib.service import ClientGoneError
from monailabel_app.lib.tasks import TaskRunningError
from sam_lora import __version__

__all__ = ["ServerRules", "create_server"]

_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^/\s'\",;]+/)+(?=[^/\s'\",;])")  # all of a path but its last name


def create_server(app: MONAILabelApp, rules: ServerRules) -> FastAPI:
    """The server of an app. Its endpoints run in threads: one inference does not keep the others from being answered.

    What MONAI Label's own server has besides (proxy, upload of models, reload, static pages) does not exist here.

    Args:
        app: answers.
        rules: who may ask for how much.
    """
    # FastAPI's pages about the routes load scripts from another server
    server = FastAPI(title="SAM-LoRA label server", version=__version__, docs_url=None, redoc_url=None)
    server.add_middleware(Guard, rules=rules)
    parts = app.parts
    _add_errors(server, [parts.service.adapters.folder, parts.folder])

    @server.get("/info/")
    def info() -> Any:
        return app.info()

    if rules.token is not None:
        _add_login(server, rules.token)
    server.include_router(infer_routes(app, rules))
    server.include_router(datastore_routes(app, app.datastore()))
    server.include_router(session_routes(app))
    server.include_router(task_routes(app))
    server.include_router(adapter_routes(app.parts.service.adapters.registry))
    return server


def _add_login(server: FastAPI, token: str) -> None:
    """How Slicer's client gets in: any user name, the token as password."""

    @server.get("/auth/")
    def enabled() -> Any:
        return {"enabled": True, "client_id": "sam-lora", "realm": ""}

    @server.post("/auth/token")
    def login(password: Annotated[str, Form()] = "") -> Any:
        if not hmac.compare_digest(password.encode(), token.encode()):
            raise HTTPException(401, "The password is not the server's token.", {"WWW-Authenticate": "Bearer"})
        return {"access_token": token, "token_type": "bearer"}

    @server.get("/auth/token/valid")
    def valid() -> Any:
        return {}


def _add_errors(server: FastAPI, folders: Sequence[Path]) -> None:  # noqa: C901  one function per error
    """Every error that can be foreseen, as a status and a sentence; what cannot is the guard's.

    Args:
        server: gets the handlers.
        folders: where the server's files are, which is no client's business.
    """
    hidden = [f"{path}/" for folder in folders for path in (folder, folder.resolve())]

    def answer(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        for folder in hidden:
            sentence = sentence.replace(folder, "")
        return JSONResponse({"detail": _FOLDERS.sub("", sentence)}, status, headers)

    @server.exception_handler(HTTPException)
    def said(_: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, error.detail, error.headers)

    @server.exception_handler(ValueError)
    def refused(_: Request, error: ValueError) -> JSONResponse:
        return answer(400, str(error))

    @server.exception_handler(MONAILabelException)
    def unknown(_: Request, error: MONAILabelException) -> JSONResponse:
        missing = isinstance(error, ImageNotFoundException | LabelNotFoundException)
        return answer(404 if missing else 400, str(error.msg))

    @server.exception_handler(TaskRunningError)
    def running(_: Request, error: TaskRunningError) -> JSONResponse:
        return answer(429, str(error))

    @server.exception_handler(BusyError)
    def busy(_: Request, error: BusyError) -> JSONResponse:
        return answer(503, str(error), {"Retry-After": "2"})

    @server.exception_handler(ClientGoneError)
    def gone(_: Request, error: ClientGoneError) -> JSONResponse:
        return answer(499, str(error))

    @server.exception_handler(RequestValidationError)
    def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        said = "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors())
        return answer(422, f"The request is not what this route takes: {said}.")
