"""Start the label server that 3D Slicer and OHIF talk to."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

from sam_lora.cli import run

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "monailabel_app"


def main(  # noqa: PLR0913  a command has options
    studies: str, labels: Any = None, adapters: str | None = None, device: str = "auto", port: int = 8000,
    host: str = "127.0.0.1", token_file: str | None = None, variant: str = "vit_t", origins: Any = None,
    train_every: int = 0, margin: float = 0.02, drafts: bool = False, allowed_hosts: Any = None,
) -> None:  # fmt: skip
    """Serve the images of a folder, until Ctrl-C.

    Args:
        studies: folder with the images; labels and all records are kept in it.
        labels: names of what will be annotated, like spleen,liver; those of earlier starts stay.
        adapters: folder of adapters, see `adapter.py list`; trained ones are put there. By default in the studies folder.
        device: auto, cpu or cuda:N.
        port: where to listen.
        host: of which address, like 192.0.2.7 or ::1; for others than this machine put TLS in front, see SECURITY.md.
        allowed_hosts: names and addresses by which clients call the server, like label.example.org,192.0.2.7; it
            answers to 127.0.0.1, localhost, [::1] and host in any case, and to no other name.
        token_file: file with the secret that clients must give as password; none: whoever reaches the port may use it.
        variant: base that serves before there is an adapter.
        origins: web pages that may use the server from a browser, like http://127.0.0.1:3000.
        train_every: number of new labels after which a training begins by itself; 0: only when a client asks.
        drafts: after each promotion, segment what nobody has labelled, as drafts that count for nothing.
        margin: Dice that a new adapter may be behind the one that serves, on the held-out cases, and still replace it.
    """
    folder = Path(str(studies)).expanduser().absolute()
    if not folder.is_dir():
        raise ValueError(f"studies must be a folder with images, there is no {folder}.")
    _refuse_taken(host, port)
    if type(train_every) is not int or train_every < 0:
        raise ValueError(f"train_every must be a number of labels, or 0 for never, got {train_every!r}.")
    if type(margin) not in (int, float) or not 0 <= margin <= 1:
        raise ValueError(f"margin must be a Dice from 0 to 1, got {margin!r}.")
    conf = {"labels": ",".join(_words(labels)), "adapters": str(adapters or ""), "device": device, "variant": variant,
            "train_every": str(train_every), "margin": str(margin), "drafts": str(bool(drafts)).lower()}  # fmt: skip
    records = folder / ".sam_lora"
    os.environ.update(
        MONAI_LABEL_APP_DIR=str(APP),
        MONAI_LABEL_STUDIES=str(folder),
        MONAI_LABEL_APP_CONF=json.dumps(conf),
        MONAI_LABEL_SERVER_PORT=str(port),
        MONAI_LABEL_TRACKING_ENABLED="false",
        MONAI_LABEL_AUTO_UPDATE_SCORING="false",
        MONAI_LABEL_SESSION_PATH=str(records / "sessions"),
        MONAI_LABEL_SESSION_EXPIRY="86400",
        # the process of a training starts with MONAI Label's module and must find ours
        PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "bundle"), os.environ.get("PYTHONPATH")])),
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # Imported here: MONAI Label reads its settings from the environment when it is imported.
    from monailabel_app.lib.serving import serve

    serve(host, port, token_file, _words(origins), _words(allowed_hosts))


def _words(given: Any) -> list[str]:
    return [] if given is None else given.split(",") if isinstance(given, str) else [str(one) for one in given]


def _refuse_taken(host: str, port: int) -> None:
    if not isinstance(port, int) or not 1 <= port <= 65535:
        raise ValueError(f"port must be a whole number from 1 to 65535, got {port!r}.")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(
                f"Port {port} of {host} cannot be used ({error.strerror}): choose another --port."
            ) from error


if __name__ == "__main__":
    run(main, "serve.py")
