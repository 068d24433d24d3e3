"""TLS to Kafka: whether the files can be used at all, and what a failed handshake means for the operator."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from typing import Final

from stream.errors import SourceRefused

_WRONG_PLACE: Final = {62, 64}
"""OpenSSL's codes for a certificate of another name, and of another address."""
_OUR_CERTIFICATE: Final = "check HEADRACE_KAFKA_SSL_CERT_FILE and HEADRACE_KAFKA_SSL_KEY_FILE"
_NO_TLS: Final = "check HEADRACE_KAFKA_SECURITY, and that the port is one for TLS"


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of PEM files, each may be empty. `ca`: who is trusted, else whom this machine trusts."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    password: str = field(default="", repr=False)
    check_hostname: bool = True


def context(files: Files) -> ssl.SSLContext:
    """As the client makes its own. Raises `SourceRefused` that names the setting whose file cannot be used."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.check_hostname = files.check_hostname
    try:
        made.load_verify_locations(files.ca) if files.ca else made.load_default_certs()
    except OSError as error:
        raise SourceRefused(f"HEADRACE_KAFKA_SSL_CA_FILE={files.ca} is no PEM file of certificates: {error}") from error
    if files.cert:
        try:
            # A function: without a password OpenSSL would ask for it on the terminal, and wait.
            made.load_cert_chain(files.cert, files.key, lambda: files.password)
        except OSError as error:
            raise SourceRefused(
                f"HEADRACE_KAFKA_SSL_CERT_FILE={files.cert} and HEADRACE_KAFKA_SSL_KEY_FILE={files.key} cannot be used "
                f"together: {error}. Check both, and HEADRACE_KAFKA_SSL_KEY_PASSWORD"
            ) from error
    return made


def tried(plain: socket.socket, host: str, files: Files) -> str:
    """What a handshake over an open connection comes to, in words; waits as long as the connection's time-out says."""
    try:
        with context(files).wrap_socket(plain, server_hostname=host) as secured:
            return _after_handshake(secured)
    except ssl.SSLError as error:
        return f"TLS failed: {_meaning(error)}"
    except OSError as error:
        return f"TLS failed: {error}; {_NO_TLS}"


def _after_handshake(secured: ssl.SSLSocket) -> str:
    """From TLS 1.3 on, a broker that misses our certificate says so only now, if the connection lives that long."""
    try:
        secured.recv(1)
    except TimeoutError:
        return "TLS is fine, but no answer as a Kafka broker with these settings"
    except ConnectionError:
        pass
    return f"TLS is fine, but the broker closed the connection; {_OUR_CERTIFICATE}"


def _meaning(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _WRONG_PLACE:
            return (
                f"{error.verify_message}; correct HEADRACE_KAFKA_BOOTSTRAP, or have the certificate name it "
                "(HEADRACE_KAFKA_SSL_CHECK_HOSTNAME)"
            )
        return f"{error.verify_message}; set HEADRACE_KAFKA_SSL_CA_FILE to the CA that signed the broker's certificate"
    reason = error.reason or str(error)
    if "ALERT" in reason and "CERTIFICATE" in reason:
        return f"the broker refuses our certificate, or our having none ({reason}); {_OUR_CERTIFICATE}"
    return f"{reason}; {_NO_TLS}"
