"""What a bucket does and promises, tried on an object of its own."""

import time
import uuid
from dataclasses import dataclass
from typing import Any

from tasks.adapters.s3_bucket import Bucket
from tasks.adapters.s3_connection import Patience, S3Options, error_code, make_client
from tasks.contracts.errors import InfrastructureError
from tasks.contracts.object_place import ObjectPlace
from tasks.runtime.settings import Settings

_PATIENCE = Patience(sdk_attempts=2, total_s=10.0)
_CONTENT = b"written by stillhouse doctor\n"


@dataclass(frozen=True)
class BucketFacts:
    """A bucket in which everything that Stillhouse asks of one worked."""

    url: str
    seconds: float
    """Of all the calls."""
    versioning: str
    """`on`, `off`, or why it is not known."""
    encryption: str
    """The bucket's default, such as `AES256`; `off`, or why it is not known."""


def probe_bucket(settings: Settings, place: ObjectPlace, setting: str) -> BucketFacts:
    """Put, get, put once, and delete an object below `place`; ask for versioning and encryption.

    Raises:
        UserError: no bucket, no permission, or a server that ignores conditions.
        InfrastructureError: S3 does not answer, or gives back something else than was written.
    """
    options = S3Options.of(settings)
    options = S3Options(**{**vars(options), "patience": _PATIENCE})
    bucket, key = Bucket(place, options, setting), f"doctor/{uuid.uuid4().hex}"
    began = time.monotonic()
    bucket.write(key, _CONTENT)
    try:
        read = bucket.read(key)
        created_again = bucket.create(key, _CONTENT)
    finally:
        bucket.delete(key)
    if read != _CONTENT or created_again:
        raise InfrastructureError(f"{bucket.url(key)} was not given back as it was written; change {setting}")
    seconds = time.monotonic() - began
    client = make_client(options)
    return BucketFacts(bucket.url(""), seconds, _versioning(client, place.bucket), _encryption(client, place.bucket))


def _versioning(client: Any, bucket: str) -> str:
    try:
        status = client.get_bucket_versioning(Bucket=bucket).get("Status")
    except client.exceptions.ClientError as error:
        return f"not told ({error_code(error)})"
    return "on" if status == "Enabled" else "off"


def _encryption(client: Any, bucket: str) -> str:
    try:
        rules = client.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    except client.exceptions.ClientError as error:
        code = error_code(error)
        return "off" if code == "ServerSideEncryptionConfigurationNotFoundError" else f"not told ({code})"
    default = rules[0].get("ApplyServerSideEncryptionByDefault", {}) if rules else {}
    return str(default.get("SSEAlgorithm", "off"))
