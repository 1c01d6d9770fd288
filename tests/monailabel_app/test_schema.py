"""Requests made up from the server's own description, and from what its parameters are called: never a 5xx."""

import json

import numpy as np
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.python import asgi

from monailabel_app.lib.http import tasks
from monailabel_app.lib.http.checks import INFER_PARAMS, TRAIN_PARAMS
from monailabel_app.lib.http.guard import ServerRules
from monailabel_app.main import SamLoraLabel
from monailabel_app.server import create_server
from sam_lora.cases import write_nifti
from tests.conftest import REPOSITORY, write_champion

pytestmark = pytest.mark.accept

# What an annotator's requests hold, so that some of what is made up comes further than to the first check.
KNOWN = {
    "image": "a",
    "label": "a",
    "tag": "final",
    "model": "sam_lora",
    "strategy": "first",
    "method": "uncertainty",
}
VALUES = st.sampled_from([[4, 20, 4, 18, 2, 2], [[9, 9, 2]], "liver", True, 2, ".nii.gz", "uint8", "newest"])
CLICK = {"label": "liver", "roi": [4, 20, 4, 18, 2, 2], "foreground": [[9, 9, 2]]}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9)
    | st.sampled_from([10**400, "\ud800"])
    | VALUES,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schema") / "studies"
    (folder / ".sam_lora" / "adapters").mkdir(parents=True)
    rng = np.random.RandomState(0)
    for name in ("a", "b"):
        write_nifti(folder / f"{name}.nii.gz", rng.rand(24, 22, 5).astype(np.float32), np.eye(4))
    write_champion(folder / ".sam_lora" / "adapters", "r", labels={1: "spleen", 2: "liver"}, tokens=True)
    app = SamLoraLabel(str(REPOSITORY / "monailabel_app"), str(folder), {"labels": "spleen,liver"})
    app._sessions.store_path = str(folder.parent / "sessions")
    served = create_server(app, ServerRules(allowed_hosts=(asgi.HOST,)))
    # A task's process would go on after the test; what starts it is tested with the clients.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks.AsyncTask, "run", lambda method, request: ({"method": method, "request": request}, ""))
        client = TestClient(served, base_url=f"http://{asgi.HOST}")
        with (folder / "a.nii.gz").open("rb") as image:
            session = client.put("/session/", files={"files": ("a.nii.gz", image)}).json()["session_id"]
        label = write_nifti(folder.parent / "label.nii.gz", rng.randint(0, 2, (24, 22, 5)).astype(np.uint8), np.eye(4))
        with label.open("rb") as drawn:
            assert client.put("/datastore/label?image=a", files={"label": ("l.nii.gz", drawn)}).status_code == 200
        yield schemathesis.openapi.from_asgi("/openapi.json", served), {**KNOWN, "session_id": session}


def test_no_request_makes_the_server_fail(server):
    schema, known = server
    statuses = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        statuses[operation.label] = _ask(operation, {} if operation.method == "delete" else known)
    assert len(statuses) > 30
    assert {200, 400, 404} <= statuses["POST /infer/{model}"]  # what is made up comes as far as to the network
    assert 200 in statuses["GET /session/{session_id}"]


def _ask(operation, known):
    """Two hundred requests of one method and path, the same ones each time; the smallest that fails is shown."""
    statuses = set()
    made_up = st.dictionaries(st.sampled_from((*INFER_PARAMS, *TRAIN_PARAMS)), JSON | VALUES, max_size=4)
    corrected = made_up.map(lambda params: {**CLICK, **params})

    @given(case=operation.as_strategy(), is_known=st.booleans(), params=st.none() | made_up | corrected)
    @settings(max_examples=200, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    def ask(case, is_known, params):
        if is_known:
            _name(case, operation, known)
        if params is not None and case.media_type == "application/json":
            case.body = params
        elif (params is not None and case.media_type == "multipart/form-data") or operation.path == "/infer/{model}":
            kept = {k: v for k, v in case.body.items() if k != "file"} if isinstance(case.body, dict) else {}
            case.body, case.media_type = (
                {**kept, "params": json.dumps(params), "info": json.dumps(params)},
                "multipart/form-data",
            )
        response = case.call()
        statuses.add(response.status_code)
        case.validate_response(response, checks=[not_a_server_error])

    ask()
    return statuses


def _name(case, operation, known):
    """Put what there is in place of what was made up: in a session's routes ``image`` is a switch."""
    places = {"path": case.path_parameters, "query": case.query}
    for parameter in operation.iter_parameters():
        if parameter.name in known and (parameter.name != "image" or "session" not in operation.path):
            places[parameter.location.value][parameter.name] = known[parameter.name]
