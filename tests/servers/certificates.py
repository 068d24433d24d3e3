"""Certificates for one test run: authorities that are trusted by nobody else, and what they sign."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
_DAYS = ["-days", "2"]


@dataclass(frozen=True)
class Signed:
    """A certificate with its private key, both PEM."""

    cert: Path
    key: Path

    def locked(self, password: str) -> Path:
        """The private key once more, readable with the password only."""
        path = self.key.with_suffix(".locked")
        _openssl("pkcs8", "-topk8", "-in", str(self.key), "-out", str(path), "-passout", f"pass:{password}")
        return path

    def joined(self) -> Path:
        """Key and certificate in one file, as Kafka reads them."""
        path = self.key.with_suffix(".both")
        path.write_text(self.key.read_text() + self.cert.read_text())
        return path

    def server(self) -> ssl.SSLContext:
        """What a server shows it with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        return context


class Authority:
    """Signs certificates. `cert`: its own, which those trust who trust it."""

    def __init__(self, folder: Path, name: str) -> None:
        """`folder`: an existing one, `name`: unlike the others' in it. Raises FileNotFoundError without openssl."""
        self._stem = folder / name
        self.cert, self._key = self._stem.with_suffix(".pem"), self._stem.with_suffix(".key")
        sign = "keyUsage=critical,keyCertSign,cRLSign"
        made = ["-keyout", str(self._key), "-out", str(self.cert), "-subj", f"/CN={name}"]
        _openssl("req", "-x509", *_KEY, *_DAYS, *made, "-addext", sign)

    def sign(self, name: str, *places: str) -> Signed:
        """A certificate for `places` (`DNS:localhost`, `IP:127.0.0.1`), or of a client, which has none."""
        stem = f"{self._stem}-{name}"
        signed = Signed(Path(f"{stem}.pem"), Path(f"{stem}.key"))
        request, extensions = Path(f"{stem}.csr"), Path(f"{stem}.ext")
        named = f"subjectAltName={','.join(places)}\n" if places else ""
        extensions.write_text(f"{named}basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n")
        _openssl("req", "-new", *_KEY, "-subj", f"/CN={name}", "-keyout", str(signed.key), "-out", str(request))
        by = ["-CA", str(self.cert), "-CAkey", str(self._key), "-CAcreateserial", "-extfile", str(extensions)]
        _openssl("x509", "-req", "-in", str(request), "-out", str(signed.cert), *by, *_DAYS)
        return signed


def _openssl(*argv: str) -> None:
    subprocess.run(["openssl", *argv], check=True, capture_output=True)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The one that the servers' certificates are signed by. Skips where there is no openssl."""
    return _made(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def another_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One that no server knows, of the same name."""
    return _made(tmp_path_factory.mktemp("another"))


def _made(folder: Path) -> Authority:
    try:
        return Authority(folder, "authority")
    except FileNotFoundError:
        pytest.skip("no openssl here: install it to have certificates made")
