"""A served model `m` with a log that tests write hour by hour, and an event server that can be away."""

from datetime import timedelta
from types import SimpleNamespace

import numpy as np

from tasks.adapters.local_store import LocalAcknowledgements, LocalArtifacts, LocalDocuments
from tasks.adapters.local_traffic import LocalTraffic
from tasks.adapters.route_store import RouteStore
from tasks.contracts.errors import ServiceUnavailableError
from tasks.contracts.route import Arm, ModelSignature, Route
from tasks.contracts.verdict import LedgerEntry
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.stages.monitoring import monitor
from tests.adapters.traffic_files import DIGEST, NOON, Segments

POLICY = MonitoringPolicy(reference_hours=1.0)
SIGNATURE = ModelSignature(task="classification", input_shape=(4,), input_dtype="float32", class_names=("a", "b", "c"))


class Server:
    """Keeps one event per id."""

    def __init__(self):
        self.away, self.addressed, self.calls, self.events = False, True, 0, {}

    def send(self, announcements):
        self.calls += 1
        if self.away:
            raise ServiceUnavailableError("away")
        if self.addressed:
            self.events |= {one.event_id: one for one in announcements}
        return self.addressed

    def seen(self):
        return [(one.event, one.payload.get("version"), one.payload.get("action")) for one in self.events.values()]


def champion(start=NOON, digest=DIGEST, version=1):
    return LedgerEntry(
        model_name="m", sequence=1, action="bootstrap", candidate=digest, version=version, gate_report=None,
        expected_champion=None, actor="ann", reason="first", created_at=start.isoformat(),
    )  # fmt: skip


class MonitoredWorld:
    """Hours count from `start`, when the champion began; tags of its version can be set."""

    def __init__(self, root, start=NOON, digest=DIGEST, tags=None):
        self.start, self.server, self.log = start, Server(), Segments(root / "traffic")
        self.digest, self.generator = digest, np.random.default_rng(1)
        self.champion, documents = champion(start, digest), LocalDocuments(root)
        acknowledgements = LocalAcknowledgements(root)
        RouteStore(documents, acknowledgements).publish(
            Route(model_name="m", signature=SIGNATURE, champion=Arm(digest=digest, version=1)), 0
        )
        self.services = SimpleNamespace(
            traffic=LocalTraffic(self.log.root),
            acknowledgements=acknowledgements,
            artifacts=LocalArtifacts(root),
            documents=documents,
            registry=SimpleNamespace(version=lambda name, version: SimpleNamespace(tags=tags or {})),
            ledger=SimpleNamespace(
                champion=lambda name: self.champion if name == "m" else None,
                history=lambda name: [self.champion],
                latest_tick=lambda name: None,
            ),
            events=self.server,
        )

    def at(self, hours):
        return self.start + timedelta(hours=hours)

    def traffic(self, hour, num=400, shift=0.0, slower=1.0):
        """One hour's requests; `shift` moves the inputs' mean, which varies by 0.1."""
        generator = self.generator
        self.log.predictions(
            *(
                {
                    "request_id": f"{hour}-{n}",
                    "at": self.at(hour + n / num),
                    "model_digest": self.digest,
                    "prediction": float(generator.integers(3)),
                    "confidence": float(generator.beta(6, 1)),
                    "input_mean": float(generator.normal(0.3 + shift, 0.1)),
                    "input_std": float(generator.normal(0.25, 0.02)),
                    "input_sketch": [float(value) for value in generator.normal(0, 1, 8)],
                    "latency_ms": float(slower * generator.lognormal(0, 0.3)),
                }
                for n in range(num)
            )
        )

    def look(self, hour):
        """Monitor the window that is this hour."""
        return monitor(self.services, "m", 60, POLICY, self.at(hour + 1) + timedelta(minutes=2))

    def sent(self, name):
        return [one for one in self.server.events.values() if one.event == name]
