"""TLS in front of a server that speaks none: takes connections by a certificate, and hands on what comes through."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

CHUNK = 1 << 16


@contextmanager
def tls_to(upstream: str, context: ssl.SSLContext) -> Iterator[int]:
    """Run on a port of its own, which is answered, in front of the server at `upstream` (an http URL)."""
    address = urlsplit(upstream)

    async def serve(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(address.hostname, address.port)
        with suppress(asyncio.CancelledError):
            await asyncio.gather(_pass(client, to_server), _pass(server, to_client))

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # a handshake that fails is what is asked for
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    starting = asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    server = asyncio.run_coroutine_threadsafe(starting, loop).result()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(CHUNK):
            sink.write(data)
            await sink.drain()
    sink.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
