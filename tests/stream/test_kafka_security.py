"""Kafka with TLS and logins: the right ones are let in, the wrong ones refused with the setting to look at."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError, SaslAuthenticationFailedError

from stream import doctor
from stream.clocks import SystemClock
from stream.errors import SourceRefused
from stream.kafka import link
from stream.kafka.repair import Clients
from stream.kafka.source import KafkaDeadLetters, KafkaSettings, KafkaSource
from stream.settings.settings import Settings
from tests.servers.certificates import Authority
from tests.servers.kafka import PASSWORD, USER, KafkaBroker

pytestmark = [
    pytest.mark.services,
    # kafka-python leaves the socket of a failed handshake to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PLANTED = "hunter2-planted"
PATIENT = 60.0
"""Seconds for what is answered at once where nothing else runs: four workers on two cores are not such a place."""
LOGIN: dict[str, Any] = {"sasl_mechanism": "PLAIN", "sasl_username": USER, "start_seconds_max": PATIENT}


@pytest.fixture(autouse=True)
def collected(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No log record keeps an exception, which would hold a socket until another test."""
    caplog.set_level(logging.CRITICAL, logger="kafka")
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def patient_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at what refused us waits for its answer, which a busy machine may give late."""
    monkeypatch.setattr(link, "_PROBE_SECONDS", PATIENT)


@pytest.fixture(scope="module")
def topic(kafka_broker: KafkaBroker) -> str:
    """A topic with one message."""
    name = kafka_broker.topic(1)
    kafka_broker.produce(name, [b"x"], partition=0)
    return name


def reads(settings: KafkaSettings) -> list[bytes | None]:
    """What a source with these settings reads of the topic, and that dead letters can be written with them too."""
    KafkaDeadLetters(settings, settings.topic).close()
    source = KafkaSource(settings, SystemClock())
    source.assign(source.beginning())
    values: list[bytes | None] = []
    deadline = time.monotonic() + PATIENT
    while not values and time.monotonic() < deadline:
        values += [value for chunk in source.poll(100, 0.5) for value in chunk.values]
    source.close()
    return values


def refusal(settings: KafkaSettings) -> str:
    """Why a source with these settings does not start."""
    with pytest.raises(SourceRefused) as refused:
        KafkaSource(settings, SystemClock())
    return str(refused.value)


def trusting(place: str, topic: str, authority: Authority, **more: Any) -> KafkaSettings:
    given = {"security_protocol": "SSL", "ssl_cafile": str(authority.cert), "start_seconds_max": PATIENT, **more}
    return KafkaSettings(place, topic, **given)


class TestCertificates:
    """The broker's, and ours."""

    def test_right_authority(self, kafka_broker: KafkaBroker, topic: str) -> None:
        """A broker whose certificate is vouched for is read."""
        assert reads(trusting(kafka_broker.bootstrap_tls, topic, kafka_broker.authority)) == [b"x"]

    def test_wrong_authority(self, kafka_broker: KafkaBroker, topic: str, another_authority: Authority) -> None:
        """One that another authority vouches for is not, whatever its name; nor by what the machine trusts."""
        settings = trusting(kafka_broker.bootstrap_tls, topic, another_authority, start_seconds_max=3)
        anybody = KafkaSettings(kafka_broker.bootstrap_tls, topic, security_protocol="SSL", start_seconds_max=3)

        for said in (refusal(settings), refusal(anybody)):
            assert "TLS failed" in said
            assert "HEADRACE_KAFKA_SSL_CA_FILE" in said

    def test_wrong_host(self, kafka_broker: KafkaBroker, topic: str) -> None:
        """A certificate for another host is refused, unless names are not to be compared."""
        place = kafka_broker.bootstrap_tls.replace("127.0.0.1", "localhost")
        said = refusal(trusting(place, topic, kafka_broker.authority, start_seconds_max=3))

        assert "not valid for 'localhost'" in said
        assert "HEADRACE_KAFKA_SSL_CHECK_HOSTNAME" in said
        assert reads(trusting(place, topic, kafka_broker.authority, ssl_check_hostname=False)) == [b"x"]

    def test_client_certificate(self, kafka_broker: KafkaBroker, topic: str, another_authority: Authority) -> None:
        """Where the broker wants a certificate of ours, the right one is let in, with its key's password; no other."""
        ours, another = kafka_broker.authority.sign("client"), another_authority.sign("client")
        key = {"ssl_keyfile": str(ours.locked(PLANTED)), "ssl_password": PLANTED}
        place, ca = kafka_broker.bootstrap_mutual, kafka_broker.authority
        strange = {"ssl_certfile": str(another.cert), "ssl_keyfile": str(another.key)}

        assert reads(trusting(place, topic, ca, ssl_certfile=str(ours.cert), **key)) == [b"x"]
        for given in ({}, strange):
            said = refusal(trusting(place, topic, ca, start_seconds_max=3, **given))
            assert "HEADRACE_KAFKA_SSL_CERT_FILE" in said
            assert "HEADRACE_KAFKA_SSL_CA_FILE" not in said

    def test_files_that_cannot_be_used(self, kafka_broker: KafkaBroker, topic: str, tmp_path: Path) -> None:
        """A file that is none of those is refused at once, by its setting; no password is asked for or shown."""
        nonsense = tmp_path / "nonsense.pem"
        nonsense.write_text("not a certificate")
        ours = kafka_broker.authority.sign("files")
        locked = {"ssl_certfile": str(ours.cert), "ssl_keyfile": str(ours.locked("right"))}
        wrong = [
            ({"ssl_cafile": str(nonsense)}, "HEADRACE_KAFKA_SSL_CA_FILE"),
            ({"ssl_certfile": str(nonsense), "ssl_keyfile": str(ours.key)}, "HEADRACE_KAFKA_SSL_CERT_FILE"),
            (locked, "HEADRACE_KAFKA_SSL_KEY_PASSWORD"),
            (locked | {"ssl_password": PLANTED}, "HEADRACE_KAFKA_SSL_KEY_PASSWORD"),
        ]

        for given, setting in wrong:
            said = refusal(trusting(kafka_broker.bootstrap_tls, topic, kafka_broker.authority, **given))
            assert setting in said
            assert PLANTED not in said

    def test_no_tls_there(self, kafka_broker: KafkaBroker, topic: str) -> None:
        """TLS where none is spoken, and the other way round, names the setting that is wrong."""
        secure = trusting(kafka_broker.bootstrap, topic, kafka_broker.authority, start_seconds_max=3)
        plain = KafkaSettings(kafka_broker.bootstrap_tls, topic, start_seconds_max=3)

        assert "HEADRACE_KAFKA_SECURITY" in refusal(secure)
        assert "_SECURITY" in refusal(plain)


class TestLogins:
    """By SASL, in the open and inside TLS."""

    @pytest.mark.parametrize("secured", [False, True])
    def test_login(self, kafka_broker: KafkaBroker, topic: str, *, secured: bool) -> None:
        """The right login reads; a wrong one is refused, naming the user and never the password."""
        place = kafka_broker.bootstrap_both if secured else kafka_broker.bootstrap_sasl
        way = {"security_protocol": "SASL_SSL" if secured else "SASL_PLAINTEXT"}
        right = trusting(place, topic, kafka_broker.authority, **LOGIN | way, sasl_password=PASSWORD)
        wrong = trusting(place, topic, kafka_broker.authority, **LOGIN | way, sasl_password=PLANTED)

        assert reads(right) == [b"x"]
        said = refusal(wrong)
        assert f"refused the login of '{USER}' by PLAIN" in said
        assert "HEADRACE_KAFKA_SASL_MECHANISM" in said
        assert PLANTED not in said + repr(wrong)
        with pytest.raises(SourceRefused, match="refused the login"):
            KafkaDeadLetters(wrong, topic)

    def test_mechanism_that_the_broker_has_not(self, kafka_broker: KafkaBroker, topic: str) -> None:
        """A mechanism that is not enabled is named."""
        given = LOGIN | {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "SCRAM-SHA-512"}

        assert "SCRAM-SHA-512" in refusal(KafkaSettings(kafka_broker.bootstrap_sasl, topic, **given))

    def test_refusal_heard_last(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where time is up between a refusal and the next try, the refusal is told, not that nobody answered."""
        heard = SaslAuthenticationFailedError("wrong password")
        monkeypatch.setattr(Clients, "login_refused", lambda _: heard)

        def make(**_: Any) -> None:
            raise KafkaTimeoutError("Unable to bootstrap")

        with pytest.raises(SourceRefused, match="refused the login of 'u'"):
            link.connect(make, KafkaSettings("127.0.0.1:1", "clicks", sasl_username="u"))


def test_doctor_knows(
    kafka_broker: KafkaBroker, topic: str, another_authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`headrace doctor` goes through the same doors: its finding names the certificate, with its setting."""
    given = {"kafka.bootstrap": kafka_broker.bootstrap_tls, "kafka.topic": topic, "kafka.security": "SSL"}
    monkeypatch.setattr(doctor, "_EXAMINATIONS", {"kafka": doctor._kafka})

    def found(authority: Authority) -> list[doctor.Check]:
        return list(doctor.checks(Settings.load(given | {"kafka.ssl_ca_file": str(authority.cert)})))

    (wrong,) = found(another_authority)
    assert (wrong.name, wrong.state) == ("kafka", "fail")
    assert "HEADRACE_KAFKA_SSL_CA_FILE" in wrong.detail
    monkeypatch.setattr(doctor, "KAFKA_SECONDS", PATIENT)
    assert {each.state for each in found(kafka_broker.authority)} == {"ok"}
