import asyncio
import socket

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families

from infra.gateway.exposition import Exposition


def registry_with(count):
    registry = CollectorRegistry()
    Counter("rows", "Rows.", ["model"], registry=registry).labels("digits").inc(count)
    Histogram("seconds", "Time.", buckets=[0.1], registry=registry).observe(0.05)
    return registry


def samples(page):
    found = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            labels = (sample.name, *sorted(sample.labels.items()))
            assert labels not in found, "a series stands on a page once"
            found[labels] = sample.value
    return found


async def page_beside(folder, others):
    """The page of worker `a`, which counted 1, beside other processes' sockets: (name, how it answers)."""
    servers = []
    for name, answer in others.items():
        servers.append(await asyncio.start_unix_server(answer, folder / f"{name}.sock"))
    own = Exposition(registry_with(1), "a", folder)
    await own.start()
    page = await own.page()
    await own.close()
    for server in servers:
        server.close()
    return page


async def test_a_gateway_on_a_port_of_its_own_gives_its_series_as_they_are():
    alone = Exposition(registry_with(1), "a", None)
    await alone.start()
    assert samples(await alone.page())["rows_total", ("model", "digits")] == 1
    await alone.close()


async def test_series_of_all_workers_stand_on_the_page_each_under_its_name(tmp_path):
    other = Exposition(registry_with(20), "b", tmp_path)
    page = samples(await page_beside(tmp_path, {"other": other._give}))
    assert page["rows_total", ("model", "digits"), ("worker", "a")] == 1
    assert page["rows_total", ("model", "digits"), ("worker", "b")] == 20
    assert page["seconds_bucket", ("le", "0.1"), ("worker", "b")] == 1


async def test_the_joined_page_names_every_family_once(tmp_path):
    other = Exposition(registry_with(20), "b", tmp_path)
    lines = (await page_beside(tmp_path, {"other": other._give})).decode().splitlines()
    assert lines.count("# TYPE rows_total counter") == 1
    assert lines.count("# TYPE seconds histogram") == 1


async def test_a_worker_that_hangs_or_died_is_left_out(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("infra.gateway.exposition._ANSWERED_WITHIN_S", 0.05)
    released = asyncio.Event()

    async def hang(_, writer):
        await released.wait()
        writer.close()

    killed = socket.socket(socket.AF_UNIX)
    killed.bind(str(tmp_path / "killed.sock"))
    killed.close()  # as a process that was killed leaves it
    page = samples(await page_beside(tmp_path, {"hanging": hang}))
    released.set()
    assert {dict(labels[1:]).get("worker") for labels in page} == {"a"}
    assert not (tmp_path / "killed.sock").exists()
    assert "hanging.sock does not say what it counted: no answer in time" in caplog.text


async def test_a_worker_that_ends_takes_its_socket_away(tmp_path):
    own = Exposition(registry_with(1), "a", tmp_path)
    await own.start()
    assert list(tmp_path.iterdir()) != []
    await own.close()
    assert list(tmp_path.iterdir()) == []
