"""Habits of kafka-python that would stop or wear out a long-running service, put right where it lets us.

1. Host names are looked up on its only network thread, for which `poll` waits: a name server in trouble would hold up
   the poll loop for many seconds. `BackgroundNames` looks up in threads of its own and answers from what it knows.
2. A header key that is not UTF-8, which brokers accept, makes a whole record batch unreadable for ever.
   `read_any_header_key` has such a key read with replacement characters.
3. A connection that fails leaves its socket to the garbage collector, and a client whose start fails leaves its network
   thread running for ever. `BackgroundNames` and `Clients` close them.
4. A refused login is tried again and again, then reported as a time-out. `Clients` make it an error at the next try.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

from kafka.errors import SaslAuthenticationFailedError, UnsupportedSaslMechanismError
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.record.default_records import DefaultRecordBatch

LOGIN_ERRORS = (SaslAuthenticationFailedError, UnsupportedSaslMechanismError)
NAMES_URL = "headrace-names://"
LOOKUP_SECONDS_MAX = 0.2
FRESH_SECONDS = 30.0

Addresses = list[Any]


class _Names:
    """Addresses by (host, port); a lookup never takes its caller longer than `LOOKUP_SECONDS_MAX`."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[float, Addresses]] = {}
        self._pending: dict[tuple[str, int], threading.Thread] = {}
        self._lock = threading.Lock()

    def addresses(self, host: str, port: int) -> Addresses:
        """What is known by then: perhaps an older answer, perhaps nothing; the caller tries again later."""
        place = (host, port)
        since, known = self._known.get(place, (0.0, []))
        if known and time.monotonic() - since < FRESH_SECONDS:
            return known
        with self._lock:
            thread = self._pending.get(place)
            if thread is None:
                thread = threading.Thread(target=self._look_up, args=place, name=f"dns-{host}", daemon=True)
                self._pending[place] = thread
                thread.start()
        thread.join(LOOKUP_SECONDS_MAX)
        return self._known.get(place, (0.0, []))[1]

    def _look_up(self, host: str, port: int) -> None:
        try:
            found = socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM)
            self._known[host, port] = (time.monotonic(), found)
        except OSError:
            # An older answer stays in use: a name server's outage is no reason to forget where the broker was.
            pass
        finally:
            with self._lock:
                del self._pending[host, port]


_names = _Names()


class BackgroundNames(KafkaNetSocket):  # type: ignore[misc]  # kafka-python has no types
    """kafka-python's plain socket, chosen by `proxy_url=NAMES_URL`, which is how it lets one in."""

    SCHEMES = ("headrace-names",)

    def dns_lookup(self, host: str, port: int, raise_error: bool = False) -> Addresses:  # noqa: ARG002, FBT001, FBT002
        return _names.addresses(host, port)

    async def sock_connect(self, net: Any, sock: socket.socket, sockaddr: Any, timeout_at: float | None = None) -> Any:
        try:
            return await super().sock_connect(net, sock, sockaddr, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise


class _Connections(KafkaConnectionManager):  # type: ignore[misc]  # kafka-python has no types
    def __init__(self, net: Any, **options: Any) -> None:
        super().__init__(net, **options)
        self._logins_refused: dict[Any, BaseException] = {}

    def get_connection(self, node_id: Any, *place: Any, **more: Any) -> Any:
        connection = super().get_connection(node_id, *place, **more)

        def note(error: BaseException) -> None:
            if isinstance(error, LOGIN_ERRORS):
                self._logins_refused[node_id] = error

        connection.init_future.add_errback(note)
        return connection

    @property
    def login_refused(self) -> BaseException | None:
        """How a login was refused, if one was."""
        return next(iter(self._logins_refused.values()), None)

    def maybe_raise_auth_failure(self, node_id: Any) -> None:
        if node_id in self._logins_refused:
            raise self._logins_refused[node_id]
        super().maybe_raise_auth_failure(node_id)


class Clients:
    """Makes the network part of kafka-python's clients (their option `kafka_client`), and remembers it for `close`."""

    def __init__(self) -> None:
        self._made: list[KafkaNetClient] = []
        self._connections: list[_Connections] = []

    def __call__(self, **options: Any) -> KafkaNetClient:
        """A network client that behaves as kafka-python's own."""
        net = NetworkSelector(**options)
        self._connections.append(_Connections(net, **options))
        self._made.append(KafkaNetClient(net, self._connections[-1], **options))
        return self._made[-1]

    def login_refused(self) -> BaseException | None:
        """How a login was refused, if one was."""
        return next((each.login_refused for each in self._connections if each.login_refused is not None), None)

    def close(self) -> None:
        """End the network threads and connections of all clients made."""
        for client in self._made:
            client.close()


class _Text(bytes):
    def decode(self, encoding: str = "utf-8", _errors: str = "strict") -> str:
        return super().decode(encoding, "replace")


class _Buffer(bytes):
    """A record batch whose slices decode whatever they hold."""

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return _Text(found) if isinstance(found, bytes) else found


_read_message = DefaultRecordBatch._read_msg  # noqa: SLF001  there is no public place to put this right


def _read_any_message(batch: Any) -> Any:
    try:
        return _read_message(batch)
    except UnicodeDecodeError:
        # Nothing has moved yet: a batch's position is advanced by whole records only.
        batch._buffer = _Buffer(batch._buffer)  # noqa: SLF001
        return _read_message(batch)


def read_any_header_key() -> None:
    """From now on, in this process, read header keys that are not UTF-8 with replacement characters.

    Called at the first sight of one: the detour costs every record a little.
    """
    DefaultRecordBatch._read_msg = _read_any_message  # noqa: SLF001
