"""An HTTP server in a thread of its own: no access log, bounded heads, callers that are cut off when they only sit."""

from __future__ import annotations

import socket
import threading
import time

import uvicorn
from starlette.types import ASGIApp

from stream.callers import Caller
from stream.errors import ConfigError

HEAD_BYTES_MAX = 16 << 10
_START_SECONDS = 5.0


class Listener:
    """Serves `app` from `start` to `close`. `settings`: the names of the variables that say where, for an error."""

    def __init__(self, app: ASGIApp, host: str, port: int, settings: str) -> None:
        self._host, self._port, self._settings = host, port, settings
        self._socket: socket.socket | None = None
        # No access log, no lifespan, no websockets; whoever configured logging keeps it.
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=Caller,
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                h11_max_incomplete_event_size=HEAD_BYTES_MAX,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=2,
            )
        )
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Listen, and answer the port. Raises `ConfigError` when the address cannot be had."""
        self._socket = self._listen()
        serve = {"sockets": [self._socket]}
        self._thread = threading.Thread(target=self._server.run, kwargs=serve, name="headrace-http", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.close()
                raise ConfigError(f"the HTTP server did not start on {self._host}:{self._port}: see the log")
            time.sleep(0.005)
        return self.port

    @property
    def port(self) -> int:
        """The port it listens on; 0 before `start` and after `close`."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else 0

    def close(self) -> None:
        """Finish what is being answered, for two seconds at most, then stop. Idempotent."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout=5)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _listen(self) -> socket.socket:
        try:
            family, _, _, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)[0]
            return socket.create_server(address[:2], family=family)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {self._host} port {self._port}: {error}. "
                f"Set {self._settings} to an address of this machine and a free port (0 picks one)"
            ) from error
