"""The admin door: a retrain asked for over HTTP, by whoever brings the token.

    POST /v1/retrain    begin one: 202 with the version's number; 409 while another is not over
    GET  /v1/retrain    the newest version, and how far its training is
    GET  /v1/models     which version serves, and what is recorded of each

`Authorization: Bearer TOKEN` on each. A POST may carry `Idempotency-Key`: asked again with the same key, it answers
what it answered before. Its body, if any, is JSON: `since` (ISO 8601), `epochs`, `reason`. Errors are problem JSON.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from stream.answers import failed, json_answer, refused
from stream.errors import ConfigError, HeadraceError
from stream.listening import Listener
from stream.versions import Request, RetrainRefused, Version, request_of

BODY_BYTES_MAX: Final = 16 << 10
CALL_SECONDS: Final = 30.0
_KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    since: str | int | float | None = None
    epochs: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """Where to listen (port 0: a free one), and the token to bring."""

    host: str
    port: int
    token: str


@dataclass(frozen=True, slots=True)
class Desk:
    """Who answers; called on worker threads. `progress`: of the training that runs, None when none does."""

    ask: Callable[[Request], Version]
    newest: Callable[[], Version]
    models: Callable[[], Mapping[str, Any]]
    progress: Callable[[], Mapping[str, Any] | None]


class AdminDoor:
    """The server, in a thread of its own from `start` to `close`."""

    def __init__(self, config: AdminConfig, desk: Desk) -> None:
        self._pages = _Pages(config.token, desk)
        handlers: Mapping[Any, Any] = {HTTPException: refused, Exception: failed}
        routes = [
            Route("/v1/retrain", self._pages.begin, methods=["POST"]),
            Route("/v1/retrain", self._pages.look, methods=["GET"]),
            Route("/v1/models", self._pages.models, methods=["GET"]),
        ]
        app = Starlette(routes=routes, exception_handlers=handlers)
        self._listener = Listener(app, config.host, config.port, "HEADRACE_ADMIN_HOST and HEADRACE_ADMIN_PORT")

    def start(self) -> int:
        """Listen, and answer the port. Raises `ConfigError` when the address cannot be had."""
        return self._listener.start()

    def close(self) -> None:
        """Finish what is being answered, then stop. Idempotent."""
        self._listener.close()
        self._pages.close()


class _Pages:
    """One method per route."""

    def __init__(self, token: str, desk: Desk) -> None:
        self._token = token.encode()
        self._desk = desk
        self._workers = ThreadPoolExecutor(2, "headrace-admin")

    def close(self) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def begin(self, request: HttpRequest) -> Response:
        self._let_in(request)
        key = request.headers.get("idempotency-key", uuid.uuid4().hex)
        if not _KEY.fullmatch(key):
            raise HTTPException(400, "Idempotency-Key must have 1 to 200 printable characters without spaces")
        wanted = _wanted(await _body(request), key)
        version: Version = await self._call(self._desk.ask, wanted)
        return json_answer(version.to_dict(), 202)

    async def look(self, request: HttpRequest) -> Response:
        self._let_in(request)
        newest: Version = await self._call(self._desk.newest)
        progress = self._desk.progress() if newest.open else None
        return json_answer({"running": newest.open, "progress": progress, **newest.to_dict()})

    async def models(self, request: HttpRequest) -> Response:
        self._let_in(request)
        return json_answer(await self._call(self._desk.models))

    def _let_in(self, request: HttpRequest) -> None:
        scheme, _, brought = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(brought.strip().encode(), self._token):
            raise HTTPException(401, "bring the token: Authorization: Bearer ...", {"www-authenticate": "Bearer"})

    async def _call(self, act: Callable[..., Any], *args: Any) -> Any:
        try:
            call = asyncio.wrap_future(self._workers.submit(act, *args))
            return await asyncio.wait_for(call, CALL_SECONDS)
        except TimeoutError as error:
            raise HTTPException(503, "the store did not answer in time; try again", {"retry-after": "5"}) from error
        except RetrainRefused as error:
            raise HTTPException(409, str(error)) from error
        except HeadraceError as error:
            raise HTTPException(503, str(error), {"retry-after": "5"}) from error


async def _body(request: HttpRequest) -> bytes:
    """The request's body. Raises HTTPException 413 when it is too long."""
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > BODY_BYTES_MAX:
            raise HTTPException(413, f"the body has more than {BODY_BYTES_MAX} bytes")
    return data


def _wanted(data: bytes, key: str) -> Request:
    """What the body asks for. Raises HTTPException 400 naming the field."""
    try:
        body = msgspec.json.decode(data, type=_Body) if data.strip() else _Body()
        return request_of(key, body.since, body.epochs, body.reason, "POST /v1/retrain")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ConfigError) as error:
        raise HTTPException(400, f"{error}: a JSON object with since, epochs, reason is expected") from error
