"""What a request for inference is aimed at: the model, its version, and the key by which it falls to an arm."""

from infra.gateway.protocol import check_identifier

_MODELS, _VERSIONS, _INFER = "/v2/models/", "/versions/", "/infer"


def infer_target(path: str) -> tuple[str, str | None] | None:
    """Return model and version of `/v2/models/{model}[/versions/{version}]/infer`; None for other paths."""
    if not (path.startswith(_MODELS) and path.endswith(_INFER)):
        return None
    model, _, version = path[len(_MODELS) : -len(_INFER)].partition(_VERSIONS)
    return model, version or None


def request_key(sent: dict[bytes, bytes]) -> str | None:
    """Return the caller's key for the split, such as a user id: the same key meets the same arm.

    Raises:
        RequestError: 400, it is no identifier.
    """
    value = sent.get(b"x-stillhouse-key")
    return None if value is None else check_identifier(value.decode("latin-1"), "the X-Stillhouse-Key header")
