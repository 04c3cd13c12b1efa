"""What `stillhouse model verify` asks: is the artifact whole and signed, does it run, do the places agree."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tasks.contracts.artifact import artifact_key
from tasks.contracts.errors import StillhouseError
from tasks.contracts.registration import CHAMPION_ALIAS
from tasks.contracts.value import Digest, Value

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from flows.cli.model_reference import NamedModel
    from tasks.runtime.services import Services


class ModelCheck(Value):
    """One question and its answer."""

    name: str
    passed: bool
    detail: str


def check_model(services: "Services", model: "NamedModel") -> list[ModelCheck]:
    """Answer every question; one that fails does not keep the others from being asked."""
    checks = [
        _answered("artifact", lambda: _check_artifact(services, model.digest)),
        _answered("runs", lambda: _check_runs(services, model.digest)),
    ]
    if model.registered is not None:
        name = model.registered.name
        checks += [
            _answered("alias", lambda: _check_alias(services, name)),
            _answered("route", lambda: _check_route(services, name)),
            _answered("signature", lambda: _check_signature(services, name, model.digest)),
        ]
    return checks


def _answered(name: str, question: Callable[[], str]) -> ModelCheck:
    try:
        return ModelCheck(name=name, passed=True, detail=question())
    except StillhouseError as error:
        return ModelCheck(name=name, passed=False, detail=str(error))


class DisagreementError(StillhouseError):
    """Two places that must say the same do not."""


def _check_artifact(services: "Services", digest: Digest) -> str:
    return f"{len(services.artifacts.get(digest))} bytes, as the digest says ({artifact_key(digest)})"


def _check_runs(services: "Services", digest: Digest) -> str:
    data = services.artifacts.get(digest)
    if data[:2] == b"PK":
        from tasks.models.architecture import Network

        return f"a torch model of {Network.from_bytes(data).architecture.factory}; it rebuilds"
    from tasks.evaluation.runtime_session import make_session, run_outputs

    session = make_session(data)
    outputs = run_outputs(session, _zeros(session))
    return f"onnxruntime answers one row with {', '.join(f'{array.dtype}{list(array.shape)}' for array in outputs)}"


def _zeros(session: "InferenceSession") -> "np.ndarray":
    taken = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in taken.shape]
    return np.zeros(shape, dtype=np.int64 if taken.type == "tensor(int64)" else np.float32)


def _check_alias(services: "Services", name: str) -> str:
    recorded = services.ledger.champion(name)
    pointed = services.registry.version_of(name, CHAMPION_ALIAS)
    if recorded is None and pointed is None:
        return "no champion yet, neither in the ledger nor in the registry"
    if recorded is None or pointed is None or recorded.version != pointed.version:
        raise DisagreementError(
            f"the ledger's champion is version {recorded.version if recorded else 'none'}, the alias points to "
            f"{pointed.version if pointed else 'none'}; run `stillhouse model reconcile {name}`"
        )
    return f"alias {CHAMPION_ALIAS} and ledger entry {recorded.sequence} agree on version {recorded.version}"


def _check_route(services: "Services", name: str) -> str:
    from tasks.adapters.route_store import RouteStore

    recorded = services.ledger.champion(name)
    current = RouteStore(services.documents, services.acknowledgements).current(name)
    if recorded is None and current is None:
        return "no champion and no route yet"
    routed = current.route.champion.digest if current else None
    champion = recorded.candidate if recorded else None
    if current is None or routed != champion:
        raise DisagreementError(
            f"the ledger's champion is {champion}, the route's is {routed}; run `stillhouse model reconcile {name}`"
        )
    return f"route version {current.version} and ledger agree on {current.route.champion.digest[:12]}"


def _check_signature(services: "Services", name: str, digest: Digest) -> str:
    from tasks.stages.signing import signature_verdict, signed_by

    verdict = signature_verdict(services, name, digest)
    if verdict is None:
        keys = ", ".join(signed_by(services, name, digest))
        return f"not asked for: STILLHOUSE_VERIFY_KEYS is not set; {f'signed by {keys}, unproved' if keys else 'none'}"
    if not verdict.trusted:
        raise DisagreementError(f"{verdict.state}: {verdict.detail}")
    return f"{verdict.state}: {verdict.detail}"
