"""A TCP proxy of ours between the service and a server: late, cut, half-closed, deaf, or gone, by direction.

Plain threads and sockets, two threads a connection. What happens is set by attributes, at any time, from any thread.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

CHUNK = 1 << 16
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST, and what is unsent is dropped


@dataclass
class Proxy:
    """Between `port` and `upstream` (host, port). Everything passes unharmed until told otherwise.

    `request_seconds`, `reply_seconds`: each piece waits so long. `away`: every connection is reset, new ones too.
    `reset_share`: share of the pieces, by a seeded draw, at which the connection is reset. `loses`: a request for which
    it says so arrives, and its reply does not: the connection is `cut` then, or stays `silent`; `lost` counts them.
    """

    upstream: tuple[str, int]
    port: int = 0
    request_seconds: float = 0.0
    reply_seconds: float = 0.0
    reset_share: float = 0.0
    loses: Callable[[bytes], bool] = lambda _request: False
    how: Literal["cut", "silent"] = "cut"
    lost: int = 0
    resets: int = 0
    _away: bool = False
    _draw: random.Random = field(default_factory=lambda: random.Random(1))
    _open: list[_Connection] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def leave(self) -> None:
        """The server is gone: connections are reset, and new ones as soon as they are made."""
        self._away = True
        self.reset()

    def come_back(self) -> None:
        """Undo `leave`."""
        self._away = False

    def reset(self) -> None:
        """Reset every open connection, once."""
        for connection in list(self._open):
            connection.reset()

    def half_close(self) -> None:
        """Every open connection says that no more replies will come, and goes on taking requests."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.client.shutdown(socket.SHUT_WR)

    def unlucky(self) -> bool:
        """Whether this piece meets a reset."""
        return self.reset_share > 0 and self._draw.random() < self.reset_share

    def serve(self, listener: socket.socket) -> None:
        """Take connections until `close`."""
        while not self._over.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            if self._away:
                _reset(client)
                continue
            try:
                server = socket.create_connection(self.upstream, timeout=5)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            self._open.append(_Connection(self, client, server))

    def forget(self, connection: _Connection) -> None:
        """It has ended."""
        with suppress(ValueError):
            self._open.remove(connection)

    def close(self) -> None:
        """End all connections."""
        self._over.set()
        self.reset()


class _Connection:
    """One connection, pumped in both directions until either side ends it."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self.client = client
        self._server = server
        self._losing = False
        self._left = 2
        self._lock = threading.Lock()
        for job in (self._requests, self._replies):
            threading.Thread(target=self._run, args=(job,), daemon=True).start()

    def reset(self) -> None:
        for end in (self.client, self._server):
            _reset(end)

    def _run(self, job: Callable[[], None]) -> None:
        with suppress(OSError):
            job()
        with self._lock:
            self._left -= 1
            last = not self._left
        if last:
            for end in (self.client, self._server):
                end.close()
            self._proxy.forget(self)

    def _requests(self) -> None:
        while data := self.client.recv(CHUNK):
            self._wait(self._proxy.request_seconds)
            if self._proxy.loses(data):
                self._losing = True
            self._server.sendall(data)
        self._server.shutdown(socket.SHUT_WR)

    def _replies(self) -> None:
        while data := self._server.recv(CHUNK):
            # "100 Continue" asks for the body; the reply is what comes after it.
            if self._losing and not data.startswith(b"HTTP/1.1 100"):
                self._lose()
                continue
            self._wait(self._proxy.reply_seconds)
            self.client.sendall(data)
        self.client.shutdown(socket.SHUT_WR)

    def _lose(self) -> None:
        self._proxy.lost += 1
        if self._proxy.how == "cut":
            self._losing = False
            self.reset()

    def _wait(self, seconds: float) -> None:
        if self._proxy.unlucky():
            self._proxy.resets += 1
            self.reset()
            raise ConnectionResetError
        if seconds:
            self._proxy._over.wait(seconds)


def _reset(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        # A close alone leaves a thread that waits in recv waiting; the file stays open until both threads are done.
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy_to(host: str, port: int, listen: int = 0) -> Iterator[Proxy]:
    """Run a proxy to `host`:`port`, on `listen` or a port of its own."""
    with socket.create_server(("127.0.0.1", listen)) as listener:
        proxy = Proxy((host, port), listener.getsockname()[1])
        thread = threading.Thread(target=proxy.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.close()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
