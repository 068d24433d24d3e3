"""What S3 says went wrong, as one of our errors, with the setting to look at. Never with a secret."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from stream.errors import Conflict, HeadraceError, NotFound, PreconditionFailed, StoreRefused, StoreUnavailable

ENDPOINT = "MINIO_ENDPOINT or HEADRACE_STORE_ENDPOINT"
BUCKET = "CLICKSTREAM_S3_BUCKET or HEADRACE_STORE_BUCKET"
ACCESS_KEY = "MINIO_ACCESS_KEY or HEADRACE_STORE_ACCESS_KEY"
SECRET_KEY = "MINIO_SECRET_KEY or HEADRACE_STORE_SECRET_KEY"  # noqa: S105 - the setting's name
REGION = "HEADRACE_STORE_REGION"

_NOT_FOUND = {"NoSuchKey", "NotFound", "404", "NoSuchVersion"}
_REMEDY = {
    "InvalidAccessKeyId": f"it does not know the access key: check {ACCESS_KEY}",
    "SignatureDoesNotMatch": f"the secret key does not belong to the access key: check {SECRET_KEY}",
    "AccessDenied": f"this access key may not do that: grant it s3:GetObject, s3:PutObject, s3:DeleteObject and "
    f"s3:ListBucket on the bucket, or check {ACCESS_KEY}",
    "403": f"it refuses this login: check {ACCESS_KEY}, {SECRET_KEY}, and the key's rights on the bucket",
    "ExpiredToken": "the session token has expired: log in anew",
    "InvalidToken": "the session token is not valid: log in anew",
    "RequestTimeTooSkewed": "the clocks differ by too much: set this machine's clock (NTP)",
    "InvalidBucketName": f"that is no bucket name: check {BUCKET}",
    "AuthorizationHeaderMalformed": f"the region is wrong: check {REGION}",
    "PermanentRedirect": f"the bucket is in another region: check {REGION} and {ENDPOINT}",
    "301": f"the bucket is in another region: check {REGION} and {ENDPOINT}",
    "EntityTooLarge": "the object is larger than it takes",
}
# Another authority, no TLS there, no CA in the file, another host: another try meets the same.
_TLS_FOR_GOOD = (
    "CERTIFICATE_VERIFY_FAILED",
    "WRONG_VERSION_NUMBER",
    "NO_CERTIFICATE_OR_CRL_FOUND",
    "doesn't match",
    "subjectAltName",
)
_LOGIN = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)


@dataclass(frozen=True, slots=True)
class Place:
    """Which store, for messages."""

    endpoint: str
    bucket: str
    region: str

    @property
    def store(self) -> str:
        return f"the store at {self.endpoint or f'AWS S3 ({self.region})'}"

    def of(self, key: str) -> str:
        """The object's full name."""
        return f"s3://{self.bucket}/{key}"

    def no_bucket(self) -> str:
        """The message for a missing bucket."""
        return f"{self.store} has no bucket {self.bucket!r}: create it, or check {BUCKET}, {ENDPOINT}"


@contextmanager
def translated(place: Place, verb: str, key: str, *, conditional: bool = False) -> Iterator[None]:
    """Raise what boto3 raises inside as one of our errors. `conditional`: on a conditional write a 404 is a refusal."""
    try:
        yield
    except ClientError as error:
        _answered(error, place, f"cannot {verb} {place.of(key)}", conditional=conditional)
    except _LOGIN as error:
        raise StoreRefused(f"no credentials for {place.store}: set {ACCESS_KEY}, {SECRET_KEY} ({error})") from error
    except ParamValidationError as error:
        raise StoreRefused(f"cannot {verb} {place.of(key)}: {_one_line(error)}; check {BUCKET}") from error
    except SSLError as error:
        raise _tls(error, place) from error
    except (BotoCoreError, ResponseParserError) as error:
        raise StoreUnavailable(
            f"cannot {verb} {place.of(key)}: {place.store} does not answer as S3 does ({_one_line(error)}); "
            f"if this lasts, check that it runs and that {ENDPOINT} names it"
        ) from error


def _answered(error: ClientError, place: Place, failed: str, *, conditional: bool) -> NoReturn:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    said = f"{failed}: {place.store} answers {status} {code}: {error.response.get('Error', {}).get('Message', '')}"
    raise _kind(code, status, place, said, conditional=conditional) from error


def _kind(code: str, status: int, place: Place, said: str, *, conditional: bool) -> HeadraceError:
    if code == "NoSuchBucket":
        return StoreRefused(place.no_bucket())
    if code in _NOT_FOUND and status == 404:
        # What an If-Match was to replace is gone: MinIO and AWS say 404, the port says that the condition failed.
        return PreconditionFailed(said) if conditional else NotFound(said)
    if status == 412:
        return PreconditionFailed(said)
    if status == 409:
        return Conflict(f"{said}; nothing was written, try again")
    if (
        code == "NoSuchUpload"
        or status in {408, 429}
        or (status >= 500 and status != 501)
        or code in {"RequestTimeout", "SlowDown", "BadDigest", "IncompleteBody"}
    ):
        return StoreUnavailable(f"{said}; try again")
    return StoreRefused(f"{said}; {_REMEDY.get(code, 'this will not pass by itself')}")


def _tls(error: SSLError, place: Place) -> HeadraceError:
    said = f"no TLS connection to {place.store}: {_one_line(error)}"
    if any(reason in str(error) for reason in _TLS_FOR_GOOD):
        return StoreRefused(f"{said}; check HEADRACE_STORE_CA_FILE, and whether {ENDPOINT} is https:// or http://")
    return StoreUnavailable(said)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
