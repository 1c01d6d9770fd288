"""How long an annotator waits: the label server as it is started, asked over HTTP, on a CT of 512 x 512 x 160."""

from __future__ import annotations

import json as jsons
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
from requests_toolbelt import MultipartDecoder

from sam_lora.cases import write_nifti
from sam_lora.files import write_json

SHAPE = (512, 512, 160)
PARTS = {"decoder": ("network",), "mask": ("mask",), "codec": ("write",), "wait": ("wait", "image")}
COMMAND = Path(__file__).parents[1] / "serve.py"


def serve(clicks: int = 50, json: str | None = None) -> None:
    """Time clicks on a served CT: cached, beside background work, propagated, by several clients, on a new volume.

    Args:
        clicks: of each kind.
        json: also write the figures there.
    """
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder)) as ask:
        started = time.perf_counter()
        ask("ct", 80)
        print(f"first click on a volume: {time.perf_counter() - started:.2f} s")
        time.sleep(20)  # the slices around it are encoded meanwhile
        figures["cached"] = _show("cached click", [ask("ct", 80, n) for n in range(clicks)])
        figures["encoder"] = _one_slice(ask, figures["cached"]["decoder"]["p50"])
        figures["ahead"] = _beside_background(ask, clicks)
        figures["propagated"] = _propagated(ask)
        figures["info"] = _info_beside_cold_volume(ask)
        for clients in (1, 4, 8):
            figures[f"{clients} clients"] = _several(ask, clients, clicks)
    if json:
        write_json(Path(json), figures)


def percentile(values: Sequence[float], share: float) -> float:
    """A percentile in milliseconds of values in seconds."""
    return float(np.percentile(values, share)) * 1000


def _show(title: str, answers: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Print p50 and p95 of the whole request and of its parts; what the parts leave is the server's: HTTP, copying."""
    found = {}
    for name in (*PARTS, "server", "total"):
        values = [answer[name] for answer in answers]
        found[name] = {"p50": percentile(values, 50), "p95": percentile(values, 95)}
    said = ", ".join(f"{name} {one['p50']:.0f}/{one['p95']:.0f}" for name, one in found.items())
    print(f"{title}, p50/p95 in ms: {said}")
    return found


class _Asker:
    """Asks the server, and takes the answer apart."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._local = threading.local()

    def session(self) -> requests.Session:
        """A connection of this thread's own."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        return self._local.session

    def __call__(self, image: str, k: int, shift: int = 0, **params: Any) -> dict[str, float]:
        """Seconds by part, of a box on slice ``k`` that is moved a little each time, as corrections are."""
        roi = [200 + shift % 40, 320, 180, 300 + shift // 40 % 200, k, k]
        asked = {"label": "spleen", "roi": roi, "result_extension": ".nrrd", "result_dtype": "uint8", **params}
        begun = time.perf_counter()
        response = self.session().post(
            f"{self.url}/infer/sam_lora?image={image}", data={"params": jsons.dumps(asked)}, timeout=600
        )
        total = time.perf_counter() - begun
        if response.status_code != 200:
            raise ValueError(f"the server answered {response.status_code}: {response.text}")
        said = next(
            part
            for part in MultipartDecoder.from_response(response).parts
            if b'name="params"' in part.headers[b"Content-Disposition"]
        )
        latencies = jsons.loads(said.text)["latencies"]
        parts = {name: sum(latencies[one] for one in several) for name, several in PARTS.items()}
        return {**parts, "server": total - latencies["total"], "total": total}


def _one_slice(ask: _Asker, decoder: float) -> dict[str, float]:
    """Milliseconds of the encoder's pass over a slice that nobody has encoded: what a click on it takes, without the decoder."""
    values = [ask("ct", k)["decoder"] - decoder / 1000 for k in (110, 125, 140, 155)]
    found = {"p50": percentile(values, 50), "most": 1000 * max(values)}
    print(f"one slice's encoder pass in ms: p50 {found['p50']:.0f}, most {found['most']:.0f}")
    return found


def _beside_background(ask: _Asker, clicks: int) -> dict[str, Any]:
    """Each click goes to a cached slice while the slices around another are encoded."""
    answers = []
    for n in range(min(clicks, 20)):
        ask("ct", 20 + 3 * (n % 8), 100 + n)  # begins to encode its neighbours
        answers.append(ask("ct", 80, 200 + n))
    return _show("cached click while neighbours are encoded", answers)


def _propagated(ask: _Asker) -> dict[str, float]:
    """Forty slices, whose embeddings are there."""
    box = [200, 320, 180, 300, 60, 99]
    first = ask("ct", 80, roi=box, propagate=True)
    again = ask("ct", 80, roi=[202, 320, 180, 300, 60, 99], propagate=True)
    click = ask("ct", 80, roi=box, background=[[10, 10, 90]], propagate=True)
    print(f"propagated through 40 slices: new {first['total']:.2f} s, embeddings cached {again['total']:.2f} s, "
          f"corrected on one slice {click['total']:.2f} s")  # fmt: skip
    return {"new": first["total"], "cached": again["total"], "corrected": click["total"]}


def _info_beside_cold_volume(ask: _Asker) -> dict[str, float]:
    """How long /info/ takes while a volume that nobody has asked about before is segmented."""
    work = threading.Thread(target=lambda: ask("cold", 80, roi=[200, 320, 180, 300, 60, 99], propagate=True))
    work.start()
    seconds = []
    while work.is_alive():
        begun = time.perf_counter()
        ask.session().get(f"{ask.url}/info/", timeout=60).raise_for_status()
        seconds.append(time.perf_counter() - begun)
        time.sleep(0.2)
    print(
        f"/info/ while a new volume is segmented: p50 {percentile(seconds, 50):.0f} ms, most {1000 * max(seconds):.0f} ms"
    )
    return {"p50": percentile(seconds, 50), "most": 1000 * max(seconds)}


def _several(ask: _Asker, clients: int, clicks: int) -> dict[str, float]:
    """Clients that click as fast as they are answered."""
    seconds: list[float] = []

    def work(number: int) -> None:
        for n in range(clicks):
            shift = 1000 * clients + 100 * number + n  # no box twice: what was decoded is not decoded again
            seconds.append(ask("ct", 76 + number, shift)["total"])

    ask("ct", 80, 999)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = clients * clicks / (time.perf_counter() - begun)
    print(
        f"{clients} clients: {rate:.1f} answers a second, p50 {percentile(seconds, 50):.0f}, p95 {percentile(seconds, 95):.0f} ms"
    )
    return {"rate": rate, "p50": percentile(seconds, 50), "p95": percentile(seconds, 95)}


@contextmanager
def served_studies(studies: Path, *options: str) -> Iterator[str]:
    """Start the label server on a folder; gives its address once it is ready, and ends it by its own pid.

    Args:
        studies: the folder; the server's log is written beside it.
        options: of ``scripts/serve.py``.

    Raises:
        ValueError: if the server does not start; with the end of its log.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(COMMAND), "--studies", str(studies), "--port", str(port), *options]
    said_by = studies.parent / "server.log"
    with said_by.open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)  # noqa: S603  our own script
        try:
            said = iter(process.stdout.readline, "") if process.stdout else ()  # libraries print too
            if not any(line.startswith("ready") for line in said):
                raise ValueError(f"the server did not start: {said_by.read_text(encoding='utf-8')[-2000:]}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


@contextmanager
def _server(folder: Path) -> Iterator[_Asker]:
    studies = folder / "studies"
    studies.mkdir()
    for seed, name in enumerate(("ct", "cold")):
        write_nifti(studies / f"{name}.nii.gz", _ct(seed), np.diag([-0.8, -0.8, 2.5, 1.0]))
    with served_studies(studies, "--labels", "spleen") as url:
        yield _Asker(url)


def _ct(seed: int) -> np.ndarray:
    """An ellipsoid of soft tissue in noise, in HU."""
    i, j, k = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    inside = ((i - 260) / 60) ** 2 + ((j - 240) / 60) ** 2 + ((k - 80) / 30) ** 2 < 1
    noise = np.random.RandomState(seed).randint(-40, 40, SHAPE, np.int16)
    return (np.where(inside, 120, -60) + noise).astype(np.int16)
