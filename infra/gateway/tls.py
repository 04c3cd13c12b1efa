"""The certificate that a gateway shows."""

import logging
import ssl
from pathlib import Path

logger = logging.getLogger(__name__)


class TlsError(ValueError):
    """Certificate or key cannot be used; the message names the file and the remedy."""


class Tls:
    """A server's TLS context, whose certificate can be renewed while it serves."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Load both.

        Raises:
            TlsError: a file is missing or damaged, or the key is not the certificate's.
        """
        self._certificate, self._key = certificate, key
        self.context = _loaded(certificate, key)

    def reload(self) -> None:
        """Show the files' present certificate to new connections; one that is broken changes nothing."""
        try:
            _loaded(self._certificate, self._key)  # proved apart, since a failed load may leave half of it behind
        except TlsError as error:
            logger.error("the certificate stays as it was: %s", error)
        else:
            self.context.load_cert_chain(self._certificate, self._key)
            logger.info("certificate read from %s", self._certificate)


def _loaded(certificate: Path, key: Path) -> ssl.SSLContext:
    for path in (certificate, key):
        try:
            path.read_bytes()
        except OSError as error:
            raise TlsError(f"{path}: {error.strerror}; give PEM files by --tls-cert and --tls-key") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"{key} is not the key of the certificate {certificate}; give those of one pair") from None
        raise TlsError(
            f"{certificate} and {key} are not a certificate and its key in PEM without a password ({error.reason})"
        ) from None
    except ValueError:
        raise TlsError(f"{key} has a password; give a key without one, readable by this user alone") from None
    return context


def _no_password() -> str:
    """Answer instead of OpenSSL's prompt, which would wait for a terminal."""
    raise ValueError("a password is wanted")
