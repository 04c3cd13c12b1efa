"""What is read of a real server, and what doctor makes of it."""

from pathlib import Path

import pytest

from flows.diagnosis.orchestration import judge_automations, judge_deployments, judge_schedules, judge_workers
from flows.diagnosis.wanted import wanted_deployments
from tasks.adapters.prefect_state import read_prefect_state
from tasks.contracts.errors import ServiceUnavailableError
from tests.flows.prefect_world import ROOT, prefect_server


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_prefect_yaml_deploys_is_found_again_as_it_says(tmp_path: Path) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    wanted = wanted_deployments(ROOT)
    with prefect_server(tmp_path) as server, temporary_settings({PREFECT_API_URL: server.address}):
        assert judge_workers(read_prefect_state(server.address), wanted).state == "broken"
        for pool in ("cpu", "gpu"):
            server.command("work-pool", "create", pool, "--type", "process")
        server.command("deploy", "--all")

        state = read_prefect_state(server.address)

    assert state.pools["cpu"].type == "process"
    assert state.pools["cpu"].workers == ()
    assert set(state.deployments) == {one.name for one in wanted}
    assert judge_deployments(state, wanted).state == "ok", judge_deployments(state, wanted)
    assert judge_schedules(state, wanted).state in ("ok", "note")
    found = judge_automations(state, wanted)
    assert (found.state, "stillhouse notify" in found.remedy) == ("note", True), found
    idle = judge_workers(state, wanted)
    remedy = "`prefect worker start --pool cpu`; `prefect worker start --pool gpu`"
    assert (idle.state, idle.remedy) == ("broken", remedy)


def test_a_server_that_is_away_is_named_without_its_password() -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    address = "http://ann:secret@127.0.0.1:9/api"
    with (
        temporary_settings({PREFECT_API_URL: address, PREFECT_CLIENT_MAX_RETRIES: 0}),
        pytest.raises(ServiceUnavailableError, match="PREFECT_API_URL") as caught,
    ):
        read_prefect_state(address)

    assert "secret" not in str(caught.value)
