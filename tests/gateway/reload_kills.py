"""A gateway that takes a new route over, killed at every call that changes a file and between its steps; a program.

    python reload_kills.py OPERATION FOLDER [POINT ...]

`reload`: the route names another, signed model; it is read, verified, loaded, swapped in, acknowledged, and withdrawn
at the end. `arrival`: the model that the newest route names comes into the store. With names of points, only those
are tried.
"""

import json
import os
import shutil
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cryptography.hazmat.primitives.asymmetric.ed25519
import cryptography.hazmat.primitives.serialization  # noqa: F401 - or every child would import them
import numpy as np
from pydantic import SecretStr

from infra.gateway import routing
from infra.gateway.batching import BatchPolicy
from infra.gateway.durable import ABANDONED_AFTER_S
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.signatures import SignatureVerifier
from infra.gateway.store import GatewayStore
from infra.gateway.watchdog import Watchdog
from tasks.adapters.local_store import LocalArtifacts, LocalDocuments
from tasks.adapters.signing_keys import make_key_pair
from tasks.contracts.artifact import artifact_key
from tasks.contracts.route import RouteAcknowledgement
from tasks.runtime.settings import Settings
from tasks.stages.signing import sign_if_configured
from tests.gateway.conftest import Models, Site
from tests.kill_points import Points, answer_of, as_path, killed_at, make_files_mortal

MODEL, REPLICA = "digits", "test"
SCALES = {1: 1.0, 2: -2.0}
"""What version 1 and version 2 of the model multiply by."""
X = np.arange(8, dtype=np.float32).reshape(2, 4)
TAKEN_OVER_WITHIN_S = 60.0


def model_bytes(version):
    return Models().linear(SCALES[version])


def prepare(root, operation):
    """Version 1 is routed and version 2 is signed; a gateway that was killed long ago has left an acknowledgement."""
    site = Site(root)
    root.mkdir()
    make_key_pair(root / "key.pem", root / "trusted" / "key.pem")
    settings = Settings(home=root, signing_key=SecretStr(str(root / "key.pem")))
    digests = {version: site.put(model_bytes(version)) for version in SCALES}
    for digest in digests.values():
        sign_if_configured(settings, LocalDocuments(site.store), MODEL, digest)
    site.route(digests[1])
    (root / "digests.json").write_text(json.dumps(digests))
    acknowledgements = site.store / "acknowledgements" / MODEL
    acknowledgements.mkdir(parents=True)
    dead = RouteAcknowledgement(
        model_name=MODEL, replica="dead", route_version=1, ready=True,
        at=(datetime.now(UTC) - timedelta(hours=2)).isoformat(),
    )  # fmt: skip
    (acknowledgements / "dead.json").write_bytes(dead.canonical_json())
    age(acknowledgements / "dead.json")
    if operation == "arrival":
        site.route(digests[2])
        (site.store / artifact_key(digests[2])).unlink()


def age(path):
    old = time.time() - ABANDONED_AFTER_S - 60
    os.utime(path, (old, old))


def digest_of(root, version):
    return json.loads((root / "digests.json").read_text())[str(version)]


def gateway(root):
    store, table = GatewayStore(Site(root).store), routing.RoutingTable()
    watcher = routing.RouteWatcher(
        store, table, Watchdog(1.0), GatewayMetrics(), replica=REPLICA, max_batch_rows=8, batching=BatchPolicy(),
        poll_interval_s=600, retry_interval_s=0.0, heartbeat_interval_s=600,
        verifier=SignatureVerifier(store, root / "trusted"),
    )  # fmt: skip
    return store, table, watcher


def reload(root, points):
    """Serve version 1, take version 2 over as soon as the route names it, and stop in order."""
    store, table, watcher = gateway(root)
    watcher.scan()
    assert table.get(MODEL).version == 1
    Site(root).route(digest_of(root, 2))
    for name in ("latest_route", "read_signatures", "read_artifact"):
        setattr(store, name, points.around(name, getattr(store, name)))
    routing.Backend = points.around("load", routing.Backend)
    table.put = points.around("swap", table.put)
    make_files_mortal(points, root)
    watcher.start()
    until = time.monotonic() + TAKEN_OVER_WITHIN_S
    while not (heard := Site(root).acknowledgement(REPLICA)) or heard.route_version != 2:
        assert time.monotonic() < until, "the route was not taken over"
        time.sleep(0.001)
    watcher.stop()


def arrive(root, points):
    make_files_mortal(points, root)
    LocalArtifacts(Site(root).store).put(model_bytes(2))


def look(root):
    """What lies there: the acknowledgement, which must be whole, and files that nobody reads."""
    heard = Site(root).acknowledgement(REPLICA)
    left = [path.name.split("-")[0] for path in Site(root).store.rglob(".*")]
    return {"acknowledged": heard and [heard.route_version, heard.ready], "left": left}


def restarted(root):
    """Start a gateway under the same name, long after the kill; tell what it serves and says."""
    for path in (Site(root).store / "acknowledgements").rglob(".staged-*"):
        age(path)
    _, table, watcher = gateway(root)
    watcher.scan()
    served, answered = table.get(MODEL), None
    if served is not None:
        expected = {version: Models().expected(X, scale) for version, scale in SCALES.items()}
        outputs = served.champion.run(X)[0]
        answered = [version for version, logits in expected.items() if np.allclose(outputs, logits, rtol=1e-4)]
    replicas = sorted(path.name for path in (Site(root).store / "acknowledgements" / MODEL).iterdir())
    return look(root) | {"version": served and served.version, "answered": answered, "replicas": replicas}


def healed(root, operation):
    """Restart; where the model was still arriving, let it be sent again before the gateway looks once more."""
    first = restarted(root)
    if operation == "arrival":
        LocalArtifacts(Site(root).store).put(model_bytes(2))
    return {"first": first, "then": restarted(root)}


WORK = {"reload": reload, "arrival": arrive}


def counted(root, operation):
    points = Points()
    WORK[operation](root, points)
    return points.names


def kill_table(start, operation, chosen):
    """Kill the operation at each point in turn; return what was left and what restarts made of it."""
    alive = copied(start, "alive")
    names = answer_of(lambda: counted(alive, operation))
    points = [
        killed(copied(start, "killed"), operation, number) | {"point": name}
        for number, name in enumerate(names, start=1)
        if not chosen or name in chosen
    ]
    return {"names": names, "points": points, "end": answer_of(lambda: healed(alive, operation))}


def killed(root, operation, number):
    killed_at(lambda: WORK[operation](root, Points(die_at=number)))
    outcome = {"left": answer_of(lambda: look(root)), "healed": answer_of(lambda: healed(root, operation))}
    shutil.rmtree(root)
    return outcome


def copied(start, name):
    return Path(shutil.copytree(start, start.with_name(name)))


if __name__ == "__main__":
    operation, folder, *chosen = sys.argv[1:]
    start = as_path(folder) / "start"
    answer_of(lambda: prepare(start, operation))
    sys.stdout.write(json.dumps(kill_table(start, operation, chosen)))
