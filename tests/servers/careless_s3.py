"""A small S3 server over HTTP that ignores what it does not know, and says 200: as `rclone serve s3` does.

Objects, ranges, listings and multipart uploads work; `honours` names the conditions that it takes note of. What stands
in `failures` is answered first, one failure to a request: then it is a server with a bad day.
"""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class Objects(ThreadingHTTPServer):
    """The server and what it holds.

    `honours`: any of If-None-Match, If-Match, multipart. `failures`: HTTP method, status and S3 error code of answers
    to come; the first one that is for the method of a request is given and taken off.
    """

    honours: frozenset[str] = frozenset()
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    failures: list[tuple[str, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def careless_s3(*honours: str) -> Iterator[Objects]:
    """Run the server; every bucket exists."""
    server = Objects(frozenset(honours))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def etag_of(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def held(self) -> Objects:
        return cast(Objects, self.server)

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()}

    def fails(self) -> bool:
        """Give the next failure that is for this method, if there is one."""
        failure = next((failure for failure in self.held.failures if failure[0] == self.command), None)
        if failure is not None:
            self.held.failures.remove(failure)
            self.answer(failure[1], f"<Error><Code>{failure[2]}</Code><Message>as told</Message></Error>")
        return failure is not None

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.fails():
            return
        if "uploadId" in self.query:
            self.held.parts[self.query["uploadId"]][int(self.query["partNumber"])] = data
            self.answer(200, etag=etag_of(data))
        else:
            self.store(data, "put")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.fails():
            return
        if "uploads" in self.query:
            upload = uuid.uuid4().hex
            self.held.parts[upload] = {}
            self.answer(
                200, f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            )
        else:
            parts = self.held.parts.pop(self.query["uploadId"])
            self.store(b"".join(parts[number] for number in sorted(parts)), "multipart")

    def do_GET(self) -> None:
        if self.fails():
            return
        if not self.key:
            self.listing()
        elif self.key in self.held.objects:
            data = self.held.objects[self.key]
            self.answer(206 if "Range" in self.headers else 200, self.cut(data), etag=etag_of(data))
        else:
            self.answer(404, "<Error><Code>NoSuchKey</Code></Error>")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        if self.fails():
            return
        if "uploadId" in self.query:
            self.held.parts.pop(self.query["uploadId"], None)
        else:
            self.held.objects.pop(self.key, None)
        self.answer(204)

    def store(self, data: bytes, how: str) -> None:
        if self.is_refused(how):
            self.answer(412, "<Error><Code>PreconditionFailed</Code></Error>")
            return
        self.held.objects[self.key] = data
        etag = etag_of(data)
        done = f"<CompleteMultipartUploadResult><ETag>{escape(etag)}</ETag></CompleteMultipartUploadResult>"
        self.answer(200, done if how == "multipart" else "", etag=etag)

    def is_refused(self, how: str) -> bool:
        if how == "multipart" and "multipart" not in self.held.honours:
            return False
        present = self.held.objects.get(self.key)
        create, match = self.headers["If-None-Match"], self.headers["If-Match"]
        if create and "If-None-Match" in self.held.honours:
            return present is not None
        if match and "If-Match" in self.held.honours:
            return present is None or etag_of(present) != match
        return False

    def cut(self, data: bytes) -> bytes:
        if "Range" not in self.headers:
            return data
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        return data[int(first) : int(last) + 1]

    def listing(self) -> None:
        prefix, start = self.query.get("prefix", ""), self.query.get("start-after", "")
        rows = "".join(
            f"<Contents><Key>{quote(key)}</Key><Size>{len(data)}</Size><ETag>{escape(etag_of(data))}</ETag>"
            f"<LastModified>{time.strftime('%Y-%m-%dT%H:%M:%S.000Z', time.gmtime())}</LastModified></Contents>"
            for key, data in sorted(self.held.objects.items())
            if key.startswith(prefix) and key > start
        )
        self.answer(200, f"<ListBucketResult><EncodingType>url</EncodingType>{rows}</ListBucketResult>")

    def answer(self, status: int, body: str | bytes = b"", etag: str = "") -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", formatdate(usegmt=True))
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Say nothing: the tests say what happened."""
