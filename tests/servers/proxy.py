"""A TCP proxy that loses, delays or throttles replies: the network between us and a server, on a bad day."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

CHUNK = 1 << 16


@dataclass
class Proxy:
    """What happens to replies, changed at any time from any thread; requests always arrive.

    `skip`, `lose`: after so many replies, so many never reach the client. `how`: its connection is closed instead
    (`cut`), or it is left waiting (`swallow`). `delay_seconds`: before each piece of a reply. `lost`: replies so far.
    """

    upstream: str
    skip: int = 0
    lose: int = 0
    how: Literal["cut", "swallow"] = "cut"
    delay_seconds: float = 0.0
    port: int = 0
    lost: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        address = urlsplit(self.upstream)
        server, to_server = await asyncio.open_connection(address.hostname, address.port)
        requests = asyncio.create_task(self._requests(client, to_server))
        try:
            # Cancelled when the proxy ends; Python 3.11 would log that as an error of ours.
            with suppress(asyncio.CancelledError):
                await self._replies(server, to_client)
        finally:
            requests.cancel()
            for writer in (to_client, to_server):
                writer.close()

    async def _requests(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await client.read(CHUNK):
                to_server.write(data)
                await to_server.drain()
            to_server.close()

    async def _replies(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await server.read(CHUNK):
                # "100 Continue" asks for the body; the reply is what comes after it.
                if not data.startswith(b"HTTP/1.1 100") and self._is_lost():
                    if self.how == "swallow":
                        await server.read()
                    return
                await asyncio.sleep(self.delay_seconds)
                to_client.write(data)
                await to_client.drain()

    def _is_lost(self) -> bool:
        if self.skip:
            self.skip -= 1
        elif self.lose:
            self.lose -= 1
            self.lost += 1
            return True
        return False


@contextmanager
def proxy_to(upstream: str) -> Iterator[Proxy]:
    """Run a proxy to the server at `upstream` (an http URL) on a port of its own."""
    proxy = Proxy(upstream)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(proxy.serve, "127.0.0.1", 0), loop).result()
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
