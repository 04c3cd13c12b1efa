"""Large objects travel in parts, several at a time, each verified by the server; small ones in one request."""

import base64
import hashlib
import io
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from tasks.adapters.s3_connection import client_errors, is_cut, is_empty_range
from tasks.contracts.errors import UserError
from tasks.contracts.value import Digest, sha256_hex

_MIB = 2**20
_PART_BYTES = 8 * _MIB
_LARGE_BYTES = 2 * _PART_BYTES
"""From here on an object travels in parts."""
_AT_ONCE = 8
_TRIES = 5
"""Of one part whose connection is cut, before the object is begun anew."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """An object's bytes, and their SHA-256, which was made while they came."""

    data: bytes
    sha256: Digest


def put(client: Any, named: Mapping[str, str], data: bytes, arguments: Mapping[str, Any], *, checked: bool) -> None:
    """Put an object, in parts if it is large; readers see it when it is complete.

    Args:
        client: of boto3.
        named: bucket and key.
        data: the object.
        arguments: metadata and encryption.
        checked: send the SHA-256 of the bytes, and insist that the server verifies it.

    Raises:
        UserError: the server takes the SHA-256 and does not say that it verified it.
    """
    if len(data) > _LARGE_BYTES:
        _put_parts(client, named, data, arguments, checked=checked)
        return
    checksum = checksum_of(data) if checked else {}
    require_verified(client.put_object(Body=data, **named, **arguments, **checksum), checksum, named)


def transfer() -> Any:
    """Return sizes for boto3's own copies within S3; by parts as late as may be, since Swift copies none of its own."""
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=1024 * _MIB, multipart_chunksize=128 * _MIB, max_concurrency=_AT_ONCE)


def checksum_of(data: bytes) -> dict[str, str]:
    """Return what a put says of its body, for the server to verify."""
    return {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": base64.b64encode(hashlib.sha256(data).digest()).decode()}


def require_verified(answer: Mapping[str, Any], checksum: Mapping[str, str], named: Mapping[str, str]) -> None:
    """Make sure that the server says the SHA-256 that it was sent: one that ignores it says none.

    Raises:
        UserError: it does not.
    """
    if checksum and answer.get("ChecksumSHA256") != checksum["ChecksumSHA256"]:
        raise UserError(
            f"the server took s3://{named['Bucket']}/{named['Key']} and does not say that it verified its SHA-256 "
            "(x-amz-checksum-sha256). Set STILLHOUSE_S3_CHECKSUMS=none: the SHA-256 then goes into the signature of "
            "each request, which every server verifies, and a hit on the cache reads the object whole"
        )


def _put_parts(
    client: Any, named: Mapping[str, str], data: bytes, arguments: Mapping[str, Any], *, checked: bool
) -> None:
    algorithm = {"ChecksumAlgorithm": "SHA256"} if checked else {}
    upload = {**named, "UploadId": client.create_multipart_upload(**named, **arguments, **algorithm)["UploadId"]}

    def send(number: int) -> dict[str, Any]:
        part = data[(number - 1) * _PART_BYTES : number * _PART_BYTES]
        checksum = checksum_of(part) if checked else {}
        answer = client.upload_part(Body=part, PartNumber=number, **upload, **checksum)
        require_verified(answer, checksum, named)
        told = {"ChecksumSHA256": answer["ChecksumSHA256"]} if checked else {}
        return {"PartNumber": number, "ETag": answer["ETag"], **told}

    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            sent = [pool.submit(send, number) for number in range(1, -(-len(data) // _PART_BYTES) + 1)]
            try:
                parts = [one.result() for one in sent]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        client.complete_multipart_upload(MultipartUpload={"Parts": parts}, **upload)
    except BaseException:
        _give_up(client, upload)
        raise


def _give_up(client: Any, upload: Mapping[str, str]) -> None:
    """Let the server forget the parts; where it cannot be told, the bucket's lifecycle does so later."""
    try:
        client.abort_multipart_upload(**upload)
    except client_errors() as error:
        logger.warning("the parts of s3://%s/%s are left behind: %s", upload["Bucket"], upload["Key"], error)


def get(client: Any, named: Mapping[str, str]) -> Fetched:
    """Get an object: the first part's answer says how many there are."""
    try:
        answer = client.get_object(Range=f"bytes=0-{_LARGE_BYTES - 1}", **named)
    except client.exceptions.ClientError as error:
        if is_empty_range(error):
            return Fetched(b"", sha256_hex(b""))
        raise
    total = int(answer.get("ContentRange", f"/{answer['ContentLength']}").rpartition("/")[2])
    if total <= _LARGE_BYTES:
        with closing(answer["Body"]) as body:
            data: bytes = body.read()
        return Fetched(data, sha256_hex(data))
    return _get_rest(client, {**named, "IfMatch": answer["ETag"]}, answer["Body"], total)


def _get_rest(client: Any, named: Mapping[str, str], first: Any, total: int) -> Fetched:
    buffer = io.BytesIO()
    buffer.seek(total - 1)
    buffer.write(b"\0")
    sha256 = _fill(buffer, client, named, first, total)
    return Fetched(buffer.getvalue(), sha256)  # without a copy, as long as no view of the buffer is left


def _fill(buffer: io.BytesIO, client: Any, named: Mapping[str, str], first: Any, total: int) -> Digest:
    """Read all parts into one buffer; return their digest, made in order while later ones are still on their way."""

    def receive(start: int) -> memoryview:
        target = whole[start : start + _PART_BYTES]
        for left in reversed(range(_TRIES)):
            try:
                _read_into(target, client.get_object(Range=f"bytes={start}-{start + len(target) - 1}", **named)["Body"])
            except client_errors() as error:
                if not left or not is_cut(error):
                    raise
            else:
                break
        return target

    digest = hashlib.sha256()
    with buffer.getbuffer() as whole, ThreadPoolExecutor(_AT_ONCE) as pool:
        coming = [pool.submit(receive, start) for start in range(_LARGE_BYTES, total, _PART_BYTES)]
        try:
            _read_into(whole[:_LARGE_BYTES], first)
            digest.update(whole[:_LARGE_BYTES])
            for part in coming:
                digest.update(part.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return digest.hexdigest()


def _read_into(target: memoryview, body: Any) -> None:
    """Fill `target`; a body that ends early is an error of the client."""
    at = 0
    with closing(body):
        while at < len(target):
            got = body.readinto(target[at : at + _MIB])
            if not got:
                break
            at += got
