"""The start-up probe: a good store passes and is left clean, and each missing semantic is refused by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.errors import StoreRefused, StoreUnavailable
from stream.naming import Layout
from stream.ports import Blob, ObjectInfo, ObjectStore
from stream.probe import probe
from stream.store.directory import DirectoryStore
from stream.store.s3 import S3Settings, S3Store
from tests.servers.careless_s3 import Objects, careless_s3
from tests.servers.process import free_ports
from tests.servers.s3 import S3Server

LAYOUT = Layout("headrace", "main")
ALL = ("If-None-Match", "If-Match", "multipart")


class Blind(DirectoryStore):
    """A directory store that writes whatever the condition."""

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = False, if_match: str | None = None) -> str:
        return super().put(key, data)


class Forgetful(DirectoryStore):
    """A directory store that does not list the newest object."""

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectInfo]:
        yield from [*super().list(prefix, start_after)][:-1]


class Deaf(DirectoryStore):
    """A directory store that lists from the start, wherever it is asked to begin."""

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectInfo]:
        return super().list(prefix)


class Clinging(DirectoryStore):
    """A directory store that does not delete."""

    def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Keep it."""


class Stale(DirectoryStore):
    """A directory store whose reads show an older version."""

    def get(self, key: str) -> Blob:
        return Blob(b"older", super().get(key).etag)


class Whole(DirectoryStore):
    """A directory store that answers a ranged read with the whole object."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return super().get(key).data


def store_on(server: Objects) -> S3Store:
    return S3Store(S3Settings("warehouse", server.endpoint, "key", "secret"))


def files_below(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != "lock"]


def test_a_directory_passes_and_is_left_clean(tmp_path: Path) -> None:
    """Nothing of the probe stays, and objects that were there are untouched."""
    store = DirectoryStore(tmp_path)
    store.put("headrace/CURRENT", b"{}")

    probe(store, LAYOUT)

    assert files_below(tmp_path) == ["headrace/CURRENT"]


@pytest.mark.services
def test_a_real_s3_server_passes_and_is_left_clean(s3_server: S3Server) -> None:
    """SeaweedFS and MinIO keep all promises, in several parts too."""
    store = s3_server.fresh_store()

    probe(store, LAYOUT)

    assert list(store.list("")) == []


def test_the_careless_server_passes_once_it_is_careful() -> None:
    """The server of the tests below is refused for the conditions that it ignores, not for being small."""
    with careless_s3(*ALL) as server:
        probe(store_on(server), LAYOUT)

        assert server.objects == {}


@pytest.mark.parametrize(
    ("honours", "missing"),
    [
        ([], "ignores create-once writes (If-None-Match: *)"),
        (["If-Match", "multipart"], "ignores create-once writes (If-None-Match: *)"),
        (["If-None-Match", "multipart"], "ignores compare-and-swap writes (If-Match)"),
        (["If-None-Match", "If-Match"], "ignores create-once on multipart uploads"),
    ],
)
def test_a_server_that_ignores_conditions_is_refused(honours: list[str], missing: str) -> None:
    """The message names server and bucket, the semantic, the harm, and where to go; the probe's objects are removed."""
    with careless_s3(*honours) as server, pytest.raises(StoreRefused) as refusal:
        probe(store_on(server), LAYOUT)

    said = str(refusal.value)
    assert missing in said
    assert server.endpoint in said
    assert "'warehouse'" in said
    assert "Two processes would both believe" in said
    assert "SeaweedFS" in said
    assert "rclone" in said
    assert server.objects == {}


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        (Blind, "create-once"),
        (Forgetful, "does not list what was just written"),
        (Deaf, "does not begin a listing where it is asked to"),
        (Clinging, "still shows what was just deleted"),
        (Stale, "does not read back what was just written"),
        (Whole, "does not answer ranged reads"),
    ],
)
def test_each_missing_semantic_is_named(kind: type[DirectoryStore], missing: str, tmp_path: Path) -> None:
    """A store that lacks one thing is refused for that thing, with the folder's name."""
    with pytest.raises(StoreRefused, match=missing) as refusal:
        probe(kind(tmp_path), LAYOUT)

    assert str(tmp_path) in str(refusal.value)


def test_a_store_that_cannot_be_reached_is_not_refused() -> None:
    """No answer is no verdict: the caller may try again, and the message says which setting names the server."""
    [port] = free_ports(1)
    store = S3Store(S3Settings("warehouse", f"http://127.0.0.1:{port}", "key", "secret", attempts=1, connect_seconds=1))

    with pytest.raises(StoreUnavailable, match="MINIO_ENDPOINT"):
        probe(store, LAYOUT)


def test_what_a_killed_probe_left_is_removed_an_hour_later(tmp_path: Path) -> None:
    """Old leftovers go; those of an hour that has not passed may be another process's probe, and stay."""
    store: ObjectStore = DirectoryStore(tmp_path)
    for name, age in [("old", 4000), ("young", 3000)]:
        store.put(LAYOUT.probes + name, b"x")
        path = tmp_path / LAYOUT.probes / name
        os.utime(path, (path.stat().st_mtime - age,) * 2)

    probe(store, LAYOUT)

    assert files_below(tmp_path) == [LAYOUT.probes + "young"]
