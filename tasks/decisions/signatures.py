"""Whether a model is signed by a key that is trusted."""

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tasks.contracts.errors import UserError
from tasks.contracts.signing import KeyId, ModelSignatureDocument, SignedStatement
from tasks.contracts.value import Value

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_PEM_END = b"-----END PUBLIC KEY-----"


class SignatureState(StrEnum):
    """What can be said of a model's signatures."""

    VALID = "valid"
    UNSIGNED = "unsigned"
    UNKNOWN_KEY = "unknown key"
    WRONG = "wrong"


class SignatureVerdict(Value):
    """The answer, and why."""

    state: SignatureState
    key_id: KeyId | None = None
    """Of the key that signed a valid one."""
    detail: str

    @property
    def trusted(self) -> bool:
        """Whether the model may be served."""
        return self.state is SignatureState.VALID


def judge_signatures(
    statement: SignedStatement, documents: Mapping[str, bytes], trusted: Mapping[KeyId, "Ed25519PublicKey"]
) -> SignatureVerdict:
    """Decide whether one of the stored signatures is of `statement` and by a trusted key; one is enough.

    Args:
        statement: what must have been signed.
        documents: the stored signature documents by the key id that their name has.
        trusted: the public keys by their id.
    """
    model = f"{statement.digest[:12]} as {statement.model_name}"
    if not documents:
        return SignatureVerdict(
            state=SignatureState.UNSIGNED, detail=f"{model} is not signed; sign it with `stillhouse model sign`"
        )
    known = {key_id: data for key_id, data in sorted(documents.items()) if key_id in trusted}
    faults = []
    for key_id, data in known.items():
        fault = _fault(statement, data, key_id, trusted[key_id])
        if not fault:
            return SignatureVerdict(state=SignatureState.VALID, key_id=key_id, detail=f"{model}, by key {key_id}")
        faults.append(f"key {key_id}: {fault}")
    if faults:
        return SignatureVerdict(
            state=SignatureState.WRONG, detail=f"the signature of {model} is wrong ({'; '.join(faults)})"
        )
    return SignatureVerdict(
        state=SignatureState.UNKNOWN_KEY,
        detail=f"{model} is signed by {', '.join(sorted(documents))}, none of the trusted keys "
        f"{', '.join(sorted(trusted)) or '(there is none)'}; sign it with `stillhouse model sign`, or add the key to "
        "STILLHOUSE_VERIFY_KEYS",
    )


def key_id_of(key: "Ed25519PublicKey") -> KeyId:
    """Return the id of a public key."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def parse_public_keys(files: Mapping[str, bytes]) -> dict[KeyId, "Ed25519PublicKey"]:
    """Read PEM public keys, one or more in each file.

    Args:
        files: contents by the name that an error gives.

    Raises:
        UserError: a file holds something else, or there is no key at all.
    """
    keys: dict[KeyId, Ed25519PublicKey] = {}
    for name, content in files.items():
        *blocks, rest = content.split(_PEM_END)
        if not blocks or rest.strip():
            raise UserError(f"{name} does not hold PEM public keys and nothing else; make one with `model keygen`")
        for block in blocks:
            key = _public_key(name, block + _PEM_END)
            keys[key_id_of(key)] = key
    if not keys:
        raise UserError("there is no verification key; put PEM public keys where STILLHOUSE_VERIFY_KEYS points")
    return keys


def _public_key(name: str, block: bytes) -> "Ed25519PublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(block)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"{name} holds a damaged public key ({error}); write it again") from error
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{name} holds a {type(key).__name__}, but models are signed with Ed25519 keys")
    return key


def _fault(statement: SignedStatement, data: bytes, key_id: KeyId, key: "Ed25519PublicKey") -> str:
    """Return what is wrong with one stored signature; nothing if it holds."""
    from cryptography.exceptions import InvalidSignature

    try:
        document = ModelSignatureDocument.model_validate_json(data)
    except ValidationError:
        return "the document is damaged"
    if document.statement != statement:
        return f"it is of {document.statement.digest[:12]} as {document.statement.model_name}"
    if document.key_id != key_id:
        return f"it names key {document.key_id}"
    try:
        key.verify(bytes.fromhex(document.signature), statement.signed_bytes())
    except InvalidSignature:
        return "the bytes were not signed by it"
    return ""
