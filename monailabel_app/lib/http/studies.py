"""Images, labels and sessions over HTTP, as MONAI Label's clients speak it."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, BackgroundTasks, File, Form, HTTPException, UploadFile
from fastapi.responses import FileResponse
from monailabel.interfaces.app import MONAILabelApp

from monailabel_app.lib.datastores.local import MODEL_TAGS, StudiesFolder
from monailabel_app.lib.http.checks import RequestError, read_params, received, safe_name
from monailabel_app.lib.http.infer import find_session

MAX_SESSION_FILES = 4000  # slices of a series; FastAPI's own limit is 1000
_BLOCK = 1 << 20


def datastore_routes(app: MONAILabelApp, store: StudiesFolder) -> APIRouter:  # noqa: C901  one function per route
    """``/datastore/...``.

    Args:
        app: is told of saved labels.
        store: the images and labels.
    """
    router = APIRouter(prefix="/datastore")

    @router.get("/")
    def datastore(output: Literal["stats", "all", "train"] = "stats") -> Any:
        if output == "stats":
            return store.status()
        return store.json() if output == "all" else store.datalist()

    @router.put("/", include_in_schema=False)
    @router.put("/image")
    def add_image(file: Annotated[UploadFile, File()], image: str = "", params: Annotated[str, Form()] = "{}") -> Any:
        info = read_params(params)
        name = safe_name(file.filename)
        with received(file.file, name) as path:
            target = path.with_name(name)
            path.rename(target)
            return {"image": store.add_image(image, str(target), info)}

    @router.get("/image")
    def image(image: str) -> FileResponse:
        return _file(store.get_image_uri(image))

    @router.head("/image")
    def has_image(image: str, check_sum: str | None = None) -> Any:
        path = store.get_image_uri(image)
        if check_sum is not None and check_sum.split(":")[-1].lower() != _sha256(Path(path)):
            raise HTTPException(404, f"The image {image!r} has another SHA256.")
        return {}

    @router.delete("/", include_in_schema=False)
    @router.delete("/image")
    def remove_image(id: str) -> Any:  # noqa: A002  the protocol's name
        store.remove_image(id)
        return {}

    @router.get("/image/info")
    def image_info(image: str) -> Any:
        store.get_image_uri(image)
        return store.get_image_info(image)

    @router.put("/image/info")
    def put_image_info(image: str, info: Annotated[str, Form()] = "{}") -> Any:
        store.update_image_info(image, read_params(info))
        return {}

    @router.put("/label")
    def save_label(
        image: str, label: Annotated[UploadFile, File()], tag: str = "", params: Annotated[str, Form()] = "{}"
    ) -> Any:
        info = {**read_params(params), **app.parts.service.answered(Path(store.get_image_uri(image)))}
        with received(label.file, label.filename) as path:
            saved = store.save_label(image, str(path), tag or "final", info)
        app.on_save_label(image, saved)
        return {"image": image, "label": saved}

    @router.get("/label")
    def label(label: str, tag: str) -> FileResponse:
        return _label(app, store, label, tag)

    @router.head("/label")
    def has_label(image: str, tag: str) -> Any:
        store.get_label_uri(image, tag)
        return {}

    @router.delete("/label")
    def remove_label(id: str, tag: str) -> Any:  # noqa: A002  the protocol's name
        store.remove_label(id, tag)
        return {}

    @router.get("/label/info")
    def label_info(label: str, tag: str) -> Any:
        store.get_label_uri(label, tag)
        return store.get_label_info(label, tag)

    @router.put("/label/info")
    def put_label_info(label: str, tag: str, info: Annotated[str, Form()] = "{}") -> Any:
        store.update_label_info(label, tag, read_params(info))
        return {}

    @router.get("/label/versions")
    def label_versions(image: str, tag: str = "final") -> Any:
        return store.label_versions(image, tag)

    @router.get("/dataset")
    def dataset(background: BackgroundTasks, limit_cases: int | None = None) -> FileResponse:
        path = Path(store.get_dataset_archive(limit_cases))
        background.add_task(path.unlink)
        return FileResponse(path, media_type="application/zip", filename="dataset.zip")

    return router


def session_routes(app: MONAILabelApp) -> APIRouter:  # noqa: C901  one function per route
    """``/session/...``: images that a user brings along, which are not kept."""
    router = APIRouter(prefix="/session")

    @router.put("/", form_limits={"max_files": MAX_SESSION_FILES})
    def create(files: Annotated[list[UploadFile], File()], uncompress: bool = False, expiry: int = 0) -> Any:
        if uncompress:
            raise RequestError("uncompress is not supported: send the files themselves.")
        if not 0 <= expiry <= 30 * 86400:
            raise RequestError(f"expiry must be a number of seconds from 0 to {30 * 86400}, got {expiry}.")
        with tempfile.TemporaryDirectory(prefix="sam-lora-") as folder:
            images = Path(folder) / "images"
            images.mkdir()
            for number, file in enumerate(files):
                # the number keeps two of one name apart; an image alone keeps its ending, by which it is read
                name = safe_name(file.filename) if len(files) == 1 else f"{number:05d}_{safe_name(file.filename)}"
                with (images / name).open("wb") as target:
                    shutil.copyfileobj(file.file, target)
            image = images if len(files) > 1 else next(images.iterdir())
            session_id, info = app.sessions().add_session(str(image), expiry)
        return {"session_id": session_id, "session_info": info.to_json()}

    @router.get("/{session_id}", response_model=None)
    def get(session_id: str, update_ts: bool = False, image: bool = False) -> Any:
        name, session = find_session(app, session_id, update_ts or image)
        if not image:
            return session.to_json()
        if not Path(session.image).is_file():
            raise HTTPException(404, f"The session {name} holds several files: there is no one file to give.")
        return _file(session.image)

    @router.delete("/{session_id}")
    def remove(session_id: str) -> Any:
        name, session = find_session(app, session_id)
        app.sessions().remove_session(name)
        return session.to_json()

    return router


def _label(app: MONAILabelApp, store: StudiesFolder, label: str, tag: str) -> FileResponse:
    path = store.get_label_uri(label, tag)
    if tag in MODEL_TAGS:  # a draft: what is saved next is a correction of it
        app.parts.service.remember(Path(store.get_image_uri(label)), store.get_label_info(label, tag))
    return _file(path)


def _file(path: str) -> FileResponse:
    return FileResponse(path, media_type="application/octet-stream", filename=Path(path).name)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()
