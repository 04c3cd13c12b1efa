"""A small world for promotions, and, run as a program, the scenarios that need processes that die or race.

Ledger, store and locks are the real ones; the registry is a JSON file, so that a killed process
leaves behind what it had written.
"""

import fcntl
import json
import os
import shutil
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.adapters.ledger import SqlLedger
from tasks.adapters.local_store import (
    LocalAcknowledgements,
    LocalArtifacts,
    LocalCheckpoints,
    LocalDocuments,
    LocalFiles,
    LocalRecords,
    write_atomically,
)
from tasks.adapters.local_traffic import LocalTraffic
from tasks.adapters.locks import FileLocks
from tasks.adapters.route_store import RouteStore
from tasks.contracts.errors import ModelError, StaleChampionError
from tasks.contracts.registration import DIGEST_TAG, SIGNATURE_TAG
from tasks.contracts.route import ModelSignature
from tasks.contracts.value import sha256_hex
from tasks.contracts.verdict import Check, GateReport, Verdict
from tasks.runtime.bookkeeping import RegisteredVersion
from tasks.runtime.services import Services
from tasks.runtime.settings import Settings
from tasks.stages.promoting import bootstrap, promote, rollback
from tasks.stages.reconciling import reconcile
from tests.kill_points import in_child

SIGNATURE = ModelSignature(task="classification", input_shape=(4,), input_dtype="float32", class_names=("a", "b"))
NOW = "2026-01-01T00:00:00+00:00"


class FileRegistry:
    """The registry's aliases and versions in one JSON file, changed under a lock."""

    def __init__(self, path):
        self.path = path

    def version(self, name, version):
        found = json.loads(self.path.read_text())
        if str(version) not in found["versions"]:
            raise ModelError(f"model {name} has no version {version}")
        aliases = tuple(alias for alias, of in found["aliases"].items() if of == version)
        return RegisteredVersion(name, version, aliases, found["versions"][str(version)])

    def version_of(self, name, alias):
        version = json.loads(self.path.read_text())["aliases"].get(alias)
        return None if version is None else self.version(name, version)

    def set_alias(self, name, alias, version):
        with self._changed() as found:
            found["aliases"][alias] = version

    def delete_alias(self, name, alias):
        with self._changed() as found:
            found["aliases"].pop(alias, None)

    @contextmanager
    def _changed(self):
        with open(self.path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = json.loads(self.path.read_text())
            yield found
            write_atomically(self.path, json.dumps(found).encode())


@dataclass
class World:
    """Model `digits` with versions 1 to 3."""

    root: Path
    services: Services

    @classmethod
    def create(cls, root):
        registry = FileRegistry(root / "registry.json")
        versions = {
            number: {DIGEST_TAG: cls.digest(number), SIGNATURE_TAG: SIGNATURE.model_dump_json()} for number in (1, 2, 3)
        }
        write_atomically(registry.path, json.dumps({"versions": versions, "aliases": {}}).encode())
        return cls.open(root)

    @classmethod
    def open(cls, root):
        ledger = SqlLedger(f"sqlite:///{root / 'ledger.db'}")
        registry = FileRegistry(root / "registry.json")
        services = Services(
            settings=Settings(home=root, store=root),
            artifacts=LocalArtifacts(root),
            documents=LocalDocuments(root),
            checkpoints=LocalCheckpoints(root),
            records=LocalRecords(root),
            acknowledgements=LocalAcknowledgements(root),
            files=LocalFiles(root),
            traffic=LocalTraffic(root / "traffic"),
            locks=FileLocks(root / "locks"),
            host_locks=FileLocks(root / "host-locks"),
            make_ledger=lambda: ledger,
            make_registry=lambda: registry,
            make_tracker=lambda: None,
        )
        return cls(root, services)

    @staticmethod
    def digest(version):
        return sha256_hex(f"model {version}".encode())

    def report(self, version, **changes):
        check = Check(name="accuracy", verdict=Verdict.PASS, estimate=0.0, bound=-0.001, margin=0.01, num_rows=1000)
        values = {
            "model_name": "digits", "candidate_name": "small", "candidate": self.digest(version), "baseline": "b" * 64,
            "dataset": "d" * 64, "plan": "e" * 64, "verdict": Verdict.PASS, "alpha": 0.05, "created_at": NOW,
        } | changes  # fmt: skip
        check = check.model_copy(update={"verdict": values["verdict"]})
        return self.services.artifacts.put(GateReport(checks=(check,), **values).canonical_json()).digest

    def promote(self, version, **changes):
        champion = self.services.ledger.champion("digits")
        expected = champion.expected_champion if champion and champion.version == version else champion.candidate
        values = {
            "gate_report_digest": self.report(version) if "gate_report_digest" not in changes else None,
            "expected_champion": expected,
        } | changes
        return promote(
            self.services, model_name="digits", version=version, actor="ann", reason="better", now=NOW, **values
        )

    def edit_tags(self, version, changes):
        path = self.services.registry.path
        found = json.loads(path.read_text())
        tags = found["versions"][str(version)] | changes
        found["versions"][str(version)] = {name: value for name, value in tags.items() if value is not None}
        write_atomically(path, json.dumps(found).encode())

    def state(self):
        """Everything that an operation may change, by version numbers."""
        current = RouteStore(self.services.documents, self.services.acknowledgements).current("digits")
        route = current.route if current else None
        return {
            "ledger": [entry.version for entry in self.services.ledger.history("digits")],
            "aliases": json.loads(self.services.registry.path.read_text())["aliases"],
            "route": route and (route.champion.version, route.challenger and route.challenger.version),
        }


class Dying:
    """Passes calls on, and kills this process right after the nth call that any of its kind counts."""

    calls_to_live = 0

    def __init__(self, real):
        self._real = real

    def __getattr__(self, name):
        attribute = getattr(self._real, name)
        if not callable(attribute):
            return attribute

        def call(*args, **kwargs):
            result = attribute(*args, **kwargs)
            Dying.calls_to_live -= 1
            if Dying.calls_to_live == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call


def dying_services(services, calls_to_live):
    Dying.calls_to_live = calls_to_live
    ledger, registry = Dying(services.ledger), Dying(services.registry)
    return replace(
        services, artifacts=Dying(services.artifacts), documents=Dying(services.documents),
        make_ledger=lambda: ledger, make_registry=lambda: registry,
    )  # fmt: skip


def operate(operation, services, world):
    if operation == "bootstrap":
        bootstrap(services, "digits", 1, "flow", "first", NOW)
    elif operation == "promote":
        promote(services, world.report(2), "digits", 2, "ann", "x", world.digest(1), NOW)
    else:
        rollback(services, "digits", "ann", "x", NOW, expected_champion=world.digest(2))


def prepared(root, operation):
    root.mkdir(parents=True)
    world = World.create(root)
    if operation != "bootstrap":
        bootstrap(world.services, "digits", 1, "flow", "first", NOW)
    if operation == "rollback":
        world.promote(2)
    return world


def kill_everywhere(root, operation):
    """Kill the operation after call 1, 2, 3 … until it survives; then repeat it, and in a copy reconcile instead."""
    prepared(root / "start", operation)
    entries_before = len(World.open(root / "start").state()["ledger"])
    killed = {}
    for call in range(1, 100):
        world = copied(root / "start", root / f"repeated-{call}")
        code = in_child(lambda world=world, call=call: operate(operation, dying_services(world.services, call), world))
        if code == 0:
            return killed
        assert code == -signal.SIGKILL, code
        states = {"ledger_had_it": len(world.state()["ledger"]) > entries_before}
        if states["ledger_had_it"]:
            other = copied(world.root, root / f"reconciled-{call}")
            reconcile(other.services, "digits")
            states["reconciled"] = other.state()
        operate(operation, world.services, world)
        states["repeated"] = world.state()
        killed[call] = states
    raise AssertionError("the operation never ends")


def copied(source, target):
    shutil.copytree(source, target)
    return World.open(target)


def race(root):
    """Eight processes at once, four for version 2 and four for version 3, all against version 1."""
    world = prepared(root / "race", "promote")
    gate_read, gate_write = os.pipe()
    children = []
    for number in range(8):
        child = os.fork()
        if child == 0:
            code = 3
            try:
                os.close(gate_write)
                os.read(gate_read, 1)  # end-of-file for all at once, when the parent closes its end
                version = 2 + number % 2
                mine = World.open(root / "race")
                promote(mine.services, mine.report(version), "digits", version, "x", "x", mine.digest(1), NOW)
                code = 0
            except StaleChampionError:
                code = 1
            finally:
                os._exit(code)
        children.append(child)
    os.close(gate_write)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return {"codes": codes, "state": world.state()}


if __name__ == "__main__":
    scenario, where = sys.argv[1], Path(sys.argv[2])
    outcome = race(where) if scenario == "race" else {"killed": kill_everywhere(where, scenario.removeprefix("kill-"))}
    sys.stdout.write(json.dumps(outcome))
