"""Addresses that may hold credentials: how they are shown, and how what they hold is kept out of messages.

The credentials of a URL stand before the last `@` of its host (`scheme://user:password@host`) or in its query
(`?password=...`, as libpq takes it; the signature of a pre-signed URL).
"""

import re
from urllib.parse import unquote, urlsplit, urlunsplit

HIDDEN = "***"

# to the last "@", since passwords hold "@" and "/" that nobody encoded; "host:80/..." is a port and no password
_PASSWORD = re.compile(r"(?<=://)([^:/?#@\s]*):(?!\d+(?:/|$))(\S*)@")
_QUERY = re.compile(
    r"([?&][^=&#\s]*(?:passw|passphrase|pwd|secret|token|signature|credential|api_?key)[^=&#\s]*=)([^&#\s]*)",
    re.IGNORECASE,
)


def shown(address: str) -> str:
    """Return the address as it may be shown: `scheme://user:***@host/path?password=***`."""
    return _QUERY.sub(rf"\1{HIDDEN}", _PASSWORD.sub(rf"\1:{HIDDEN}@", address))


def secrets_of(address: str) -> list[str]:
    """Return what must not be shown of an address, as it is written there and decoded, longest first."""
    found = [match.group(2) for pattern in (_PASSWORD, _QUERY) for match in pattern.finditer(address)]
    return sorted({form for one in found for form in (one, unquote(one)) if form}, key=len, reverse=True)


def without_secrets(text: str, address: str) -> str:
    """Return a text, such as a library's error message, without what `address` keeps secret."""
    for secret in secrets_of(address):
        text = text.replace(secret, HIDDEN)
    return text


def apart(url: str) -> tuple[str, tuple[str, str] | None]:
    """Return an HTTP address without its credentials, and these, for clients that log the addresses they call."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, None
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return bare, (unquote(parts.username), unquote(parts.password or ""))
