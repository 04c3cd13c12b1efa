"""The gateway's logs and their retention, killed at every call that changes a file; run as a program.

    python log_kills.py table OPERATION FOLDER [CALL ...]

prints what was left after each kill and what a later process made of it. With names of calls, only points at those
are tried. `prepare` and `run` instead of `table` do what their names say, and kill nothing.
"""

import json
import os
import shutil
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas  # noqa: F401 - or every child would import it
import pyarrow.acero
import pyarrow.compute  # noqa: F401
import pyarrow.parquet as pq

from infra.gateway import telemetry
from infra.gateway.durable import ABANDONED_AFTER_S, STAGED
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.records import FeedbackRecord, PredictionRecord, feedback_table, prediction_table
from infra.gateway.sampling import InputRecord, input_table
from infra.gateway.telemetry import SegmentWriter
from tasks.adapters.sampled_inputs import read_labelled_inputs
from tasks.adapters.traffic import TrafficLog
from tasks.adapters.traffic_retention import prune_model
from tasks.contracts.route import Arm, ModelSignature, Route
from tasks.decisions.log_retention import Limits
from tests.adapters.traffic_files import NOON, Segments
from tests.kill_points import Points, answer_of, as_path, killed_at, make_files_mortal

SIGNATURE = ModelSignature(task="classification", input_shape=(4,), input_dtype="float32", class_names=("a", "b", "c"))
MODELS = ("m", "n")
TURNS = 2
REQUESTS = 3
ROWS = 2
KEEP_FROM = NOON - timedelta(hours=1)
AT = 1_700_000_000_000_000
STARTED_NS = time.time_ns()
"""All of a table writes into the folder of one hour, and the names of its segments are taken again and again."""


class Told:
    """Tells, through a pipe that outlives this process, which rows the log has counted as written."""

    def __init__(self, descriptor):
        self._descriptor = descriptor

    def __call__(self, log, turn):
        os.write(self._descriptor, f"{json.dumps([log, turn])}\n".encode())


def request_ids(turn):
    return [f"{turn}-{number}" for number in range(REQUESTS)]


def records_of(log, turn):
    """What one turn logs: the same requests for each model."""
    made = []
    for name in MODELS if log == "predictions" else MODELS[:1]:
        route = Route(model_name=name, signature=SIGNATURE, champion=Arm(digest="a" * 64, version=1))
        for number, request_id in enumerate(request_ids(turn)):
            x = np.full((ROWS, 4), number, np.float32)
            if log == "predictions":
                outputs = np.eye(3, dtype=np.float32)[[number % 3] * ROWS]
                arms = "champion", "champion"
                made.append(PredictionRecord(route, 1, request_id, AT, *arms, False, 1.0, "", x, outputs))
            elif log == "feedback":
                made.append(FeedbackRecord(name, request_id, AT, [float(row) for row in range(ROWS)]))
            else:
                made.append(InputRecord(name, request_id, AT, x))
    return made


TABLES = {"predictions": prediction_table, "feedback": feedback_table, "inputs": input_table}


def write(root, turns, told, logs=tuple(TABLES)):
    """Log some turns, one log after the other, and wait each time until its rows are counted as written."""
    counter = GatewayMetrics().log_rows
    writers = {}
    for log in logs:
        rows = sum(record.num_rows for record in records_of(log, 0))
        writers[log] = SegmentWriter(
            root, log, "r1", TABLES[log], counter, flush_rows=rows, flush_interval_s=600, buffer_bytes=10**7
        )
        writers[log].start()
    for turn in turns:
        for log, writer in writers.items():
            before = counted(counter, log, "written")
            records = records_of(log, turn)
            for record in records:
                writer.append(record)
            while counted(counter, log, "written") < before + sum(record.num_rows for record in records):
                assert counted(counter, log, "lost") == 0
                time.sleep(0.001)
            told(log, turn)
    for writer in writers.values():
        writer.close()


def counted(counter, log, outcome):
    return counter.labels(log, outcome)._value.get()


def seen(root):
    """Every row that the readers find, with how often, and what no reader looks at."""
    traffic, found = TrafficLog(root), {}
    for name in MODELS:
        for log, read in (("predictions", traffic.predictions), ("feedback", traffic.feedback)):
            rows = Counter((row["request_id"], row["row"]) for row in read(name).to_pylist())
            found[f"{name}/{log}"] = [[*row, times] for row, times in sorted(rows.items())]
        labelled = read_labelled_inputs(root, name, SIGNATURE)
        found[f"{name}/inputs"] = [labelled.ambiguous, len(labelled.x) + labelled.unlabelled, raw_inputs(root, name)]
    left = sorted(path.name[: len(STAGED)] for path in root.rglob(".*"))
    return {"rows": found, "left": left}


def raw_inputs(root, name):
    return sum(pq.read_metadata(path).num_rows for path in root.glob(f"{name}/inputs/*/*.parquet"))


def go_on(root):
    """The gateway's next start, which logs one more turn; long after the kill, so that what it left is old."""
    old = time.time() - ABANDONED_AFTER_S - 60
    for path in root.rglob(f"{STAGED}*"):
        os.utime(path, (old, old))
    write(root, [TURNS], lambda log, turn: None)
    return seen(root)


def old_hours(root):
    log = Segments(root)
    for hours in range(0, 8, 2):
        at = NOON - timedelta(hours=hours)
        for part in range(2):
            log.predictions({"request_id": f"{hours}-{part}", "at": at})
            log.feedback((f"{hours}-{part}", 0, 1.0, at))


def prune(root):
    prune_model(root, "m", Limits(KEEP_FROM, "the test says so"))


def hours(root):
    """Rows by log and hour, as readers find them; a segment that is not whole raises."""
    traffic, found = TrafficLog(root), {}
    for log, read in (("predictions", traffic.predictions), ("feedback", traffic.feedback)):
        at = Counter(str(row["at"])[11:13] for row in read("m").to_pylist())
        found[log] = dict(sorted(at.items()))
    return {"hours": found, "left": sorted(path.name[:10] for path in (root / "m").glob(".*"))}


def mortal(root, die_at, work):
    points = Points(die_at)
    make_files_mortal(points, root)
    work()
    return points.names


def kill_table(start, work, look, heal, calls):
    """Kill `work` at each point in turn; return, for each, what it was told, what was left, and how it healed."""
    alive = copied(start, "alive")
    names = answer_of(lambda: mortal(alive, 0, lambda: work(alive, lambda *_: None)))
    table = []
    for number, name in enumerate(names, start=1):
        if not calls or name.split()[1] in calls:
            table.append({"point": name} | killed(copied(start, "killed"), number, work, look, heal))
    return {"points": table, "names": names, "end": answer_of(lambda: look(alive))}


def killed(root, number, work, look, heal):
    reading, writing = os.pipe()
    killed_at(lambda: mortal(root, number, lambda: work(root, Told(writing))))
    os.close(writing)
    with open(reading) as told:
        heard = [json.loads(line) for line in told]
    outcome = {"told": heard, "left": answer_of(lambda: look(root)), "healed": answer_of(lambda: heal(root))}
    shutil.rmtree(root)
    return outcome


def copied(start, name):
    return Path(shutil.copytree(start, start.with_name(name)))


def healed_hours(root):
    prune(root)
    return hours(root)


OPERATIONS = {
    "write": (lambda root: None, lambda root, told: write(root, range(TURNS), told), seen, go_on),
    "write-labels": (
        lambda root: None,
        lambda root, told: write(root, range(1), told, ("feedback",)),
        seen,
        go_on,
    ),
    "prune": (old_hours, lambda root, told: prune(root), hours, healed_hours),
}


if __name__ == "__main__":
    task, operation, folder, *chosen = sys.argv[1:]
    start = as_path(folder) / "start"
    prepare, work, look, heal = OPERATIONS[operation]
    telemetry.time.time_ns = lambda: STARTED_NS
    if task != "run":
        start.mkdir()
        answer_of(lambda: prepare(start))
    outcome = kill_table(start, work, look, heal, chosen) if task == "table" else None
    if task == "run":
        work(start, lambda *_: None)
    sys.stdout.write(json.dumps(outcome))
