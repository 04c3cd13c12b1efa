"""A process that wants one stage, by Prefect's own transactions; run as a program.

It says `computing` and waits for a line before it is done, or `cached`; and what became of its transaction.
"""

import sys

from prefect.results import ResultStore
from prefect.serializers import JSONSerializer
from prefect.transactions import IsolationLevel, transaction

from tasks.adapters import lease_locks
from tasks.runtime.caching import StageLocks, StageRecords

KEY = "compress/abc"


def say(what):
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def main():
    lease_locks.LEASE_S = 3.0
    name = sys.argv[1]
    store = ResultStore(result_storage=StageRecords(), serializer=JSONSerializer(), lock_manager=StageLocks())
    say("ready")
    with transaction(key=KEY, store=store, isolation_level=IsolationLevel.SERIALIZABLE) as stage:
        if stage.is_committed():
            say(f"cached {stage.read().result['by']}")
            return
        say("computing")
        sys.stdin.readline()
        stage.stage({"by": name})
    say(stage.state.name)


if __name__ == "__main__":
    main()
