"""Keys that sign models and keys that verify them: made, written and read as PEM."""

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.adapters.local_store import write_atomically
from tasks.contracts.errors import UserError
from tasks.contracts.signing import KeyId
from tasks.decisions.signatures import key_id_of, parse_public_keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_PEM_START = "-----BEGIN"


def make_key_pair(private_path: Path, public_path: Path) -> KeyId:
    """Write a new Ed25519 key pair; the private key can be read by its owner alone. Return the key's id.

    Raises:
        UserError: a file is there already, or cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    for path in (private_path, public_path):
        if path.exists():
            raise UserError(f"{path} exists; a key that is replaced is lost, so give another name or move it away")
    key = Ed25519PrivateKey.generate()
    public = key.public_key()
    private_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        _write_secret(private_path, private_pem)
        write_atomically(public_path, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    except OSError as error:
        raise UserError(f"cannot write {error.filename or private_path}: {error.strerror}") from error
    return key_id_of(public)


def load_signing_key(setting: str) -> "Ed25519PrivateKey":
    """Read a private key from the value of STILLHOUSE_SIGNING_KEY: the path of a PEM file, or PEM text.

    A file of this user's that others may read is refused, as ssh does.

    Raises:
        UserError: there is no such file, it is open to others, or holds no Ed25519 private key.
    """
    if setting.lstrip().startswith(_PEM_START):
        return _private_key("the text in STILLHOUSE_SIGNING_KEY", setting.replace("\\n", "\n").encode())
    path = Path(setting).expanduser()
    try:
        with path.open("rb") as file:
            _require_private(path, os.fstat(file.fileno()))
            content = file.read()
    except OSError as error:
        raise UserError(f"cannot read the signing key {path} (STILLHOUSE_SIGNING_KEY): {error.strerror}") from error
    return _private_key(str(path), content)


def load_verify_keys(path: Path) -> "dict[KeyId, Ed25519PublicKey]":
    """Read every `*.pem` of the folder `path`, or the file `path`.

    Raises:
        UserError: a file cannot be read or is no key, or there is none.
    """
    try:
        paths = sorted(path.glob("*.pem")) if path.is_dir() else [path]
        files = {str(one): one.read_bytes() for one in paths}
    except OSError as error:
        raise UserError(f"cannot read {error.filename} (STILLHOUSE_VERIFY_KEYS): {error.strerror}") from error
    return parse_public_keys(files)


def _write_secret(path: Path, content: bytes) -> None:
    """Create `path` with mode 600 and all of `content`; a file that is there is never touched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _require_private(path: Path, status: os.stat_result) -> None:
    """Refuse as ssh does: a file of another owner (a mounted secret) is that owner's affair."""
    if status.st_uid == os.getuid() and status.st_mode & 0o077:
        raise UserError(
            f"the signing key {path} is open to others (mode {stat.S_IMODE(status.st_mode):03o}); "
            f"close it with `chmod 600 {path}`, and make a new key if others may have read it"
        )


def _private_key(name: str, content: bytes) -> "Ed25519PrivateKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # the message might show the key
        raise UserError(
            f"{name} is no PEM private key without password; make one with `stillhouse model keygen`"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{name} is a {type(key).__name__}; models are signed with Ed25519 keys")
    return key
