import gc
import weakref

import pytest

from infra.gateway.batching import BatchPolicy
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.routing import RouteWatcher, RoutingTable
from infra.gateway.store import GatewayStore
from infra.gateway.watchdog import Watchdog
from tasks.contracts.artifact import artifact_key


@pytest.fixture
def table():
    return RoutingTable()


@pytest.fixture
def metrics():
    return GatewayMetrics()


@pytest.fixture
def watcher(site, table, metrics):
    return RouteWatcher(
        GatewayStore(site.store),
        table,
        Watchdog(1.0),
        metrics,
        replica="test",
        max_batch_rows=8,
        batching=BatchPolicy(),
        poll_interval_s=600,
        retry_interval_s=0.0,
        heartbeat_interval_s=600,
    )


def test_scan_serves_nothing_when_there_is_no_route(watcher, table):
    watcher.scan()
    assert table.scanned
    assert table.names() == []


def test_scan_serves_the_newest_route_and_acknowledges_it(watcher, table, site, models):
    champion, challenger = site.put(models.linear()), site.put(models.linear(2))
    site.route(champion)
    site.route(champion, challenger, weight=5)
    watcher.scan()
    served = table.get("digits")
    assert (served.version, served.champion.digest, served.challenger.digest) == (2, champion, challenger)
    acknowledgement = site.acknowledgement()
    assert (acknowledgement.route_version, acknowledgement.ready, acknowledgement.message) == (2, True, "")


def test_scan_keeps_loaded_models_when_only_the_weight_changes(watcher, table, site, models):
    champion, challenger = site.put(models.linear()), site.put(models.linear(2))
    site.route(champion, challenger, weight=5)
    watcher.scan()
    before = table.get("digits")
    site.route(champion, challenger, weight=25)
    watcher.scan()
    after = table.get("digits")
    assert after.route.weight == 25
    assert (after.champion, after.challenger) == (before.champion, before.challenger)


def test_scan_unloads_a_model_when_no_route_and_no_request_uses_it(watcher, table, site, models):
    first, second = site.put(models.linear()), site.put(models.linear(2))
    site.route(first)
    watcher.scan()
    in_flight = table.get("digits")
    loaded = weakref.ref(in_flight.champion)
    site.route(second)
    watcher.scan()
    gc.collect()
    assert loaded() is not None, "a request that runs keeps its model"
    del in_flight
    gc.collect()
    assert loaded() is None


def test_scan_serves_the_champion_alone_when_the_challenger_is_damaged(watcher, table, site, models):
    champion, challenger = site.put(models.linear()), site.put(models.linear(2))
    (site.store / artifact_key(challenger)).write_bytes(models.linear(3))
    site.route(champion, challenger, weight=50)
    watcher.scan()
    assert table.get("digits").champion.digest == champion
    assert table.get("digits").challenger is None
    assert not site.acknowledgement().ready
    assert "damaged" in site.acknowledgement().message


def test_scan_takes_the_challenger_when_its_artifact_arrives_later(watcher, table, site, models):
    champion, challenger = site.put(models.linear()), site.put(models.linear(2))
    blob = site.store / artifact_key(challenger)
    data = blob.read_bytes()
    blob.unlink()
    site.route(champion, challenger, weight=50)
    watcher.scan()
    assert "holds no artifact" in site.acknowledgement().message
    blob.write_bytes(data)
    watcher.scan()
    assert table.get("digits").challenger.digest == challenger
    assert site.acknowledgement().ready


def test_scan_keeps_what_is_served_when_the_new_champion_cannot_be_loaded(watcher, table, site, models):
    champion = site.put(models.linear())
    site.route(champion)
    watcher.scan()
    site.route("0" * 64)
    watcher.scan()
    assert (table.get("digits").version, table.get("digits").champion.digest) == (1, champion)
    acknowledgement = site.acknowledgement()
    assert (acknowledgement.route_version, acknowledgement.ready) == (2, False)


@pytest.mark.parametrize("document", [b"", b"{", b"{}", b'{"model_name": "other"}', b"\xff"])
def test_scan_keeps_what_is_served_when_the_route_is_not_valid(watcher, table, site, models, document):
    champion = site.put(models.linear())
    site.route(champion)
    watcher.scan()
    site.append_document(document)
    watcher.scan()
    assert table.get("digits").version == 1
    assert not site.acknowledgement().ready
    site.route(champion)
    watcher.scan()
    assert table.get("digits").version == 3
    assert site.acknowledgement().ready


def test_scan_waits_for_the_champion_when_it_never_was_there(watcher, table, site):
    site.route("0" * 64)
    watcher.scan()
    assert table.get("digits") is None
    assert table.waiting == {"digits"}


def test_scan_refuses_a_challenger_whose_outputs_differ(watcher, table, site, models):
    site.route(site.put(models.linear()), site.put(models.wide()), weight=5)
    watcher.scan()
    assert table.get("digits").challenger is None
    assert "outputs" in site.acknowledgement().message


def test_first_scan_warns_of_an_earlier_process_that_was_killed_and_later_ones_do_not(watcher, site, models, caplog):
    site.route(site.put(models.linear()))
    watcher.scan()
    watcher.scan()
    assert "did not end in order" not in caplog.text
    watcher._followed.clear()  # as in a process that was started after this one was killed
    watcher.scan()
    watcher.scan()
    assert caplog.text.count("an earlier process of the name test did not end in order") == 1


def test_stop_withdraws_the_acknowledgement(watcher, table, site, models, poll):
    site.route(site.put(models.linear()))
    watcher.start()
    poll(site.acknowledgement)
    watcher.stop()
    assert site.acknowledgement() is None


def test_scan_tells_prometheus_which_arms_are_ready_and_nothing_of_an_arm_that_no_route_names(
    watcher, metrics, site, models
):
    def ready(arm):
        return metrics.registry.get_sample_value("stillhouse_gateway_arm_ready", {"model": "digits", "arm": arm})

    champion = site.put(models.linear())
    seen = []
    for challenger in (None, "0" * 64, site.put(models.linear(2)), None):
        site.route(champion, challenger)
        watcher.scan()
        seen.append((ready("champion"), ready("challenger")))
    assert seen == [(1, None), (1, 0), (1, 1), (1, None)]
