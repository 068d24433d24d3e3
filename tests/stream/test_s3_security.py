"""S3 by TLS: a store whose certificate is vouched for is used; another is refused, with the setting to look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stream import doctor, wiring
from stream.errors import StoreRefused
from stream.settings.settings import Settings
from stream.store.s3 import S3Store
from tests.servers.certificates import Authority
from tests.servers.s3 import S3Server
from tests.servers.tls import tls_to

pytestmark = pytest.mark.services
PATIENT = {"connect_seconds": 60.0, "read_seconds": 60.0, "attempts": 1}


@pytest.fixture(scope="module")
def port(s3_server: S3Server, authority: Authority) -> Iterator[int]:
    """The S3 server behind TLS, by a certificate for 127.0.0.1 alone."""
    with tls_to(s3_server.endpoint, authority.sign("store", "IP:127.0.0.1").server()) as port:
        yield port


@pytest.fixture
def given(s3_server: S3Server, port: int, authority: Authority) -> dict[str, Any]:
    """Settings with which the store is reached, by their names."""
    return {
        "store.endpoint": f"https://127.0.0.1:{port}",
        "store.bucket": s3_server.fresh_bucket(),
        "store.access_key": s3_server.access_key,
        "store.secret_key": s3_server.secret_key,
        "store.ca_file": str(authority.cert),
        **{f"store.{name}": value for name, value in PATIENT.items()},
    }


def opened(given: dict[str, Any]) -> S3Store:
    return S3Store(wiring.s3_settings(Settings.load(given)))


def refusal(given: dict[str, Any]) -> str:
    with pytest.raises(StoreRefused) as refused:
        opened(given).put("a", b"1")
    return str(refused.value)


def test_right_authority(given: dict[str, Any]) -> None:
    """With the authority's file the store is written and read, over TLS."""
    store = opened(given)
    store.put("a", b"1")

    assert store.get("a").data == b"1"


def test_wrong_authority(given: dict[str, Any], another_authority: Authority) -> None:
    """With another's file, and with none, the certificate is refused by the setting's name; no call is made."""
    for ca_file in (str(another_authority.cert), ""):
        said = refusal(given | {"store.ca_file": ca_file})

        assert "CERTIFICATE_VERIFY_FAILED" in said
        assert "HEADRACE_STORE_CA_FILE" in said


def test_wrong_host(given: dict[str, Any], port: int) -> None:
    """A certificate for another host is refused, naming the endpoint's setting."""
    said = refusal(given | {"store.endpoint": f"https://localhost:{port}"})

    assert "'localhost' doesn't match '127.0.0.1'" in said
    assert "HEADRACE_STORE_ENDPOINT" in said


def test_file_that_is_no_authority(given: dict[str, Any], tmp_path: Path) -> None:
    """A file without a certificate is named, with its setting."""
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("not a certificate")
    said = refusal(given | {"store.ca_file": str(nonsense)})

    assert "HEADRACE_STORE_CA_FILE" in said


def test_doctor_knows(given: dict[str, Any], another_authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """`headrace doctor` goes through the same door."""
    monkeypatch.setattr(doctor, "_EXAMINATIONS", {"store": doctor._store})
    (right,) = doctor.checks(Settings.load(given))
    (wrong,) = doctor.checks(Settings.load(given | {"store.ca_file": str(another_authority.cert)}))

    assert (right.state, wrong.state) == ("ok", "fail")
    assert "HEADRACE_STORE_CA_FILE" in wrong.detail
