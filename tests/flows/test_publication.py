import pytest

from flows import publication
from tasks.contracts.monitoring import DATA_PUBLISHED
from tasks.contracts.publication import PublishedData
from tests.stages.monitored_world import Server
from tests.stages.promotion_world import NOW, World


def test_announce_tells_once_of_a_version_even_when_the_event_server_was_away(
    tmp_path, monkeypatch: pytest.MonkeyPatch
):
    world, server = World.create(tmp_path), Server()
    object.__setattr__(world.services, "make_events", lambda: server)
    monkeypatch.setattr(publication, "connect", lambda: world.services)
    published = PublishedData(
        model_name="digits",
        origin="0" * 64,
        source={},
        revision="abc",
        base_revision="base",
        data_revision="1234.dir",
        num_rows=10,
        num_new={"train": 2},
        left_out={},
        published_at=NOW,
    )
    server.away = True
    publication.announce(published)
    assert server.events == {}
    server.away = False
    for _ in range(2):
        publication.announce(published)
    (event,) = server.events.values()
    assert event.event == DATA_PUBLISHED
    assert event.payload["revision"] == "1234.dir"
