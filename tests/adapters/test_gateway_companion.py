import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from infra.gateway.store import GatewayStore
from tasks.adapters.embedded_gateway import run_gateway
from tasks.adapters.gateway_companion import companion, keep_company, ship_once, shipping_state
from tasks.adapters.route_store import RouteStore
from tasks.contracts.errors import UserError
from tasks.contracts.route import Arm, ModelSignature, Route
from tasks.runtime.services import connect
from tasks.runtime.settings import Settings
from tests.adapters.s3_server import Fault
from tests.adapters.traffic_files import Segments

SIGNATURE = ModelSignature(task="classification", input_shape=(4,), input_dtype="float32", class_names=("a", "b"))


@pytest.fixture
def settings(s3, tmp_path, monkeypatch):
    for name, value in {
        "STILLHOUSE_HOME": str(tmp_path / "home"),
        "STILLHOUSE_STORE_URL": f"s3://{s3.name}/store",
        "STILLHOUSE_TRAFFIC_URL": f"s3://{s3.name}/traffic",
        "STILLHOUSE_S3_ENDPOINT": s3.proxy.url,
    }.items():
        monkeypatch.setenv(name, value)
    return Settings()


def publish(services, name="digits", model=b"a model"):
    digest = services.artifacts.put(model).digest
    routes = RouteStore(services.documents, services.acknowledgements)
    routes.publish(Route(model_name=name, signature=SIGNATURE, champion=Arm(digest=digest, version=1)), 0)
    return routes


def log(settings, name):
    """Write a segment as a gateway does: into the folder of this hour, whole or not at all."""
    made = Segments(settings.home / "made" / name, "digits").predictions({"request_id": name, "at": datetime.now(UTC)})
    place = settings.traffic_root / made.relative_to(settings.home / "made" / name).with_stem(name)
    place.parent.mkdir(parents=True, exist_ok=True)
    made.rename(place)


def eventually(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


@contextmanager
def kept(settings):
    """A companion in a thread of this process."""
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=keep_company, args=(settings, stop), kwargs={"poll_s": 0.02, "ship_s": 0.02, "on_ready": ready.set}
    )
    thread.start()
    try:
        assert ready.wait(60)
        yield
    finally:
        stop.set()
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_the_composition_root_takes_store_and_log_from_the_settings(settings):
    services = connect(settings)
    publish(services)
    assert services.artifacts.get(services.artifacts.put(b"a model").digest) == b"a model"
    assert settings.store_address == settings.store_url
    assert services.traffic.place == settings.traffic_url
    assert not settings.store_root.exists()


def test_routes_come_and_the_log_goes_while_it_is_kept(settings):
    services = connect(settings)
    publish(services)
    with kept(settings):
        assert GatewayStore(settings.store_root).latest_route("digits", 0)[0] == 1
        log(settings, "a")
        eventually(lambda: services.traffic.models() == ["digits"])
        log(settings, "last")
    assert shipping_state(settings).shipped_rows == 2
    assert shipping_state(settings).waiting_segments == 0


def test_a_second_companion_of_a_folder_stands_by_and_a_shipment_by_hand_is_refused(settings):
    publish(connect(settings))
    with kept(settings):
        with kept(settings):
            pass
        with pytest.raises(UserError, match="ships"):
            ship_once(settings, 10**9)
    log(settings, "a")
    assert ship_once(settings, 10**9).shipped_rows == 1


def test_it_outlives_a_server_that_is_away(settings, s3, caplog):
    publish(connect(settings))
    s3.proxy.fault = lambda method, path: Fault(status=503)
    with kept(settings):
        s3.proxy.fault = lambda method, path: None
        eventually(lambda: GatewayStore(settings.store_root).routed_models() == ["digits"])
    assert "not followed yet" in caplog.text


def test_it_has_nothing_to_do_where_nothing_lies_in_s3(tmp_path):
    with pytest.raises(UserError, match="STILLHOUSE_STORE_URL"):
        keep_company(Settings(home=tmp_path), threading.Event())
    with pytest.raises(UserError, match="STILLHOUSE_TRAFFIC_URL"):
        ship_once(Settings(home=tmp_path), 10**9)
    assert shipping_state(Settings(home=tmp_path)) is None
    with companion(Settings(home=tmp_path)):
        pass


@pytest.mark.slow
def test_a_gateway_serves_from_s3_and_is_heard_of_there(settings, tmp_path):
    services = connect(settings)
    routes = publish(services, model=b"no model at all")
    command = (sys.executable, "-m", "infra.gateway")
    messages = tmp_path / "log"
    told = tmp_path / "companion.log"
    with companion(settings, 0.2, told), run_gateway(command, settings.store_root, settings.traffic_root, messages):
        (heard,) = eventually(lambda: routes.live("digits"), 60.0)
        assert (heard.route_version, heard.ready) == (1, False)
    assert routes.acknowledgements("digits") == []
    assert "route 1 of digits is here" in told.read_text()


@pytest.mark.slow
def test_settings_that_the_companion_refuses_end_the_block_before_it_begins(settings, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_STORE_URL", "s3://no-such-bucket-here/store")
    with pytest.raises(UserError, match="refused"), companion(Settings()):
        pytest.fail("the block must not begin")
