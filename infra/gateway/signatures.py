"""Refuses models that are not signed by a key which this gateway trusts."""

from pathlib import Path

from infra.gateway.store import GatewayStore
from tasks.contracts.errors import ModelError
from tasks.contracts.signing import SignedStatement
from tasks.contracts.value import Digest


class SignatureVerifier:
    """Checks signatures against the public keys in a folder or file.

    The keys are read at every check, which happens only when a route changes: a rotation needs no restart.
    """

    def __init__(self, store: GatewayStore, keys: Path) -> None:
        self._store, self._keys = store, keys

    def require(self, model_name: str, digest: Digest) -> None:
        """Return if the artifact is signed under this name by a trusted key.

        Raises:
            ModelError: it is not.
            UserError: a key file is damaged, or there is no key.
            OSError: a key or a signature cannot be read.
        """
        from tasks.decisions.signatures import judge_signatures, parse_public_keys

        paths = sorted(self._keys.glob("*.pem")) if self._keys.is_dir() else [self._keys]
        trusted = parse_public_keys({str(path): path.read_bytes() for path in paths})
        statement = SignedStatement(model_name=model_name, digest=digest)
        verdict = judge_signatures(statement, self._store.read_signatures(model_name, digest), trusted)
        if not verdict.trusted:
            raise ModelError(f"signature refused: {verdict.detail}")
