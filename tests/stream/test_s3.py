"""S3 as a store: every way of failing has its error, which names the setting to look at and never a secret."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit

import pytest

from stream.errors import (
    ConfigError,
    Conflict,
    HeadraceError,
    NotFound,
    PreconditionFailed,
    StoreRefused,
    StoreUnavailable,
)
from stream.store.s3 import PART_BYTES_MIN, S3Settings, S3Store
from tests.faults import proxy as faults
from tests.servers.careless_s3 import Objects, careless_s3
from tests.servers.proxy import Proxy, proxy_to
from tests.servers.s3 import S3Server

SECRET = "a-secret-that-no-message-may-show"


@pytest.fixture
def careless() -> Iterator[Objects]:
    with careless_s3("If-None-Match", "If-Match", "multipart") as server:
        yield server


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[Proxy]:
    with proxy_to(s3_server.endpoint) as running:
        yield running


def store_on(endpoint: str, attempts: int = 1, part_size: int = 16 << 20) -> S3Store:
    return S3Store(S3Settings("warehouse", endpoint, "key", SECRET, attempts=attempts, part_size=part_size))


def behind(proxy: Proxy, server: S3Server, **others: float) -> S3Store:
    return S3Store(server.settings(server.fresh_bucket(), endpoint=proxy.endpoint, **others))


def every_call(store: S3Store, key: str = "a") -> list[Callable[[], object]]:
    return [
        partial(store.get, key),
        partial(store.get_range, key, 0, 1),
        partial(store.get_range, key, 0, 0),
        partial(store.head, key),
        partial(store.put, key, b"1"),
        partial(store.put, key, b"1", if_absent=True),
        partial(store.put_in_parts, key, b"1"),
        partial(store.delete, key),
        partial(store.delete, key, if_match='"1"'),
        lambda: list(store.list("")),
    ]


@pytest.mark.services
def test_a_missing_bucket_is_refused(s3_server: S3Server) -> None:
    """No call takes a missing bucket for a missing object; each names bucket, endpoint and the settings."""
    store = S3Store(s3_server.settings("no-such-bucket"))

    for call in every_call(store):
        with pytest.raises(StoreRefused, match=r"no bucket 'no-such-bucket'.*CLICKSTREAM_S3_BUCKET") as refusal:
            call()
        assert s3_server.endpoint in str(refusal.value)


@pytest.mark.services
@pytest.mark.parametrize(
    ("wrong", "setting"), [({"access_key": "nobody"}, "MINIO_ACCESS_KEY"), ({"secret_key": SECRET}, "MINIO_SECRET_KEY")]
)
def test_wrong_credentials_are_refused(s3_server: S3Server, wrong: dict[str, str], setting: str) -> None:
    """Each call says which key is wrong, and shows none."""
    store = S3Store(s3_server.settings(s3_server.fresh_bucket(), **wrong))

    for call in every_call(store):
        with pytest.raises(StoreRefused, match=setting) as refusal:
            call()
        assert SECRET not in str(refusal.value)
        assert s3_server.secret_key not in str(refusal.value)


@pytest.mark.services
def test_a_refused_upload_leaves_no_parts(s3_server: S3Server) -> None:
    """Parts that were never joined would be paid for and never seen: they are given back."""
    store = s3_server.fresh_store(part_size=PART_BYTES_MIN)
    data = bytes(2 * PART_BYTES_MIN)
    store.put("big", data)

    with pytest.raises(PreconditionFailed):
        store.put("big", data, if_absent=True)

    assert "Uploads" not in store.client.list_multipart_uploads(Bucket=store.settings.bucket)


@pytest.mark.services
@pytest.mark.parametrize("way", ["whole", "in parts"])
def test_a_body_that_breaks_off_leaves_nothing(s3_server: S3Server, way: str) -> None:
    """A connection that breaks before the body came writes no object, neither an empty one nor half of one."""
    plain = s3_server.fresh_store()
    address = urlsplit(s3_server.endpoint)
    with faults.proxy_to(address.hostname or "", address.port or 0) as breaking:

        def breaks(data: bytes) -> bool:
            if data.startswith((b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE ")):
                return False
            breaking.reset()
            raise ConnectionResetError

        breaking.loses = breaks
        store = S3Store(replace(plain.settings, endpoint=breaking.endpoint, attempts=1))
        for put in (store.put_in_parts,) if way == "in parts" else (store.put, partial(store.put, if_absent=True)):
            with pytest.raises(StoreUnavailable):
                put("torn", b"x" * 700)

    assert list(plain.list("torn")) == []


def test_a_lost_reply_is_no_answer(s3_server: S3Server, proxy: Proxy) -> None:
    """A create-once whose reply is lost took place all the same: the error says that its outcome is unknown."""
    store = behind(proxy, s3_server, attempts=1)
    proxy.lose = 1

    with pytest.raises(StoreUnavailable):
        store.put("plan", b"mine", if_absent=True)

    assert proxy.lost == 1
    assert store.get("plan").data == b"mine"


@pytest.mark.services
def test_a_lost_reply_and_a_second_try_look_like_a_refusal(s3_server: S3Server, proxy: Proxy) -> None:
    """The retry meets one's own object: a 412 is no proof of another writer, the caller must read back its nonce."""
    store = behind(proxy, s3_server, attempts=3)
    proxy.lose = 1

    with pytest.raises(PreconditionFailed):
        store.put("plan", b"mine", if_absent=True)

    assert store.get("plan").data == b"mine"


@pytest.mark.services
def test_a_lost_reply_to_a_conditional_delete_is_no_refusal(s3_server: S3Server, proxy: Proxy) -> None:
    """The retry finds nothing: that is what was asked for."""
    store = behind(proxy, s3_server, attempts=3)
    etag = store.put("a", b"1")
    # The look at the ETag passes; the reply to the delete is lost.
    proxy.skip, proxy.lose = 1, 1

    store.delete("a", if_match=etag)

    assert proxy.lost == 1
    assert list(store.list("")) == []


@pytest.mark.services
def test_a_server_that_says_nothing_is_given_up_in_time(s3_server: S3Server, proxy: Proxy) -> None:
    """Attempts times the time-out, and little more."""
    store = behind(proxy, s3_server, attempts=2, read_seconds=0.5)
    proxy.lose, proxy.how = 2, "swallow"
    began = time.monotonic()

    with pytest.raises(StoreUnavailable, match="MINIO_ENDPOINT"):
        store.put("a", b"1")

    assert 1 <= time.monotonic() - began < 5


@pytest.mark.services
def test_a_body_that_trickles_is_given_up_in_time(s3_server: S3Server, proxy: Proxy) -> None:
    """Every piece comes within the time-out for bytes, but the whole would take for ever."""
    store = behind(proxy, s3_server, attempts=1, read_seconds=3, bytes_per_second_min=10e6)
    store.put("a", bytes(3 << 20))
    proxy.delay_seconds = 0.2
    began = time.monotonic()

    with pytest.raises(StoreUnavailable, match="too slowly"):
        store.get("a")

    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("status", "code", "error", "says"),
    [
        (500, "InternalError", StoreUnavailable, "try again"),
        (503, "SlowDown", StoreUnavailable, "try again"),
        (507, "XMinioStorageFull", StoreUnavailable, "XMinioStorageFull"),
        (409, "ConditionalRequestConflict", Conflict, "try again"),
        (412, "PreconditionFailed", PreconditionFailed, "s3://warehouse/a"),
        (404, "NoSuchKey", NotFound, "s3://warehouse/a"),
        (403, "AccessDenied", StoreRefused, "s3:ListBucket"),
        (403, "InvalidAccessKeyId", StoreRefused, "MINIO_ACCESS_KEY"),
        (403, "SignatureDoesNotMatch", StoreRefused, "MINIO_SECRET_KEY"),
        (403, "RequestTimeTooSkewed", StoreRefused, "clock"),
        (400, "ExpiredToken", StoreRefused, "log in anew"),
        (400, "AuthorizationHeaderMalformed", StoreRefused, "HEADRACE_STORE_REGION"),
        (400, "SomethingNew", StoreRefused, "SomethingNew: as told"),
    ],
)
def test_every_answer_has_its_error(
    careless: Objects, status: int, code: str, error: type[HeadraceError], says: str
) -> None:
    """What the server answers becomes the one error that tells the caller what to do; the message says more."""
    careless.failures = [("PUT", status, code)]

    with pytest.raises(error, match=says) as raised:
        store_on(careless.endpoint).put("a", b"1")

    assert type(raised.value) is error
    assert SECRET not in str(raised.value)


def test_a_passing_trouble_is_not_seen(careless: Objects) -> None:
    """Two 503s and a third try that succeeds are a success."""
    careless.failures = [("PUT", 503, "SlowDown"), ("PUT", 500, "InternalError")]

    store_on(careless.endpoint, attempts=3).put("a", b"1")

    assert careless.objects == {"a": b"1"}
    assert careless.failures == []


def test_a_failed_part_gives_up_the_upload(careless: Objects) -> None:
    """The error is that of the part, nothing is there, and the other parts are given back."""
    careless.failures = [("PUT", 500, "InternalError")]

    with pytest.raises(StoreUnavailable, match="InternalError"):
        store_on(careless.endpoint, part_size=PART_BYTES_MIN).put("big", bytes(3 * PART_BYTES_MIN))

    assert careless.objects == {}
    assert careless.parts == {}


def test_an_upload_that_cannot_be_given_up_says_so(careless: Objects) -> None:
    """Why it failed comes first; that parts are left over is noted beside it."""
    careless.failures = [("PUT", 500, "InternalError"), ("DELETE", 500, "InternalError")]

    with pytest.raises(StoreUnavailable) as raised:
        store_on(careless.endpoint).put_in_parts("big", b"1")

    assert raised.value.__cause__ is not None
    assert "left over" in raised.value.__cause__.__notes__[0]


def test_a_store_without_conditional_deletes(careless: Objects) -> None:
    """Where the header is ignored or not implemented the look beforehand decides."""
    store = store_on(careless.endpoint)
    old, new = store.put("a", b"old"), store.put("a", b"new")

    with pytest.raises(PreconditionFailed):
        store.delete("a", if_match=old)
    assert careless.objects == {"a": b"new"}

    careless.failures = [("DELETE", 501, "NotImplemented")]
    store.delete("a", if_match=new)
    assert careless.objects == {}


def test_an_object_too_large_to_hold_is_refused(careless: Objects) -> None:
    """What an object contains cannot fill the memory; ranges of it can still be read."""
    careless.objects["a"] = bytes(2000)
    store = S3Store(S3Settings("warehouse", careless.endpoint, "key", SECRET, object_bytes_max=1999))

    with pytest.raises(StoreRefused, match="s3://warehouse/a has 2,000 bytes, more than the 1,999"):
        store.get("a")
    assert store.get_range("a", 0, 10) == bytes(10)


def test_no_credentials_at_all(careless: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys, and without any in AWS's own places, the message says what to set."""
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ["AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"]:
        monkeypatch.setenv(name, "/nonexistent")

    with pytest.raises(StoreRefused, match=r"no credentials.*MINIO_ACCESS_KEY.*MINIO_SECRET_KEY"):
        S3Store(S3Settings("warehouse", careless.endpoint)).get("a")


def test_https_to_a_plain_server(careless: Objects) -> None:
    """The message says that the scheme may be wrong, and does not ask to try again."""
    with pytest.raises(StoreRefused, match=r"whether MINIO_ENDPOINT .* is https:// or http://"):
        store_on(careless.endpoint.replace("http://", "https://")).get("a")


def test_settings_that_make_no_sense() -> None:
    """What no S3 takes is refused before any call, by name."""
    with pytest.raises(ConfigError, match=r"MINIO_ENDPOINT.*'no url'"):
        store_on("no url")
    with pytest.raises(ConfigError, match="part_size is 1,000 bytes"):
        S3Settings("warehouse", part_size=1000)
    with pytest.raises(StoreRefused, match="CLICKSTREAM_S3_BUCKET"):
        S3Store(S3Settings("no bucket name", "http://127.0.0.1:9", "key", SECRET)).get("a")


def test_secrets_are_never_shown() -> None:
    """Neither settings nor store print them, and a pickle still carries them to the learner's process."""
    settings = S3Settings("warehouse", "http://127.0.0.1:9", "key", SECRET, session_token=SECRET)
    store = S3Store(settings)

    for shown in [repr(settings), str(settings), repr(store), str(store)]:
        assert SECRET not in shown
    assert "secret_key='***'" in repr(settings)
    assert "'key'" in repr(settings)
    assert pickle.loads(pickle.dumps(store)).settings == settings
