"""Whether the places in S3 that the settings name can be used, asked before anything rests on them."""

import uuid
from dataclasses import replace

from tasks.adapters.s3_bucket import Bucket
from tasks.adapters.s3_connection import Patience, S3Options
from tasks.contracts.errors import InfrastructureError
from tasks.contracts.object_place import ObjectPlace
from tasks.runtime.settings import Settings

_PATIENCE = Patience(total_s=15.0, longest_pause_s=3.0)
"""Somebody waits for the answer."""


def check_places(settings: Settings) -> list[str]:
    """Try every place in S3 and return their addresses; nothing is asked where all lies in folders.

    In the store an object is put, read and removed, and one that is there is refused a second writer. Of the others an
    absent object is asked for, which needs server, bucket, credentials and permission.

    Raises:
        UserError: bucket, credentials or permission are missing, or the server ignores conditions.
        ServiceUnavailableError: no answer.
        InfrastructureError: the store gives back other bytes than it was given.
    """
    options = replace(S3Options.of(settings), patience=_PATIENCE)
    if settings.store_place is not None:
        _try_store(Bucket(settings.store_place, options, "STILLHOUSE_STORE_URL"))
    others = {
        "STILLHOUSE_TRAFFIC_URL": settings.traffic_place,
        "STILLHOUSE_MLFLOW_ARTIFACTS": _place(settings.mlflow_artifacts_address, "STILLHOUSE_MLFLOW_ARTIFACTS"),
        "STILLHOUSE_DVC_REMOTE": _place(settings.dvc_remote or settings.dvc_default_address, "STILLHOUSE_DVC_REMOTE"),
    }
    for setting, place in others.items():
        if place is not None:
            Bucket(place, options, setting).read("checks/absent")
    return [place.url for place in (settings.store_place, *others.values()) if place is not None]


def _place(address: str, setting: str) -> ObjectPlace | None:
    return ObjectPlace.parse(address, setting) if address.startswith("s3://") else None


def _try_store(bucket: Bucket) -> None:
    key, wanted = f"checkpoints/checks/{uuid.uuid4().hex}", uuid.uuid4().bytes  # where a worker may remove
    bucket.write(key, wanted)
    try:
        found = bucket.read(key)
        if found != wanted:
            raise InfrastructureError(f"{bucket.url(key)} gave back other bytes than were put there")
    finally:
        bucket.delete(key)
    bucket.require_create_once()
