"""How live traffic is divided, and what is recorded of it."""

import hashlib
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from tasks.contracts.data import Task
from tasks.contracts.value import Digest, Slug, Value

ArmName = Literal["champion", "challenger"]


class Arm(Value):
    """One model version that takes requests."""

    digest: Digest
    """The ONNX artifact that is served."""
    version: int
    """Version in the model registry."""
    run_id: Annotated[str, StringConstraints(pattern=r"^[\w.-]{0,64}$")] = ""
    """Flow run that registered the version; empty in routes of before it was noted. It takes no part in deciding."""

    def is_same_model(self, other: "Arm") -> bool:
        """Tell whether both are one version of one model."""
        return (self.digest, self.version) == (other.digest, other.version)


class ModelSignature(Value):
    """What a served model takes and gives."""

    task: Task
    input_shape: tuple[int, ...]
    """Shape of one row, without the batch axis."""
    input_dtype: Literal["float32", "int64"]
    class_names: tuple[str, ...]
    vocab_size: int | None = None
    """Token ids of a text model lie in [0, vocab_size); None for other models."""


class Route(Value):
    """The desired division of one model's traffic: a versioned document that gateways poll.

    The document's version is not a field: the document store numbers what is appended to it.
    """

    model_name: Slug
    signature: ModelSignature
    champion: Arm
    challenger: Arm | None = None
    weight: float = Field(default=0.0, ge=0.0, le=100.0)
    """Percent of requests that the challenger answers."""
    shadow: bool = False
    """Also run the challenger on the champion's requests, off the caller's path."""
    salt: str = ""
    """Changes which requests fall to the challenger; new for every rollout."""
    rollout_id: str | None = None

    @model_validator(mode="after")
    def _traffic_needs_a_challenger(self) -> "Route":
        if self.challenger is None and (self.weight or self.shadow):
            raise ValueError("weight and shadow need a challenger; set one, or weight 0 and shadow false")
        return self


def assigned_arm(route: Route, request_key: str) -> ArmName:
    """Assign a request to an arm by a salted hash of its key.

    The same key always gets the same arm within one rollout, and raising the weight only moves
    keys from champion to challenger, never back.
    """
    if route.challenger is None:
        return "champion"
    hashed = hashlib.blake2b(f"{route.salt}\x00{request_key}".encode(), digest_size=8).digest()
    return "challenger" if int.from_bytes(hashed, "big") / 2**64 < route.weight / 100.0 else "champion"


class RouteAcknowledgement(Value):
    """Written by a gateway replica once it serves a route version."""

    model_name: Slug
    replica: str
    route_version: int
    ready: bool
    """False when an arm of that version could not be loaded; `message` says why."""
    message: str = ""
    at: str
