"""Promotions that die or race, on the real store, ledger and MLflow registry; run as a program.

Every operation is killed (SIGKILL) right before and right after each call that changes something
durable. Then, in processes of their own, the operation is repeated on one copy of what was left, and
`reconcile` called on another.

A third argument is the folder of a PostgreSQL server: ledger and locks then lie there, a database for each home.
"""

import io
import json
import os
import shutil
import sys
import uuid
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from tasks.adapters import lease_locks
from tasks.adapters.mlflow_connection import _import_mlflow
from tasks.adapters.route_store import RouteStore
from tasks.contracts.errors import StaleChampionError
from tasks.contracts.registration import SIGNATURE_TAG
from tasks.contracts.value import sha256_hex
from tasks.contracts.verdict import Check, GateReport, Verdict
from tasks.runtime.services import connect
from tasks.runtime.settings import Settings
from tasks.stages.promoting import bootstrap, promote, rollback
from tasks.stages.reconciling import reconcile

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "adapters")]
from onnx_models import linear_model  # noqa: E402 - modules of the tests
from promotion_world import NOW, SIGNATURE  # noqa: E402

from tests.kill_points import Mortal, Points, answer_of, killed_at  # noqa: E402

NAME = "digits"
DURABLE = {
    "ledger": {"append", "append_tick"},
    "registry": {"register", "set_alias", "delete_alias"},
    "documents": {"append"},
    "artifacts": {"put"},
}
"""Every method of the services that changes what outlives the process."""

MODELS = {version: linear_model(float(version)) for version in (1, 2, 3)}


SERVER = sys.argv[3] if len(sys.argv) > 3 else None


def services_of(home):
    if SERVER is None:
        return connect(Settings(home=home))
    address = f"postgresql+psycopg://stillhouse@/{database_of(home)}?host={SERVER}"
    return connect(Settings(home=home, ledger_url=address))


def database_of(home):
    return (home / "database").read_text()


def make_database(home, template="template0"):
    """Give the home a database of its own, as a copy of another."""
    name = f"kill{uuid.uuid4().hex}"
    administer(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{template}'",  # of the killed process
        f"CREATE DATABASE {name} TEMPLATE {template}",
    )
    home.mkdir(parents=True, exist_ok=True)
    (home / "database").write_text(name)


def remove(home):
    if SERVER is not None:
        administer(f"DROP DATABASE {database_of(home)} WITH (FORCE)")
    shutil.rmtree(home)


def administer(*statements):
    import psycopg

    with psycopg.connect(host=SERVER, user="stillhouse", dbname="postgres", autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def mortal(services, points):
    ledger, registry, documents, artifacts = (
        Mortal(getattr(services, kind), durable, points, kind) for kind, durable in DURABLE.items()
    )
    return replace(
        services, artifacts=artifacts, documents=documents, make_ledger=lambda: ledger, make_registry=lambda: registry
    )


def digest(version):
    return sha256_hex(MODELS[version])


def report(services, version):
    check = Check(name="accuracy", verdict=Verdict.PASS, estimate=0.0, bound=-0.001, margin=0.01, num_rows=1000)
    made = GateReport(
        model_name=NAME, candidate_name="small", candidate=digest(version), baseline=digest(1), dataset="d" * 64,
        plan="e" * 64, verdict=Verdict.PASS, checks=(check,), alpha=0.05, created_at=NOW,
    )  # fmt: skip
    return services.artifacts.put(made.canonical_json()).digest


def operate(operation, services):
    if operation == "bootstrap":
        bootstrap(services, NAME, 1, "flow", "first", NOW)
    elif operation == "promote":
        promote(services, report(services, 2), NAME, 2, "ann", "better", digest(1), NOW)
    elif operation == "rollback":
        rollback(services, NAME, "ann", "slow", NOW, expected_champion=digest(2))
    else:
        reconcile(services, NAME)


def prepare(home, operation):
    """Register three versions and do what comes before the operation."""
    services = services_of(home)
    parent = services.tracker.parent_run(NAME, "flow", "run", {})
    for model in MODELS.values():
        example = io.BytesIO()
        np.savez(example, x=np.ones((2, 4), np.float32))
        services.artifacts.put(model)
        tags = {SIGNATURE_TAG: SIGNATURE.model_dump_json()}
        services.registry.register(NAME, sha256_hex(model), model, example.getvalue(), tags, {}, parent)
    if operation == "bootstrap":
        return
    bootstrap(services, NAME, 1, "flow", "first", NOW)
    services.registry.set_alias(NAME, "challenger", 2)
    if operation != "promote":
        promote(services, report(services, 2), NAME, 2, "ann", "better", digest(1), NOW)
    if operation == "reconcile":  # all that follows the ledger was changed by hand
        for alias, version in (("champion", 3), ("previous", 3), ("challenger", 2)):
            services.registry.set_alias(NAME, alias, version)
        routes = RouteStore(services.documents, services.acknowledgements)
        current = routes.current(NAME)
        arm = current.route.champion.model_copy(update={"version": 3, "digest": digest(3)})
        routes.publish(current.route.model_copy(update={"champion": arm}), current.version)


def state(home):
    services = services_of(home)
    history = services.ledger.history(NAME)
    current = RouteStore(services.documents, services.acknowledgements).current(NAME)
    aliases = {alias: one.version for one in services.registry.versions(NAME) for alias in one.aliases}
    return {
        "ledger": [[entry.sequence, entry.action, entry.version] for entry in history],
        "aliases": dict(sorted(aliases.items())),
        "route": current and current.route.champion.version,
        "routed": current and current.route.champion.digest == digest(current.route.champion.version),
    }


def healed(home, operation):
    operate(operation, services_of(home))
    return state(home)


def points_of(home, operation):
    points = Points()
    operate(operation, mortal(services_of(home), points))
    return points.names


def kill_table(root, operation):
    """Return what was left after every kill, and what repeating and reconciling made of it."""
    start = root / "start"
    if SERVER is not None:
        make_database(start)
    answer_of(lambda: prepare(start, operation))
    before = answer_of(lambda: state(start))
    names = answer_of(lambda: points_of(copied(start, root / "counted"), operation))
    expected = answer_of(lambda: state(root / "counted"))
    points = [killed(root, operation, number) | {"point": name} for number, name in enumerate(names, start=1)]
    return {"before": before, "expected": expected, "points": points}


def killed(root, operation, number):
    """Kill the operation at a point; tell what was left and how it healed."""
    home = copied(root / "start", root / "killed")
    killed_at(lambda: operate(operation, mortal(services_of(home), Points(die_at=number))))
    other = copied(home, root / "reconciled")
    left = answer_of(lambda: state(home))
    outcome = {
        "left": left,
        "repeated": answer_of(lambda: healed(home, operation)),
        "again": answer_of(lambda: healed(home, operation)),
        "reconciled": answer_of(lambda: healed(other, "reconcile")) if left["ledger"] else left,
    }
    for folder in (home, other):
        remove(folder)
    return outcome


class NoLocks:
    """What two hosts have that share the ledger and the registry, and no folder."""

    def hold(self, name):
        return nullcontext()


def race(root, locked):
    """Two processes promote versions 2 and 3 at once, both against version 1."""
    home = root / "home"
    if SERVER is not None:
        make_database(home)
    answer_of(lambda: prepare(home, "promote"))
    gate_read, gate_write = os.pipe()
    ready_read, ready_write = os.pipe()
    children = []
    for version in (2, 3):
        child = os.fork()
        if child == 0:
            code = 3
            try:
                os.close(gate_write)
                services = services_of(home)
                services = services if locked else replace(services, locks=NoLocks())
                evidence = report(services, version)
                services.registry.version(NAME, version), services.ledger.champion(NAME)  # connected
                os.write(ready_write, b".")
                os.read(gate_read, 1)  # end-of-file for both at once
                promote(services, evidence, NAME, version, "x", "x", digest(1), NOW)
                code = 0
            except StaleChampionError:
                code = 1
            finally:
                os._exit(code)
        children.append(child)
    for _ in children:
        os.read(ready_read, 1)
    os.close(gate_write)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return {"codes": codes, "state": answer_of(lambda: state(home))}


def copied(source, target):
    shutil.copytree(source, target)
    if SERVER is not None:
        make_database(target, template=database_of(source))
    return target


if __name__ == "__main__":
    scenario, where = sys.argv[1], Path(sys.argv[2])
    _import_mlflow()  # once, before the forks; every process opens its own connection
    if scenario.startswith("race"):
        outcome = race(where, locked=scenario == "race-locked")
    else:
        lease_locks.LEASE_S = 1.0  # every killed process leaves a lock to wait for
        outcome = kill_table(where, scenario)
    sys.stdout.write(json.dumps(outcome))
