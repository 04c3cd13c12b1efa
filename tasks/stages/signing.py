"""The work of signing a model's artifact, and of telling whether it is signed.

A version is signed when it is registered, before the registry shows it: whoever may serve it
later, a challenger in shadow included, finds the signature. Promotion only checks.
"""

from tasks.adapters.signing_keys import load_signing_key, load_verify_keys
from tasks.contracts.errors import ModelError, UserError
from tasks.contracts.signing import (
    KeyId,
    ModelSignatureDocument,
    SignedStatement,
    signature_document,
    signature_folder,
)
from tasks.contracts.value import Digest
from tasks.decisions.signatures import SignatureState, SignatureVerdict, judge_signatures, key_id_of
from tasks.runtime.documents import record_document
from tasks.runtime.services import Services
from tasks.runtime.settings import Settings
from tasks.runtime.stores import DocumentStore


def sign_if_configured(settings: Settings, documents: DocumentStore, model_name: str, digest: Digest) -> KeyId | None:
    """Sign the artifact under the model's name if there is a signing key; return the key's id, or None.

    Ed25519 is deterministic, so signing again writes nothing.

    Raises:
        UserError: the configured key cannot be used.
    """
    if settings.signing_key is None:
        return None
    key = load_signing_key(settings.signing_key.get_secret_value())
    key_id = key_id_of(key.public_key())
    statement = SignedStatement(model_name=model_name, digest=digest)
    signed = ModelSignatureDocument(
        statement=statement, key_id=key_id, signature=key.sign(statement.signed_bytes()).hex()
    )
    record_document(documents, signature_document(model_name, digest, key_id), signed.canonical_json())
    return key_id


def configured_key_ids(settings: Settings) -> tuple[KeyId | None, list[KeyId] | None]:
    """Return the ids of the key that signs and of those that are trusted; None for what is not configured.

    Raises:
        UserError: a configured key cannot be used.
    """
    signing, trusted = settings.signing_key, settings.verify_keys
    own = None if signing is None else key_id_of(load_signing_key(signing.get_secret_value()).public_key())
    return own, None if trusted is None else sorted(load_verify_keys(trusted))


def sign(services: Services, model_name: str, digest: Digest) -> KeyId:
    """Sign an artifact that is in the store, whole; return the key's id.

    Raises:
        UserError: no signing key is configured, or it cannot be used.
        ArtifactMissingError: the store has no such artifact.
    """
    services.artifacts.get(digest)
    key_id = sign_if_configured(services.settings, services.documents, model_name, digest)
    if key_id is None:
        raise UserError(
            "there is no signing key; set STILLHOUSE_SIGNING_KEY to the file that `stillhouse model keygen` made"
        )
    return key_id


def signature_verdict(services: Services, model_name: str, digest: Digest) -> SignatureVerdict | None:
    """Tell whether the artifact is signed under the model's name by a trusted key; None if no keys are configured."""
    if services.settings.verify_keys is None:
        return None
    trusted = load_verify_keys(services.settings.verify_keys)
    stored = _stored(services.documents, model_name, digest)
    return judge_signatures(SignedStatement(model_name=model_name, digest=digest), stored, trusted)


def signed_by(services: Services, model_name: str, digest: Digest) -> list[KeyId]:
    """Return the ids of the keys that the stored signatures name, proved or not."""
    return sorted(_stored(services.documents, model_name, digest))


def require_signature(services: Services, model_name: str, digest: Digest) -> None:
    """Refuse a model that no gateway with these verification keys would load.

    Raises:
        ModelError: verification keys are configured and the artifact is not signed by one of them.
    """
    verdict = signature_verdict(services, model_name, digest)
    if verdict is not None and verdict.state is not SignatureState.VALID:
        raise ModelError(f"{verdict.detail}; no gateway that verifies signatures would serve it")


def _stored(documents: DocumentStore, model_name: str, digest: Digest) -> dict[str, bytes]:
    found = {}
    for name in documents.names(f"{signature_folder(model_name, digest)}/"):
        document = documents.latest(name)
        if document is not None:
            found[name.rpartition("/")[2]] = document.data
    return found
