"""Where objects lie in an S3 bucket: what `s3://bucket/prefix` means."""

import re
from typing import Self

from tasks.contracts.errors import UserError
from tasks.contracts.value import Value

_PLACE = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?P<prefix>(/[A-Za-z0-9._=-]+)*)/?")


class ObjectPlace(Value):
    """A bucket, and the prefix under which everything of one store lies in it."""

    bucket: str
    prefix: str = ""
    """Empty, or ends with a slash."""

    @classmethod
    def parse(cls, url: str, setting: str) -> Self:
        """Read `s3://bucket/prefix`.

        Args:
            url: as the user wrote it.
            setting: where it was written, for the message.

        Raises:
            UserError: it is of another form.
        """
        match = _PLACE.fullmatch(url)
        if match is None:
            raise UserError(
                f"{setting}={url!r} names no place in S3; write s3://BUCKET/PREFIX, with letters, digits, '.', '_', "
                "'-' and '=' in the prefix"
            )
        prefix = match["prefix"].lstrip("/")
        return cls(bucket=match["bucket"], prefix=f"{prefix}/" if prefix else "")

    @property
    def url(self) -> str:
        """Return the place as `s3://bucket/prefix`, without a slash at its end."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")
