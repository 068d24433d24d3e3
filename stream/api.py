"""The HTTP door: metrics, health, recommendations. Reads, never writes; up while Kafka, store and learner are down.

    GET /metrics                      OpenMetrics, or Prometheus's text format
    GET /healthz                      200 while the loop turns, else 503: restart me
    GET /readyz                       200 when events are being learned, else 503 with the reasons
    GET /v1/recommend?user=U&n=N      the best N items, with the model's number and age

Errors are problem JSON (RFC 9457). There is no login: whoever reaches the port may ask.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream.answers import failed, json_answer, problem, refused
from stream.errors import HeadraceError
from stream.events import Recommendation
from stream.listening import Listener
from stream.ports import Meter

ITEMS_MAX: Final = 1000
USER_BYTES_MAX: Final = 256
QUERY_BYTES_MAX: Final = 4096
RECOMMEND_SECONDS: Final = 5.0
RECOMMENDING_MAX: Final = 64
WORKERS: Final = 8
_ROUTES: Final = {"/metrics": "metrics", "/healthz": "healthz", "/readyz": "readyz", "/v1/recommend": "recommend"}


@dataclass(frozen=True, slots=True)
class Health:
    """How the service is. `reasons`: why it is not live or not ready, for a person; `details`: seq, epoch, lag, ..."""

    live: bool
    ready: bool
    reasons: Sequence[str] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """Recommendations, best first, from a `version` of the model that has learned plan `seq`, `age_seconds` ago."""

    items: Sequence[Recommendation]
    seq: int
    age_seconds: float
    version: int = 1


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Where to listen (port 0: a free one), and how many items an answer has when the request does not say."""

    host: str = "127.0.0.1"
    port: int = 8080
    top_n: int = 10


class RenderingMeter(Meter, Protocol):
    """A meter that can print itself."""

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """OpenMetrics or Prometheus's text format, as an Accept header asks; and of which content type it is."""


Recommend = Callable[[str, int], Answer]


class HttpDoor:
    """The server, in a thread of its own from `start` to `close`.

    `health` is called on the server's event loop: it must answer from memory. `recommend(user_id, top_n)` is called on
    worker threads, several at a time; any `HeadraceError` or `TimeoutError` of it is answered as 503.
    """

    def __init__(
        self, config: HttpConfig, meter: RenderingMeter, health: Callable[[], Health], recommend: Recommend
    ) -> None:
        self._pages = _Pages(config, meter, health, recommend)
        app = _make_app(self._pages, meter)
        self._listener = Listener(app, config.host, config.port, "HEADRACE_HTTP_HOST and HEADRACE_HTTP_PORT")

    def start(self) -> int:
        """Listen, and answer the port. Raises `ConfigError` when the address cannot be had."""
        return self._listener.start()

    @property
    def port(self) -> int:
        """The port it listens on; 0 before `start` and after `close`."""
        return self._listener.port

    def close(self) -> None:
        """Finish what is being answered, for two seconds at most, then stop. Idempotent."""
        self._listener.close()
        self._pages.close()


def _make_app(pages: _Pages, meter: Meter) -> ASGIApp:
    handlers: Mapping[Any, Any] = {HTTPException: refused, Exception: failed}
    endpoints = (pages.metrics, pages.healthz, pages.readyz, pages.recommend)
    routes = [Route(path, endpoint) for path, endpoint in zip(_ROUTES, endpoints, strict=True)]
    return _Guard(Starlette(routes=routes, exception_handlers=handlers), meter)


class _Pages:
    """One method per route: translate, delegate, answer."""

    def __init__(
        self, config: HttpConfig, meter: RenderingMeter, health: Callable[[], Health], recommend: Recommend
    ) -> None:
        self._config = config
        self._meter = meter
        self._health = health
        self._recommend = recommend
        self._waiting = threading.BoundedSemaphore(RECOMMENDING_MAX)
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="headrace-recommend")

    def close(self) -> None:
        """Let the workers end once they are done."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def metrics(self, request: Request) -> Response:
        self._meter.set("headrace_ready", self._ready(self._health()))
        page, content_type = self._meter.render(request.headers.get("accept", ""))
        return Response(page, headers={"content-type": content_type})

    async def healthz(self, _request: Request) -> Response:
        health = self._health()
        return json_answer({"live": health.live, "reasons": health.reasons}, 200 if health.live else 503)

    async def readyz(self, _request: Request) -> Response:
        health = self._health()
        ready = self._ready(health)
        return json_answer({"ready": ready, "reasons": health.reasons, **health.details}, 200 if ready else 503)

    @staticmethod
    def _ready(health: Health) -> bool:
        return health.live and health.ready

    async def recommend(self, request: Request) -> Response:
        user, top_n = _question(request, self._config.top_n)
        started = time.perf_counter()
        answer = await self._ask(user, top_n)
        self._meter.observe("headrace_recommend_seconds", time.perf_counter() - started)
        items = [{"product_id": item.product_id, "score": item.score} for item in answer.items]
        model = {"seq": answer.seq, "age_seconds": answer.age_seconds, "version": answer.version}
        return json_answer({"user": user, "items": items, "model": model})

    async def _ask(self, user: str, top_n: int) -> Answer:
        """Call `recommend` on a worker thread, for a bounded time, with a bounded number waiting."""
        if not self._waiting.acquire(blocking=False):
            raise HTTPException(503, f"{RECOMMENDING_MAX} requests are being answered; try again", {"retry-after": "1"})
        call = self._workers.submit(self._recommend, user, top_n)
        # Not when the caller gives up, but when the worker is free: a stuck model must not gather a queue.
        call.add_done_callback(lambda _call: self._waiting.release())
        try:
            return await asyncio.wait_for(asyncio.wrap_future(call), RECOMMEND_SECONDS)
        except TimeoutError as error:
            raise HTTPException(503, "the model did not answer in time; try again", {"retry-after": "1"}) from error
        except HeadraceError as error:
            raise HTTPException(503, f"no recommendations now: {error}", {"retry-after": "1"}) from error


def _question(request: Request, top_n: int) -> tuple[str, int]:
    """The user and the number of items that a request asks for. Raises HTTPException 400 naming the parameter."""
    given = request.query_params.multi_items()
    names = [name for name, _ in given]
    if sorted(names) not in (["user"], ["n", "user"]):
        raise HTTPException(400, "ask with user=ID and, if you like, n=NUMBER, each once")
    asked = dict(given)
    if not 0 < len(asked["user"].encode()) <= USER_BYTES_MAX:
        raise HTTPException(400, f"user must have 1 to {USER_BYTES_MAX} bytes")
    text = asked.get("n", str(top_n))
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= ITEMS_MAX):
        raise HTTPException(400, f"n must be a whole number from 1 to {ITEMS_MAX}")
    return asked["user"], int(text)


class _Guard:
    """Bounds what a request may bring, and counts what is answered."""

    def __init__(self, app: ASGIApp, meter: Meter) -> None:
        self._app = app
        self._meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = _ROUTES.get(scope["path"], "other")
        app = self._app
        if len(scope["query_string"]) > QUERY_BYTES_MAX:
            app = problem(414, f"the query has more than {QUERY_BYTES_MAX} bytes")
        elif _has_body(scope):
            app = problem(413, "requests have no body here")
        await app(scope, receive, self._counting(send, route))

    def _counting(self, send: Send, route: str) -> Callable[[Message], Awaitable[None]]:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._meter.add("headrace_http_requests_total", route=route, status=f"{message['status'] // 100}xx")
            await send(message)

        return counted


def _has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
