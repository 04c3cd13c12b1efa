"""A plan across hosts, and what goes wrong on them; `python -m tests.hosts` prints the same as a table."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts import network
from tests.hosts.faults import FAULTS, WORKERS, reference, try_fault
from tests.hosts.plans import PLAN, outcome, stages
from tests.hosts.site import Site
from tests.postgres_server import why_missing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    pytest.importorskip("grpc", reason="needs `ray[client]`")
    if reason := network.why_missing() or why_missing():
        pytest.skip(reason)
    site = Site()
    yield site
    site.stop()


@pytest.fixture(scope="module")
def expected(site: Site) -> dict[str, Any]:
    return reference(site)


def test_a_plan_across_hosts_has_the_outcome_of_one_machine_and_says_where_its_stages_ran(site: Site) -> None:
    alone = site.run_plan(PLAN, "flow-2", "--no-rollout", **Site.EMBEDDED).finish()
    across = site.run_plan(PLAN).finish()

    assert outcome(across) == outcome(alone)
    assert {stage["host"] for stage in stages(alone)} == {"flow-2"}
    assert {stage["host"] for stage in stages(across)} <= set(WORKERS)
    assert across["rollout"]["verdict"] == "promote"
    tags = "SELECT DISTINCT value FROM tags WHERE key = 'stillhouse.host'"
    assert {host for (host,) in site.query("mlflow", tags)} <= set(WORKERS)


@pytest.mark.parametrize("name", FAULTS)
def test_a_run_completes_and_computes_nothing_twice_that_had_finished(
    site: Site, expected: dict[str, Any], name: str
) -> None:
    seen = try_fault(site, FAULTS[name], expected)
    assert seen.is_well, seen
