"""What every request passes first: whose it is, where it comes from, how large it is; and every error becomes JSON."""

from __future__ import annotations

import hmac
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from starlette.exceptions import HTTPException

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_HOST = re.compile(r"(\[[^\[\]]+\]|[^:\[\]]+)(:\d*)?")  # a name or an address, IPv6 in brackets, and perhaps a port
OPEN_PATHS = ("/auth/", "/auth/token")  # where a client asks for a token, and gets it


@dataclass(frozen=True)
class ServerRules:
    """What a server allows.

    Args:
        token: the secret that clients must give; None: whoever reaches the port may use it.
        allowed_hosts: names, without port, by which the server may be called, as :func:`host_name` writes them.
        allowed_origins: web pages that may use it from a browser, like "http://127.0.0.1:3000".
        max_body_bytes: of a request.
        max_waiting: inferences that may wait or run at once; more are told to come back.
        max_wait_seconds: for the device; an inference that has not begun by then is told to come back.
    """

    token: str | None = None
    allowed_hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")
    allowed_origins: tuple[str, ...] = ()
    max_body_bytes: int = 2 << 30
    max_waiting: int = 16
    max_wait_seconds: float = 120.0


def host_name(host: str) -> str:
    """How a name or an address is written in a URL: small letters, IPv6 at its shortest and in brackets."""
    bare = host.strip("[]").lower()
    try:
        address = ip_address(bare)
    except ValueError:
        return bare
    return f"[{address}]" if address.version == 6 else bare


class Guard:
    """ASGI middleware around everything else.

    Args:
        app: what is guarded.
        rules: what is allowed.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], rules: ServerRules) -> None:
        self.app, self.rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        answer = _Answer(send, scope, self._cors(headers.get("origin")))
        refused = self._refusal(scope, headers)
        if refused is not None:
            await answer.refuse(*refused)
        elif scope["method"] == "OPTIONS" and "origin" in headers:
            await answer.refuse(204, "")
        else:
            await self._run(scope, receive, answer)
        answer.log()

    async def _run(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            await self.app(scope, self._counted(receive), answer.send)
        except Exception:  # whatever it is: the client gets a sentence, the log the traceback
            logger.exception("an error that nobody foresaw")
            if not answer.status:
                await answer.refuse(500, "The server failed at this request; its log says why.")

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host = _HOST.fullmatch(headers.get("host", ""))
        name = host_name(host[1]) if host else headers.get("host", "")
        if name not in self.rules.allowed_hosts:
            allowed = ", ".join(self.rules.allowed_hosts)
            return 403, f"The server is not called {name[:100]!r}: use one of {allowed}; --allowed-hosts adds names."
        origin = headers.get("origin")
        if origin is not None and origin not in self.rules.allowed_origins:
            return 403, f"Pages from {origin[:100]} may not use this server; --origins names those that may."
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.rules.max_body_bytes:
            return 413, self._too_large()
        if self.rules.token is not None and scope["method"] != "OPTIONS" and scope["path"] not in OPEN_PATHS:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.encode(), self.rules.token.encode()):
                return 401, "This server wants a token: log in, or send Authorization: Bearer TOKEN."
        return None

    def _too_large(self) -> str:
        return f"A request may have {self.rules.max_body_bytes} bytes at most."

    def _counted(self, receive: Receive) -> Receive:
        """The body, counted as it comes: what a header says of it need not be true."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.rules.max_body_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return counted

    def _cors(self, origin: str | None) -> list[tuple[bytes, bytes]]:
        if origin is None or origin not in self.rules.allowed_origins:
            return []
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, DELETE"),
            (b"access-control-allow-headers", b"authorization, content-type"),
            (b"vary", b"Origin"),
        ]


class _Answer:
    """What goes back: with CORS headers where they belong, and one line in the log."""

    def __init__(self, send: Send, scope: Scope, cors: list[tuple[bytes, bytes]]) -> None:
        self._send, self._scope, self._cors = send, scope, cors
        self.status, self._begun = 0, time.perf_counter()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", []), *self._cors]}
        await self._send(message)

    async def refuse(self, status: int, sentence: str) -> None:
        body = json.dumps({"detail": sentence}).encode() if sentence else b""
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def log(self) -> None:
        """Method, route and status: no ids, which may name people, no bodies, no tokens."""
        route = self._scope.get("route")
        milliseconds = 1000 * (time.perf_counter() - self._begun)
        logger.info("%s %s %d, %.0f ms", self._scope["method"], getattr(route, "path", "-"), self.status, milliseconds)
