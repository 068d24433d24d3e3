"""The object store door to S3 and to whatever speaks its API."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.response import StreamingBody

from stream.errors import ConfigError, NotFound, PreconditionFailed, StoreRefused, StoreUnavailable
from stream.ports import Blob, ObjectInfo
from stream.store.keys import ascending, check_key, check_prefix, early_start
from stream.store.s3_errors import Place, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

READ_BYTES = 1 << 20
UPLOADS_MAX = 4
PARTS_MAX = 10_000
PART_BYTES_MIN = 5 << 20
_SECRET = {"secret_key", "session_token"}


@dataclass(frozen=True, slots=True, repr=False)
class S3Settings:
    """How to reach a bucket.

    `endpoint` "": AWS. `access_key` "": AWS's own credential chain (profile, pod or instance role). `ca_file`: PEM
    bundle that the endpoint's certificate is checked by ("": the public authorities'). `connect_seconds`,
    `read_seconds`: longest wait for a connection, and for the next bytes. `attempts`: tries of one call, the first
    included. `bytes_per_second_min`: a body that arrives more slowly than this is given up. `part_size`: objects above
    it go up in parts of it. `object_bytes_max`: larger ones are not read whole. `page_size`: of a listing.
    """

    bucket: str
    endpoint: str = ""
    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""
    region: str = "us-east-1"
    ca_file: str = ""
    connect_seconds: float = 3.0
    read_seconds: float = 10.0
    attempts: int = 3
    bytes_per_second_min: float = 1 << 20
    part_size: int = 16 << 20
    object_bytes_max: int = 4 << 30
    page_size: int = 1000

    def __post_init__(self) -> None:
        if self.part_size < PART_BYTES_MIN:
            raise ConfigError(f"part_size is {self.part_size:,} bytes: S3 takes parts of {PART_BYTES_MIN:,} or more")

    def __repr__(self) -> str:
        shown = ((each.name, getattr(self, each.name)) for each in fields(self))
        return f"S3Settings({', '.join(f'{name}={_masked(name, value)!r}' for name, value in shown)})"


def _masked(name: str, value: object) -> object:
    return "***" if name in _SECRET and value else value


class S3Store:
    """`ObjectStore` on one bucket. Thread safe; a pickle holds the settings (secrets included) and reconnects.

    Two limits of some stores: where deletes take no `If-Match` (MinIO ignores it), an object that is replaced between
    our look at its ETag and the delete is deleted all the same; and a key must never also be the folder of another.
    """

    def __init__(self, settings: S3Settings) -> None:
        """Raises `ConfigError` when the endpoint is no URL. Makes no call to the store."""
        self.settings = settings
        self._place = Place(settings.endpoint, settings.bucket, settings.region)
        self.client = _connect(settings)

    def __reduce__(self) -> tuple[type[S3Store], tuple[S3Settings]]:
        return S3Store, (self.settings,)

    def __repr__(self) -> str:
        return f"S3Store({self.settings!r})"

    def __str__(self) -> str:
        return f"{self._place.store}, bucket {self.settings.bucket!r},"

    def get(self, key: str) -> Blob:
        """The whole object, if it is within `object_bytes_max`: else `StoreRefused`."""
        with translated(self._place, "read", check_key(key)):
            answer = self.client.get_object(Bucket=self.settings.bucket, Key=key)
            self._check_size(key, answer["ContentLength"])
            return Blob(self._body(answer["Body"], answer["ContentLength"]), answer["ETag"])

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Bytes [start, start + length). An empty range, or one behind the end, is empty."""
        if start < 0 or length < 0:
            raise ValueError(f"get_range of {key!r}: start {start} and length {length} must not be negative")
        if length == 0:
            self.head(key)
            return b""
        with translated(self._place, "read", check_key(key)):
            return self._ranged(key, f"bytes={start}-{start + length - 1}", length)

    def head(self, key: str) -> ObjectInfo:
        with translated(self._place, "look up", check_key(key)):
            answer = self._head(key)
            return ObjectInfo(key, answer["ContentLength"], answer["ETag"], answer["LastModified"].timestamp())

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Write whole; see the port. Above `part_size` it goes up in parts, four at a time."""
        if memoryview(data).nbytes > self.settings.part_size:
            return self.put_in_parts(key, data, if_absent=if_absent, if_match=if_match)
        condition = _condition(key, if_absent=if_absent, if_match=if_match)
        with translated(self._place, "write", check_key(key), conditional=bool(condition)):
            body = data if isinstance(data, bytes) else bytes(data)
            sent: Any = {"Body": body, "ContentMD5": _md5(body), **condition}
            return self.client.put_object(Bucket=self.settings.bucket, Key=key, **sent)["ETag"]

    def put_in_parts(
        self, key: str, data: bytes | memoryview, *, if_absent: bool = False, if_match: str | None = None
    ) -> str:
        """As `put`, by multipart upload whatever the size. The condition is checked when the parts are joined."""
        condition = _condition(key, if_absent=if_absent, if_match=if_match)
        target: Any = {"Bucket": self.settings.bucket, "Key": check_key(key)}
        with translated(self._place, "write", key, conditional=bool(condition)):
            target["UploadId"] = self.client.create_multipart_upload(**target)["UploadId"]
            try:
                parts = self._upload(target, memoryview(data).cast("B"))
                joined = self.client.complete_multipart_upload(**target, MultipartUpload={"Parts": parts}, **condition)
                return joined["ETag"]
            except BaseException as error:
                self._abort(target, error)
                raise

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """In key order, whatever order the store has; pages are fetched as they are needed."""
        check_prefix(prefix)
        if start_after > prefix and not start_after.startswith(prefix):
            return
        for info in ascending(self._rows(prefix, early_start(prefix, start_after)), prefix):
            if info.key > start_after:
                yield info

    def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Remove; an object that is not there is no error, with `if_match` neither."""
        if if_match is None:
            self._delete(key)
            return
        with suppress(NotFound):
            self._check_etag(key, if_match)
            try:
                self._delete(key, if_match)
            except PreconditionFailed:
                # Gone by our own first try, whose reply was lost, or by somebody else's hand?
                self._check_etag(key, if_match)
                raise

    def _delete(self, key: str, if_match: str | None = None) -> None:
        condition = _condition(key, if_match=if_match)
        with translated(self._place, "delete", check_key(key), conditional=bool(condition)):
            try:
                self.client.delete_object(Bucket=self.settings.bucket, Key=key, **condition)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 501 or not condition:
                    raise
                # Some stores do not implement the header on deletes; the look before must do.
                self.client.delete_object(Bucket=self.settings.bucket, Key=key)

    def _check_etag(self, key: str, if_match: str) -> None:
        etag = self.head(key).etag
        if etag != if_match:
            raise PreconditionFailed(f"{self._place.of(key)} is not deleted: its ETag is {etag}, not {if_match}")

    def _head(self, key: str) -> Any:
        try:
            return self.client.head_object(Bucket=self.settings.bucket, Key=key)
        except ClientError as error:
            # A HEAD has no body to say whether the key is missing or the whole bucket.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                self._check_bucket()
            raise

    def _check_bucket(self) -> None:
        try:
            self.client.head_bucket(Bucket=self.settings.bucket)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                raise StoreRefused(self._place.no_bucket()) from error
            raise

    def _ranged(self, key: str, span: str, length: int) -> bytes:
        try:
            answer = self.client.get_object(Bucket=self.settings.bucket, Key=key, Range=span)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 416:
                return b""
            raise
        return self._body(answer["Body"], min(length, answer["ContentLength"]))

    def _check_size(self, key: str, size: int) -> None:
        if size > self.settings.object_bytes_max:
            raise StoreRefused(
                f"{self._place.of(key)} has {size:,} bytes, more than the {self.settings.object_bytes_max:,} that are "
                "read at once: is it what Headrace wrote there? If so, read it in ranges"
            )

    def _body(self, body: StreamingBody, length: int) -> bytes:
        """All `length` bytes, or `StoreUnavailable` when they stop or trickle: no call hangs for ever."""
        deadline = time.monotonic() + self.settings.read_seconds + length / self.settings.bytes_per_second_min
        pieces = []
        with body:
            while piece := body.read(READ_BYTES):
                pieces.append(piece)
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"{self._place.store} sends a body of {length:,} bytes too slowly; try again"
                    )
        data = b"".join(pieces)
        if len(data) != length:
            raise StoreUnavailable(f"{self._place.store} sent {len(data):,} of {length:,} bytes; try again")
        return data

    def _upload(self, target: Any, data: memoryview) -> Sequence[CompletedPartTypeDef]:
        size = max(self.settings.part_size, -(-data.nbytes // PARTS_MAX))
        pieces = [data[start : start + size] for start in range(0, max(data.nbytes, 1), size)]

        def upload(number: int, piece: memoryview) -> CompletedPartTypeDef:
            body = bytes(piece)
            answer = self.client.upload_part(**target, PartNumber=number, Body=body, ContentMD5=_md5(body))
            return {"PartNumber": number, "ETag": answer["ETag"]}

        with ThreadPoolExecutor(UPLOADS_MAX, "s3-part") as pool:
            return list(pool.map(upload, range(1, len(pieces) + 1), pieces))

    def _abort(self, target: Any, cause: BaseException) -> None:
        """Give the parts' space back. Best effort: why the upload failed matters more than why this did."""
        try:
            self.client.abort_multipart_upload(**target)
        except (BotoCoreError, ClientError) as error:
            cause.add_note(f"the parts of the unfinished upload {target['UploadId']} are left over: {error}")

    def _rows(self, prefix: str, start_after: str) -> Iterator[ObjectInfo]:
        request: Any = {"Bucket": self.settings.bucket, "Prefix": prefix, "MaxKeys": self.settings.page_size}
        if start_after:
            request["StartAfter"] = start_after
        while True:
            with translated(self._place, "list", prefix):
                page = self.client.list_objects_v2(**request)
            for row in page.get("Contents", []):
                yield ObjectInfo(row["Key"], row["Size"], row["ETag"], row["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]


def _md5(body: bytes) -> str:
    """For Content-MD5: without it SeaweedFS 4 keeps an empty object when a connection breaks before the body came."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _condition(key: str, *, if_absent: bool = False, if_match: str | None = None) -> dict[str, Any]:
    if if_absent and if_match is not None:
        raise ValueError(f"put of {key!r}: if_absent and if_match exclude each other")
    if if_absent:
        return {"IfNoneMatch": "*"}
    return {} if if_match is None else {"IfMatch": if_match}


def _connect(settings: S3Settings) -> S3Client:
    session = boto3.session.Session(
        aws_access_key_id=settings.access_key or None,
        aws_secret_access_key=settings.secret_key or None,
        aws_session_token=settings.session_token or None,
    )
    config = Config(
        connect_timeout=settings.connect_seconds,
        read_timeout=settings.read_seconds,
        # boto3's default mode, legacy, does not retry a reply that never came in all the cases that standard does.
        retries={"mode": "standard", "total_max_attempts": settings.attempts},
        max_pool_connections=16,
        tcp_keepalive=True,
        # By default boto3 sends CRC trailers in chunked bodies that older MinIOs and other S3 servers refuse.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if settings.endpoint else "auto"},
    )
    try:
        return session.client(
            "s3",
            region_name=settings.region,
            endpoint_url=settings.endpoint or None,
            verify=settings.ca_file or None,
            config=config,
        )
    except ValueError as error:
        raise ConfigError(f"MINIO_ENDPOINT or HEADRACE_STORE_ENDPOINT is no URL: {settings.endpoint!r}") from error
