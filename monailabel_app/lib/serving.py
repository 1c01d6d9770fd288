"""Bring the app up and listen; the environment says which app, see ``scripts/serve.py``."""

from __future__ import annotations

import gc
import logging
import re
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from monailabel.interfaces.utils.app import app_instance

from monailabel_app.lib.http.guard import host_name
from monailabel_app.lib.tasks import stop_task
from monailabel_app.server import ServerRules, create_server

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[\w.-]+|\[[\w:.%]+\]")
_OPEN_FILES = 16384  # eight uploads of 2 GB, file for file of 1 MB
TASKS = ("train", "scoring", "batch_infer")  # MONAI Label's names for what runs in a process of its own


class _Server(uvicorn.Server):
    """Says when it is ready, and takes what it has started with it."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"ready: http://{host_name(self.config.host)}:{self.config.port}", flush=True)  # noqa: T201  the command's answer

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for method in TASKS:  # Python would wait for the end of a training before it ends itself
            stop_task(method)


def serve(
    host: str, port: int, token_file: str | None, origins: Sequence[str], allowed_hosts: Sequence[str] = ()
) -> None:
    """Warm up, print that the server is ready, and answer until the process is ended.

    Args:
        host: address to listen on.
        port: likewise.
        token_file: with the secret that clients must give; None for none.
        origins: web pages that may use the server from a browser.
        allowed_hosts: names and addresses by which clients may call the server, beside this machine's own and ``host``.

    Raises:
        ValueError: if the token file is missing or empty, if others than this machine could come without a token, or
            an allowed host is neither a name nor an address.
    """
    token = None if token_file is None else read_token(Path(token_file))
    if token is None and host not in ("127.0.0.1", "localhost", "::1"):
        raise ValueError(f"host {host} can be reached by others: give --token_file too, and put TLS in front.")
    rules = rules_of(host, token, origins, allowed_hosts)
    if host in ("0.0.0.0", "::") and not allowed_hosts:  # noqa: S104  that is what is warned of
        logger.warning(
            "host %s: clients on other machines are refused until --allowed-hosts says how they call it.", host
        )
    allow_open_files()
    app = app_instance()
    app.server_mode(True)
    app.on_init_complete()
    server = create_server(app, rules)
    # What is there now stays: 700,000 objects that Python would look through every so often, half a second each time,
    # while somebody waits for an answer.
    gc.freeze()
    _Server(uvicorn.Config(server, host=host, port=port, log_config=None, access_log=False)).run()


def allow_open_files() -> None:
    """Let the process open as many files as its user may: of an upload each file of over 1 MB is one until it is read."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def rules_of(host: str, token: str | None, origins: Sequence[str], allowed_hosts: Sequence[str] = ()) -> ServerRules:
    """What a server allows that listens on an address: by that it may be called too.

    Args:
        host: the address.
        token: see :class:`monailabel_app.lib.http.guard.ServerRules`.
        origins: likewise.
        allowed_hosts: see :func:`serve`.

    Raises:
        ValueError: if an allowed host is neither a name nor an address.
    """
    names = [host_name(name) for name in (host, *allowed_hosts)]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"allowed_hosts must be names or addresses, without http:// and port, got {name!r}.")
    names = list(dict.fromkeys([*ServerRules.allowed_hosts, *names]))
    return ServerRules(token=token, allowed_hosts=tuple(names), allowed_origins=tuple(origins))


def read_token(path: Path) -> str:
    """The secret in a file.

    Raises:
        ValueError: if there is no file, or fewer than 16 characters in it.
    """
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"token_file {path} cannot be read: {error}.") from error
    if len(token) < 16:
        raise ValueError(f"token_file {path} must hold at least 16 characters; `openssl rand -hex 24` makes a secret.")
    return token
