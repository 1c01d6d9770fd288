"""The server's door: holes of a stock server are closed, malformed requests get a sentence, nothing blocks the rest."""

import gzip
import io
import json
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from fastapi.testclient import TestClient
from monailabel.utils.async_tasks.task import AsyncTask

from monailabel_app.lib.http.guard import ServerRules
from monailabel_app.lib.serving import rules_of
from monailabel_app.main import SamLoraLabel
from monailabel_app.server import create_server
from sam_lora.cases import write_nifti
from tests.conftest import REPOSITORY, write_champion

BOX = [4, 20, 4, 18, 2, 2]


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server") / "studies"
    folder.mkdir()
    for name in ("a", "b"):
        write_nifti(folder / f"{name}.nii.gz", np.random.RandomState(0).rand(24, 22, 5).astype(np.float32), np.eye(4))
    (folder / ".sam_lora" / "adapters").mkdir(parents=True)
    write_champion(folder / ".sam_lora" / "adapters", "r")
    app = SamLoraLabel(str(REPOSITORY / "monailabel_app"), str(folder), {"labels": "spleen,liver"})
    app._auto_update_scoring = False  # as scripts/serve.py has it
    app._sessions.store_path = str(folder.parent / "sessions")
    return app


@pytest.fixture(scope="module")
def client(app):
    return TestClient(
        create_server(app, ServerRules()), base_url="http://127.0.0.1:8000", raise_server_exceptions=False
    )


def files(app):
    folder = app.parts.datastore._datastore_path
    return {str(path) for path in Path(folder).parent.rglob("*") if path.is_file() and path.name != ".lock"}


def infer(client, model="sam_lora", image="a", **params):
    return client.post(f"/infer/{model}?image={image}", data={"params": json.dumps(params)})


def label_file():
    return {"label": ("x.nii.gz", b"no label")}


def image_file(name="x.nii.gz"):
    return {"file": (name, b"print('run')")}


def drawn(shape):
    return {"label": ("x.nii.gz", gzip.compress(nibabel.Nifti1Image(np.ones(shape, np.uint8), np.eye(4)).to_bytes()))}


# request -> (status, part of the sentence); the first rows are the holes of a stock server, by number
REFUSED = {
    "S1 an upload over the app's code": (lambda c: c.put("/datastore/image?image=../app/main", files=image_file("main.py")), 400, "A file must end in"),
    "S1 an id that is a path": (lambda c: c.put("/datastore/image?image=../x", files=image_file()), 400, "An image id has"),
    "S1 reload": (lambda c: c.post("/reload"), 404, "Not Found"),
    "S2 a tag that is a path": (lambda c: c.put("/datastore/label?image=a&tag=../..", files=label_file()), 400, "A tag has"),
    "S3 an expression in a training": (lambda c: c.post("/train/sam_lora", json={"minutes": "$open('x')"}), 400, "must not begin with"),
    "S3 an expression in an inference": (lambda c: infer(c, roi=BOX, label="$import os"), 400, "must not begin with"),
    "S3 a reference deep inside": (lambda c: infer(c, roi=BOX, other=[{"x": ["@network"]}]), 400, "must not begin with"),
    "S3 an expression as a key": (lambda c: infer(c, **{"$x": 1}), 400, "must not begin with"),
    "S3 an expression in a scoring": (lambda c: c.post("/scoring/uncertainty", json={"x": "%y"}), 400, "must not begin with"),
    "S3 an expression in a batch": (lambda c: c.post("/batch/infer/sam_lora", json={"x": "$y"}), 400, "must not begin with"),
    "S3 an expression for the next image": (lambda c: c.post("/activelearning/first", json={"x": "$y"}), 400, "must not begin with"),
    "S4 a path in the query": (lambda c: infer(c, image="/etc/passwd", roi=BOX), 400, "An image id has"),
    "S4 a path in params": (lambda c: c.post("/infer/sam_lora?image=zz", data={"params": '{"image": "/etc/passwd", "model": "x"}'}), 404, "There is no image 'zz'"),
    "S5 an archive": (lambda c: c.put("/session/?uncompress=true", files={"files": ("x.tar", b"x")}), 400, "uncompress is not supported"),
    "S6 the proxy": (lambda c: c.get("/proxy/dicom/..%2fsystem"), 404, "Not Found"),
    "S7 an upload of a model": (lambda c: c.put("/model/sam_lora", files=image_file()), 404, "Not Found"),
    "S7 the log": (lambda c: c.get("/logs/"), 404, "Not Found"),
    "S7 a type": (lambda c: infer(c, roi=BOX, label="liver", result_dtype="object"), 400, "result_dtype must be one of"),
    "S8 pages": (lambda c: c.get("/static/x"), 404, "Not Found"),
    "pages about the routes, which load others' scripts": (lambda c: c.get("/docs"), 404, "Not Found"),
    "likewise": (lambda c: c.get("/redoc"), 404, "Not Found"),
    "a name of a longer name": (lambda c: c.get("/info/", headers={"Host": "localhost.evil.example:8000"}), 403, "The server is not called 'localhost.evil.example'"),
    "an address without brackets": (lambda c: c.get("/info/", headers={"Host": "::1"}), 403, "The server is not called '::1'"),
    "no host": (lambda c: c.get("/info/", headers={"Host": ""}), 403, "--allowed-hosts adds names"),
    "ohif": (lambda c: c.get("/ohif/"), 404, "Not Found"),
    "another host": (lambda c: c.get("/info/", headers={"Host": "evil.example"}), 403, "The server is not called 'evil.example'"),
    "another page": (lambda c: c.get("/info/", headers={"Origin": "http://evil.example"}), 403, "Pages from http://evil.example may not use this server"),
    "another page's preflight": (lambda c: c.options("/info/", headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}), 403, "may not use this server"),
    "unknown model": (lambda c: infer(c, model="x"), 404, "There is no model 'x': sam_lora, sam_lora_auto are known"),
    "no image": (lambda c: infer(c, image="", roi=BOX), 400, "An image id has"),
    "params are no JSON": (lambda c: c.post("/infer/sam_lora?image=a", data={"params": "{"}), 400, "params must be a JSON object"),
    "params are a list": (lambda c: c.post("/infer/sam_lora?image=a", data={"params": "[]"}), 400, "params must be a JSON object, got list"),
    "params in a JSON body": (lambda c: c.post("/infer/sam_lora?image=a", json={"roi": BOX}), 400, "a JSON body is not looked at"),
    "not a number": (lambda c: c.post("/infer/sam_lora?image=a", data={"params": '{"roi": [NaN]}'}), 400, "params must hold finite numbers, got NaN"),
    "a number without end": (lambda c: c.put("/datastore/image/info?image=a", data={"info": '{"x": 1e999}'}), 400, "params must hold finite numbers, up to 1e+300"),
    "a point beyond numbers": (lambda c: infer(c, foreground=[[10**400, 1, 1]], label="liver"), 400, "params must hold finite numbers"),
    "a box beyond numbers": (lambda c: infer(c, roi=[10**400, 1, 1, 1, 1, 1], label="liver"), 400, "params must hold finite numbers"),
    "minutes beyond numbers": (lambda c: c.post("/train/sam_lora", json={"minutes": 10**400}), 400, "params must hold finite numbers"),
    "half a character": (lambda c: c.put("/datastore/image/info?image=a", data={"info": '{"x": "\\ud800"}'}), 400, "got half of one"),
    "too deep": (lambda c: infer(c, roi=[[[[[[[[1]]]]]]]]), 400, "6 deep, at most"),
    "too deep for the parser": (lambda c: c.post("/infer/sam_lora?image=a", data={"params": "[" * 100_000}), 400, "params must be a JSON object"),
    "too many": (lambda c: infer(c, foreground=[0] * 100_001), 400, "100000 values"),
    "too long": (lambda c: infer(c, label="x" * 3000), 400, "2000 characters at most"),
    "no prompt": (lambda c: infer(c, label="liver"), 400, "neither foreground points nor a roi"),
    "half a box": (lambda c: infer(c, roi=[1, 2, 3], label="liver"), 400, "roi of the request must be i0, i1, j0, j1, k0, k1"),
    "a box of words": (lambda c: infer(c, roi="box", label="liver"), 400, "roi of the request must be a list of numbers"),
    "points that are words": (lambda c: infer(c, foreground="x", label="liver"), 400, "foreground of the request must be a list of voxels"),
    "a point outside": (lambda c: infer(c, foreground=[[99, 0, 0]], label="liver"), 400, "lies outside the volume of 24 x 22 x 5"),
    "a point of two": (lambda c: infer(c, foreground=[[1, 1]], label="liver"), 400, "must have 3 numbers"),
    "an unknown label": (lambda c: infer(c, roi=BOX, label="lung"), 400, "asks for label 'lung'; known are spleen, liver"),
    "an unknown adapter": (lambda c: infer(c, roi=BOX, label="liver", adapter="../r"), 400, "adapter must be one of champion, none, r"),
    "an unknown axis": (lambda c: infer(c, roi=BOX, label="liver", axis=3), 400, "axis must be 0, 1 or 2"),
    "an unknown ending": (lambda c: infer(c, roi=BOX, label="liver", result_extension="/../x"), 400, "result_extension must be one of"),
    "an unknown output": (lambda c: c.post("/infer/sam_lora?image=a&output=dicom_seg"), 422, "query.output"),
    "an unknown session": (lambda c: c.post("/infer/sam_lora?session_id=00000000-0000-0000-0000-000000000000"), 404, "has ended: send the image again"),
    "a session that is a path": (lambda c: c.post("/infer/sam_lora?session_id=../a"), 400, "session_id must be what PUT /session/ gave"),
    "a session's path": (lambda c: c.get("/session/..%2f..%2fetc"), 404, "Not Found"),
    "a session without a file": (lambda c: c.put("/session/"), 422, "body.files"),
    "a session without end": (lambda c: c.put("/session/?expiry=99999999", files={"files": ("x.nii", b"x")}), 400, "expiry must be a number of seconds"),
    "an uploaded script": (lambda c: c.post("/infer/sam_lora", files=image_file("x.sh")), 400, "A file must end in"),
    "an uploaded wreck": (lambda c: c.post("/infer/sam_lora", files=image_file()), 400, "upload.nii.gz"),
    "nothing learned yet": (lambda c: infer(c, model="sam_lora_auto"), 400, "has not learned to find a label without a prompt yet"),
    "nothing to train on": (lambda c: c.post("/train/sam_lora", json={}), 400, "There is no label to train on"),
    "an unknown preset": (lambda c: c.post("/train/sam_lora", json={"preset": "x"}), 400, "preset must be one of fast, accurate, decoder"),
    "minutes that are words": (lambda c: c.post("/train/sam_lora", json={"minutes": "x"}), 400, "minutes must be a number"),
    "training with a list": (lambda c: c.post("/train/sam_lora", json=[1]), 422, "body"),
    "an unknown trainer": (lambda c: c.post("/train/x", json={}), 404, "There is no trainer 'x'"),
    "no training yet": (lambda c: c.get("/train/"), 404, "No Train Tasks Found"),
    "an unknown strategy": (lambda c: c.post("/activelearning/x", json={}), 404, "There is no strategy 'x'"),
    "an unknown method": (lambda c: c.post("/scoring/x", json={}), 404, "There is no scoring method 'x'"),
    "an unknown image": (lambda c: c.get("/datastore/image?image=zz"), 404, "There is no image 'zz'"),
    "an image that is none": (lambda c: c.put("/datastore/image?image=c", files=image_file()), 400, "x.nii.gz"),
    "an image that is there": (lambda c: c.put("/datastore/image?image=a", files={"file": drawn((4, 4, 4))["label"]}), 400, "There is an image 'a' already"),
    "an unknown label file": (lambda c: c.get("/datastore/label?label=a&tag=final"), 404, "There is no label 'final' of 'a'"),
    "a label that is none": (lambda c: c.put("/datastore/label?image=a&tag=final", files=label_file()), 400, "upload.nii.gz"),
    "a label without a file": (lambda c: c.put("/datastore/label?image=a"), 422, "body.label"),
    "no label to download": (lambda c: c.get("/datastore/dataset"), 400, "There is no label to download yet"),
    "an unknown listing": (lambda c: c.get("/datastore/?output=x"), 422, "query.output"),
    "info that is no object": (lambda c: c.put("/datastore/image/info?image=a", data={"info": "3"}), 400, "params must be a JSON object"),
    "an adapter that is none": (lambda c: c.get("/adapters/x"), 404, "adapters has no adapter 'x'; its adapters: r"),
    "an adapter that is a path": (lambda c: c.get("/adapters/..%2f..%2fa"), 404, "Not Found"),
    "an adapter by a path's name": (lambda c: c.post("/adapters/..%5c..%5ca/promote"), 404, "adapters has no adapter"),
    "a champion that is none": (lambda c: c.post("/adapters/x/promote"), 404, "adapters has no adapter 'x'"),
    "a digest of none": (lambda c: c.post("/adapters/sha256:0/promote"), 404, "has no adapter with the digest sha256:0"),
    "adapters that nobody compared": (lambda c: c.get("/adapters/compare?first=r&second=r"), 400, "were not judged on a case"),
    "fewer than none kept": (lambda c: c.post("/adapters/prune?keep=-1"), 400, "keep must be a whole number of at least 0"),
    "a label of another shape": (lambda c: c.put("/datastore/label?image=a&tag=final", files=drawn((4, 4, 4))), 400, "a.nii.gz has shape (24, 22, 5), its label upload.nii.gz has (4, 4, 4)"),
    "segments that are words": (lambda c: c.put("/datastore/label?image=a", data={"params": '{"label_info": ["x"]}'}, files=drawn((24, 22, 5))), 400, "label_info must be a list of"),
    "a wrong method": (lambda c: c.delete("/info/"), 405, "Method Not Allowed"),
    "no such page": (lambda c: c.get("/nothing"), 404, "Not Found"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_not_be_is_refused_with_a_sentence(client, app, name):
    ask, status, sentence = REFUSED[name]
    before = files(app)
    response = ask(client)
    assert response.status_code == status, response.text
    assert sentence in response.json()["detail"]
    assert str(app.parts.folder.parent) not in response.text
    assert tempfile.gettempdir() not in response.text
    assert files(app) == before  # nothing was written anywhere


def test_an_archive_is_an_image_or_nothing(client, app, tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("../../out.txt")
        archive.addfile(entry, io.BytesIO(b""))
    session = client.put("/session/", files={"files": ("../../x.tar", packed.getvalue())}).json()
    assert session["session_info"]["image"].endswith("/x.tar")
    response = client.post(
        f"/infer/sam_lora?session_id={session['session_id']}", data={"params": json.dumps({"roi": BOX})}
    )
    assert response.status_code == 400
    assert not list(tmp_path.parent.rglob("out.txt"))
    assert client.delete(f"/session/{session['session_id']}").status_code == 200


def test_a_session_is_known_however_its_id_is_written(client, app):
    content = Path(app.datastore().get_image_uri("a")).read_bytes()
    one = client.put("/session/", files={"files": ("a.nii.gz", content)}).json()["session_id"]
    for written in (one, one.replace("-", ""), one.upper()):
        assert client.get(f"/session/{written}").json()["name"] == one
        assert client.get(f"/session/{written}?image=true").content == content
    assert client.delete(f"/session/{one.replace('-', '')}").json()["name"] == one
    assert client.get(f"/session/{one}").status_code == 404


def test_a_session_of_several_files_has_no_one_file(client):
    files = [("files", (f"{n}.dcm", b"x")) for n in range(2)]
    session = client.put("/session/", files=files).json()["session_id"]
    response = client.get(f"/session/{session}?image=true")
    assert response.status_code == 404
    assert "holds several files" in response.json()["detail"]
    client.delete(f"/session/{session}")


def test_only_with_the_token(app):
    rules = ServerRules(token="correct horse battery", allowed_origins=("http://viewer.example",))  # noqa: S106
    client = TestClient(create_server(app, rules), base_url="http://localhost", raise_server_exceptions=False)
    for path in ("/info/", "/openapi.json", "/datastore/", "/auth/token/valid"):
        refused = client.get(path, headers={"Origin": "http://viewer.example"})
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.headers["access-control-allow-origin"] == "http://viewer.example"  # the page sees the reason
        assert "This server wants a token" in refused.json()["detail"]
        assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/auth/").json()["enabled"] is True
    assert client.post("/auth/token", data={"username": "u", "password": "wrong"}).status_code == 401
    token = client.post("/auth/token", data={"username": "u", "password": "correct horse battery"}).json()
    headers = {"Authorization": f"{token['token_type']} {token['access_token']}"}
    assert client.get("/info/", headers=headers).status_code == 200


def test_a_series_of_many_slices_is_a_session_and_one_without_end_is_refused(client, app):
    slices = [("files", (f"{number}.dcm", b"x")) for number in range(1500)]
    session = client.put("/session/", files=slices).json()["session_id"]
    assert len(list(Path(app.sessions().get_session(session).image).iterdir())) == 1500
    client.delete(f"/session/{session}")
    refused = client.put("/session/", files=[("files", ("x.dcm", b"x"))] * 4001)
    assert refused.status_code == 400
    assert refused.json()["detail"] == "Too many files. Maximum number of files is 4000."


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "LocalHost:8000",
        "[::1]",
        "[::1]:8000",
        "[0:0:0:0:0:0:0:1]:8000",
        "Label.example.org",
        "192.0.2.7:80",
    ],
)
def test_it_answers_to_the_names_that_it_may_be_called_by(app, host):
    rules = rules_of("::1", None, [], ["label.Example.org", "192.0.2.7"])
    client = TestClient(create_server(app, rules), base_url="http://127.0.0.1:8000")
    assert client.get("/info/", headers={"Host": host}).status_code == 200
    assert client.get("/info/", headers={"Host": "192.0.2.8:80"}).status_code == 403


def test_a_page_that_may_is_told_so(app):
    server = create_server(app, ServerRules(allowed_origins=("http://viewer.example",)))
    client = TestClient(server, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)
    origin = {"Origin": "http://viewer.example"}
    asked = client.options("/infer/sam_lora", headers={**origin, "Access-Control-Request-Method": "POST"})
    assert asked.status_code == 204
    for response in (asked, client.get("/info/", headers=origin), client.get("/nothing", headers=origin)):
        assert response.headers["access-control-allow-origin"] == "http://viewer.example"
    assert "access-control-allow-origin" not in client.get("/info/").headers


def test_a_body_is_counted_whatever_its_header_says(app):
    client = TestClient(create_server(app, ServerRules(max_body_bytes=1000)), base_url="http://127.0.0.1:8000",
                        raise_server_exceptions=False)  # fmt: skip

    def without_length():
        yield b"params=" + b"x" * 2000

    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for content in (b"params=" + b"x" * 2000, without_length()):
        response = client.post("/infer/sam_lora?image=a", content=content, headers=form)
        assert response.status_code == 413
        assert response.json()["detail"] == "A request may have 1000 bytes at most."


def test_an_error_nobody_foresaw_is_json_without_a_traceback(app, monkeypatch, caplog):
    def fail(_):
        raise RuntimeError("secret detail")

    server = create_server(app, ServerRules())
    monkeypatch.setattr(app, "infer", fail)
    response = infer(TestClient(server, base_url="http://127.0.0.1", raise_server_exceptions=False), roi=BOX)
    assert response.status_code == 500
    assert response.json()["detail"] == "The server failed at this request; its log says why."
    assert "secret detail" in caplog.text


def test_one_inference_keeps_nobody_waiting_and_too_many_are_sent_away(app, monkeypatch):
    begun, release = threading.Event(), threading.Event()

    def slow(_):
        begun.set()
        release.wait(20)
        raise ValueError("released")

    monkeypatch.setattr(app, "infer", slow)
    with TestClient(create_server(app, ServerRules(max_waiting=1)), base_url="http://127.0.0.1",
                    raise_server_exceptions=False) as client:  # fmt: skip
        answers = []
        thread = threading.Thread(target=lambda: answers.append(infer(client, roi=BOX)))
        thread.start()
        assert begun.wait(20)
        since = time.perf_counter()
        assert client.get("/info/").status_code == 200
        assert time.perf_counter() - since < 5
        full = infer(client, roi=BOX)
        assert full.status_code == 503
        assert full.headers["retry-after"] == "2"
        assert full.json()["detail"] == "1 inferences are waiting already: try again in a while."
        release.set()
        thread.join()
        assert answers[0].json()["detail"] == "released"


def test_drafts_after_a_promotion_are_a_batch_as_a_client_starts_it(client, app, monkeypatch):
    """MONAI Label divides by the number of GPUs, unless it is told that there is one worker."""
    started = []
    monkeypatch.setattr(AsyncTask, "run", lambda method, request: (started.append((method, request)) or {}, ""))
    assert client.post("/batch/infer/sam_lora_auto?images=unlabeled", json={}).status_code == 200
    app._refresh("r")
    assert started[1] == started[0]
    assert started[0][1]["multi_gpu"] is False
    assert started[2] == ("scoring", {"method": "uncertainty"})
    app._refresh("none")  # the base draws nothing without a prompt
    assert len(started) == 3


def test_answers_come_as_clients_read_them(client):
    both = infer(client, roi=BOX, label="liver")
    assert both.headers["content-type"].startswith("multipart/form-data")
    assert b'filename="' in both.content
    asked = {"data": {"params": json.dumps({"roi": BOX, "label": "liver"})}}
    assert client.post("/infer/sam_lora?image=a&output=json", **asked).json()["label_names"] == {"liver": 1}
    assert client.post("/infer/sam_lora?image=a&output=image", **asked).content.startswith(b"NRRD")


def test_whom_nobody_knows_to_have_been_trained_on_is_said(client):
    """The champion of this server was put there by hand."""
    listed = client.get("/adapters/").json()
    assert (listed["adapters"], listed["champion"]) == (["r"], "r")
    assert "unknown" not in listed
    found = client.get("/adapters/?trained_on=p1").json()
    assert (found["adapters"], found["unknown"]) == ([], ["r"])


def test_a_corrected_draft_names_the_adapter_that_drew_it(client, app, tmp_path):
    infer(client, roi=BOX)  # a click before, by what serves now
    label = write_nifti(tmp_path / "drawn.nii.gz", np.ones((24, 22, 5), np.uint8), np.eye(4))
    drawn_by = {"adapter": "other", "adapter_digest": "sha256:1"}
    app.datastore().save_label("a", str(label), "original", drawn_by)
    assert client.get("/datastore/label?label=a&tag=original").status_code == 200
    assert client.put("/datastore/label?image=a", files=drawn((24, 22, 5))).status_code == 200
    info = app.datastore().get_label_info("a", "final")
    assert {key: info[key] for key in drawn_by} == drawn_by
    for tag in ("final", "original"):
        app.datastore().remove_label("a", tag)


def test_an_image_is_uploaded_looked_up_and_removed(client, app):
    content = Path(app.datastore().get_image_uri("b")).read_bytes()
    assert client.put("/datastore/?image=up", files={"file": ("any/where.nii.gz", content)}).json() == {"image": "up"}
    assert client.get("/datastore/image?image=up").content == content
    assert client.head("/datastore/image?image=up").status_code == 200
    assert client.head("/datastore/image?image=up&check_sum=SHA256:00").status_code == 404
    client.put("/datastore/image/info?image=up", data={"info": '{"patient": "p"}'})
    assert client.get("/datastore/image/info?image=up").json()["patient"] == "p"
    # what somebody says of an image is not what the next one is sent to
    client.put("/datastore/image/info?image=up", data={"info": '{"id": "a", "path": "/etc/passwd"}'})
    app.parts.seen.path.write_text('{"up": {"uncertainty": 0.5, "features": [1.0], "adapter_digest": ""}}')
    found = client.post("/activelearning/uncertainty", json={}).json()
    app.parts.seen.path.unlink()
    assert (found["id"], found["path"]) == ("up", app.datastore().get_image_uri("up"))
    assert client.delete("/datastore/image?id=up").status_code == 200
    assert client.get("/datastore/image?image=up").status_code == 404
