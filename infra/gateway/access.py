"""Who may ask what: bearer tokens in three roles, known by their SHA-256 alone."""

import hashlib
import hmac
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from infra.gateway.errors import RequestError

Role = Literal["infer", "feedback", "admin"]
"""What a token allows. `admin` allows everything."""

_CHECK_INTERVAL_S = 1.0
_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Stamp = tuple[int, int, int]

logger = logging.getLogger(__name__)


class TokensError(ValueError):
    """The file of tokens cannot be used; the message says why and what it should hold."""


class _Digests(BaseModel):
    """What the file holds: for each role the SHA-256 of its tokens, in lower-case hex."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    infer: tuple[_Sha256, ...] = ()
    feedback: tuple[_Sha256, ...] = ()
    admin: tuple[_Sha256, ...] = ()


class Access:
    """Checks requests against the tokens of a file, which is read again within a second of a change."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            TokensError: it cannot be read, or is not what it should be.
        """
        self._path = path
        self._stamp: _Stamp | None = _stamp(path)
        self._digests = _read(path)
        self._checked_at = time.monotonic()

    def check(self, headers: Iterable[tuple[bytes, bytes]], role: Role) -> None:
        """Let a request pass.

        Args:
            headers: the request's, with lower-case names.
            role: what it needs.

        Raises:
            RequestError: 401 without a token or with one that nobody has, 403 with one of another role.
        """
        self._follow()
        given = next((value for name, value in headers if name == b"authorization"), None)
        if given is None:
            raise RequestError(401, "send a token as 'Authorization: Bearer TOKEN'", headers=_challenge())
        scheme, _, token = given.partition(b" ")
        roles = self._roles(token.strip()) if scheme.lower() == b"bearer" else set()
        if not roles:
            raise RequestError(401, "this token is not known", headers=_challenge(b"invalid_token"))
        if role not in roles and "admin" not in roles:
            raise RequestError(
                403,
                f"this token does not allow it; it needs the role {role}",
                headers=_challenge(b"insufficient_scope"),
            )

    def reload(self) -> None:
        """Read the file again, all or nothing: one that is broken changes nothing and is reported in the log."""
        try:
            stamp = _stamp(self._path)
            digests = _read(self._path)
        except TokensError as error:
            logger.error("the tokens stay as they were: %s", error)
        else:
            self._digests, self._stamp = digests, stamp
            logger.info("tokens read from %s", self._path)

    def _roles(self, token: bytes) -> set[Role]:
        """Return what a token allows, in a time that does not depend on which one it resembles."""
        digest = hashlib.sha256(token).hexdigest()
        held: list[tuple[Role, tuple[str, ...]]] = [
            ("infer", self._digests.infer),
            ("feedback", self._digests.feedback),
            ("admin", self._digests.admin),
        ]
        return {role for role, known in held for one in known if hmac.compare_digest(one, digest)}

    def _follow(self) -> None:
        now = time.monotonic()
        if now - self._checked_at < _CHECK_INTERVAL_S:
            return
        self._checked_at = now
        try:
            stamp = _stamp(self._path)
        except TokensError:
            stamp = None  # gone; reported once, when it was there before
        if stamp != self._stamp:
            self._stamp = stamp
            self.reload()


def _challenge(error: bytes | None = None) -> tuple[tuple[bytes, bytes], ...]:
    """Return the header of RFC 6750 that says how to ask."""
    detail = b'Bearer realm="stillhouse"' + (b', error="%s"' % error if error else b"")
    return ((b"www-authenticate", detail),)


def _stamp(path: Path) -> _Stamp:
    """Return what differs when the file was changed or replaced."""
    try:
        status = path.stat()
    except OSError as error:
        raise TokensError(f"{path}: {error.strerror}") from None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> _Digests:
    import yaml  # a gateway without tokens does without it

    remedy = 'it must be JSON or YAML such as {"infer": ["<SHA-256 of a token, 64 hex digits>"]}'
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        digests = _Digests.model_validate(document)
    except OSError as error:
        raise TokensError(f"{path}: {error.strerror}; {remedy}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise TokensError(f"{path} is neither JSON nor YAML; {remedy}") from None
    except ValidationError as error:
        # a value is never repeated: it may be a token that was put there in error
        where = sorted({".".join(map(str, one["loc"])) or "the file" for one in error.errors(include_input=False)})
        raise TokensError(f"{path} is wrong at {', '.join(where)}; {remedy}") from None
    if not (digests.infer or digests.feedback or digests.admin):
        raise TokensError(f"{path} names no token, so nobody could ask anything; {remedy}")
    return digests
