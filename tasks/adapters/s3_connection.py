"""How S3 is talked to: the client, what is tried again and for how long, and what its errors mean to a user."""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tasks.contracts.addresses import shown, without_secrets
from tasks.contracts.errors import InfrastructureError, ServiceUnavailableError, StillhouseError, UserError

if TYPE_CHECKING:
    from tasks.runtime.settings import Settings

Encryption = Literal["none", "AES256", "aws:kms"]
Checksums = Literal["sha256", "none"]

T = TypeVar("T")

_TRANSIENT_STATUS = frozenset({429, 500, 502, 503, 504})
_TRANSIENT_CODES = frozenset(
    {
        "BadDigest",  # the body was changed on its way
        "ConditionalRequestConflict",
        "ExpiredToken",  # the next try asks the chain of credentials for a new one
        "InternalError",
        "NoSuchUpload",  # the answer to its completion was lost, or it was forgotten: all parts go again
        "OperationAborted",
        "RequestTimeout",
        "RequestTimeTooSkewed",
        "ServiceUnavailable",
        "SlowDown",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
_REFUSED_CODES = frozenset({"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled"})
_ABSENT_CODES = frozenset({"404", "NoSuchKey", "NotFound"})

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long a call that may heal is tried again. Within one try botocore makes tries of its own."""

    sdk_attempts: int = 4
    total_s: float = 150.0
    """Beyond the minute for which a service that restarts or throttles may answer 503."""
    first_pause_s: float = 0.5
    longest_pause_s: float = 15.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class S3Options:
    """What is said of S3 beside the bucket. Credentials come from boto3's own chain alone."""

    endpoint: str | None = None
    region: str | None = None
    encryption: Encryption = "none"
    kms_key: str | None = None
    checksums: Checksums = "sha256"
    patience: Patience = field(default_factory=Patience)

    @classmethod
    def of(cls, settings: "Settings") -> "S3Options":
        """Take them from the settings."""
        return cls(
            endpoint=settings.s3_endpoint,
            region=settings.s3_region,
            encryption=settings.s3_encryption,
            kms_key=settings.s3_kms_key,
            checksums=settings.s3_checksums,
        )

    @property
    def encryption_arguments(self) -> dict[str, str]:
        """What a writing call says of encryption; nothing leaves it to the bucket's own default."""
        if self.encryption == "none":
            return {}
        key = {"SSEKMSKeyId": self.kms_key} if self.kms_key else {}
        return {"ServerSideEncryption": self.encryption} | key


def make_client(options: S3Options) -> Any:
    """Return a boto3 client; all that is connected alike shares one, which threads may use together.

    Raises:
        UserError: the endpoint is no URL.
    """
    return _client(options.endpoint, options.region, options.patience.sdk_attempts, options.checksums == "none")


def new_client(options: S3Options) -> Any:
    """Return a client that nobody shares, for whoever changes how it sends.

    Raises:
        UserError: the endpoint is no URL.
    """
    return _client.__wrapped__(
        options.endpoint, options.region, options.patience.sdk_attempts, options.checksums == "none"
    )


@cache
def _client(endpoint: str | None, region: str | None, sdk_attempts: int, sign_bodies: bool) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        signature_version="s3v4",  # else a pre-signed URL is signed by the older scheme, which most places refuse
        retries={"mode": "standard", "total_max_attempts": sdk_attempts},
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=16,
        tcp_keepalive=True,
        # Without checksums the signature is what vouches for a body on its way, also over TLS, where botocore would
        # leave the body out of it.
        s3=({"addressing_style": "path"} if endpoint else {})
        | ({"payload_signing_enabled": True} if sign_bodies else {}),
        # The SHA-256 is sent where it is asked for, and checked by us on reading: a CRC beside it adds nothing, and
        # older servers refuse it.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent_extra="stillhouse",
    )
    session = boto3.session.Session()
    try:
        return session.client(
            "s3", endpoint_url=endpoint, region_name=region or session.region_name or "us-east-1", config=config
        )
    except ValueError as error:
        given = endpoint or ""
        cause = without_secrets(str(error), given)
        raise UserError(f"STILLHOUSE_S3_ENDPOINT={shown(given)!r} cannot be used: {cause}") from None


def persist(patience: Patience, what: str, call: Callable[[], T]) -> T:
    """Call until it succeeds, fails for good, or patience ends; pauses double, with jitter.

    It covers what botocore's own tries do not: outages longer than a few seconds, bodies cut off half-way, and
    a conditional put that met another one.
    """
    began, pause = patience.clock(), patience.first_pause_s
    while True:
        try:
            return call()
        except client_errors() as error:
            if not is_transient(error) or patience.clock() - began + pause > patience.total_s:
                raise
            logger.warning("%s: %s; trying again", what, error)
        patience.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, keeps no secret
        pause = min(2.0 * pause, patience.longest_pause_s)


def is_transient(error: Exception) -> bool:
    """Tell whether the same call may succeed later."""
    from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError, SSLError
    from botocore.exceptions import ConnectionError as NoConnectionError
    from s3transfer.exceptions import RetriesExceededError, S3CopyFailedError

    if isinstance(error, ClientError):
        if _status(error) == 412 and error.operation_name == "GetObject":  # it was replaced between two of its parts
            return True
        return error_code(error) in _TRANSIENT_CODES or _status(error) in _TRANSIENT_STATUS
    if isinstance(error, SSLError):
        return False
    return isinstance(
        error, HTTPClientError | NoConnectionError | IncompleteReadError | RetriesExceededError | S3CopyFailedError
    )


def is_absent(error: Exception) -> bool:
    """Tell whether S3 says that there is no such object."""
    return error_code(error) in _ABSENT_CODES


def is_taken(error: Exception) -> bool:
    """Tell whether a conditional put found its key taken."""
    return _status(error) == 412  # Precondition Failed


def is_unsupported(error: Exception) -> bool:
    """Tell whether the server says that it does not know what it is asked."""
    return _status(error) == 501


def is_empty_range(error: Exception) -> bool:
    """Tell whether an object has none of the bytes that were asked for, not even its first."""
    return _status(error) == 416  # Range Not Satisfiable


def is_cut(error: Exception) -> bool:
    """Tell whether a connection ended within an answer, which another one heals at once."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError, SSLError

    return isinstance(error, HTTPClientError | IncompleteReadError) and not isinstance(error, SSLError)


def error_code(error: Exception) -> str:
    """Return S3's own word for an error, empty if it is none of S3's."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


@contextmanager
def explained(doing: str, url: str, options: S3Options, setting: str) -> Iterator[None]:
    """Turn an error of the client into one that names the object and the remedy.

    Args:
        doing: `read`, `write`, `list` or `remove`.
        url: the object, as `s3://bucket/key`.
        options: of the connection.
        setting: the one that holds the bucket.

    Raises:
        UserError: no bucket, no credentials, or no permission: waiting does not help.
        ServiceUnavailableError: no answer, as long as patience lasted.
        InfrastructureError: S3 refused it otherwise.
    """
    try:
        yield
    except client_errors() as error:
        raise _meaning(error, f"cannot {doing} {url}", url, options, setting) from error


def _meaning(error: Exception, failed: str, url: str, options: S3Options, setting: str) -> StillhouseError:
    from botocore.exceptions import CredentialRetrievalError, NoCredentialsError, PartialCredentialsError

    endpoint = shown(options.endpoint or "AWS")
    code = error_code(error)
    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        return UserError(
            f"{failed}: {error}. Give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine a role"
        )
    if code == "NoSuchBucket":
        bucket = url.removeprefix("s3://").partition("/")[0]
        return UserError(f"{failed}: {endpoint} has no bucket {bucket}; create it, or change {setting}")
    if code in _REFUSED_CODES:
        return UserError(
            f"{failed}: {endpoint} refuses it ({code}). Give this role the policy of infra/storage that fits it, "
            f"or check the credentials and {setting}"
        )
    if is_transient(error):
        return ServiceUnavailableError(
            f"{failed}: {endpoint} did not do it within {options.patience.total_s:g} s ({error}). Check that it can be "
            f"reached from here, and {setting} and STILLHOUSE_S3_ENDPOINT"
        )
    return InfrastructureError(f"{failed}: {error}. Check {setting}, STILLHOUSE_S3_ENDPOINT and STILLHOUSE_S3_REGION")


def _status(error: Exception) -> int:
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return 0
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def client_errors() -> tuple[type[Exception], ...]:
    """Return what boto3 raises."""
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import RetriesExceededError, S3CopyFailedError

    return (ClientError, BotoCoreError, RetriesExceededError, S3CopyFailedError)
