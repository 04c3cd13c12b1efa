"""Checks of the store and of the prediction log, in a folder or in S3."""

from __future__ import annotations

from flows.diagnosis.finding import Finding
from tasks.adapters.gateway_companion import shipping_state
from tasks.adapters.s3_probe import BucketFacts, probe_bucket
from tasks.runtime.services import Services


def store(services: Services) -> Finding:
    """Write and read an artifact; in S3 also write only once, remove, and see what the bucket promises."""
    reference = services.artifacts.put(b"written by stillhouse doctor\n")
    services.artifacts.get(reference.digest)
    place = services.settings.store_place
    if place is None:
        return Finding("store", "ok", f"{services.settings.store_address} can be written and read")
    return judge_bucket("store", probe_bucket(services.settings, place, "STILLHOUSE_STORE_URL"))


def judge_bucket(name: str, facts: BucketFacts) -> Finding:
    """Judge a bucket in which a probe was written, read, not written twice, and removed."""
    did = f"{facts.url}: put, get, conditional put and delete in {facts.seconds:.2f} s"
    detail = f"{did}; versioning {facts.versioning}, encryption {facts.encryption}"
    if facts.versioning == "off":
        return Finding(name, "note", detail, "turn versioning on, against what is removed by mistake")
    if facts.encryption == "off":
        return Finding(name, "note", detail, "give the bucket a default encryption, or set STILLHOUSE_S3_ENCRYPTION")
    return Finding(name, "ok", detail)


def log(services: Services) -> Finding:
    """Ask how much of the log waits on this machine, and whether some was lost."""
    state = shipping_state(services.settings)
    if state is None:
        return Finding("log", "ok", f"gateways write it to {services.traffic.place}")
    detail = (
        f"{state.waiting_segments} segments wait for {services.traffic.place}; shipped {state.shipped_rows} rows, "
        f"lost {state.lost_rows}"
    )
    if state.lost_rows or state.damaged_segments:
        remedy = "see the companion's messages; give it room by --max-waiting-gb, or S3 a way to be reached"
        return Finding("log", "note", f"{detail}, set aside {state.damaged_segments} segments", remedy)
    return Finding("log", "ok", detail)
