import logging

import pytest
from pydantic import SecretStr

from infra.gateway.batching import BatchPolicy
from infra.gateway.config import GatewayConfig
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.routing import RouteWatcher, RoutingTable
from infra.gateway.signatures import SignatureVerifier
from infra.gateway.store import GatewayStore
from infra.gateway.watchdog import Watchdog
from tasks.adapters.local_store import LocalDocuments
from tasks.adapters.signing_keys import make_key_pair
from tasks.contracts.artifact import artifact_key
from tasks.runtime.settings import Settings
from tasks.stages.signing import sign_if_configured


@pytest.fixture
def table():
    return RoutingTable()


@pytest.fixture
def keys(tmp_path):
    """Two private keys; the folder `trusted` holds the first one's public half."""
    (tmp_path / "aside").mkdir()
    make_key_pair(tmp_path / "first.pem", tmp_path / "trusted" / "first.pem")
    make_key_pair(tmp_path / "second.pem", tmp_path / "aside" / "second.pem")
    return tmp_path


@pytest.fixture
def sign(site, keys):
    def sign_model(digest, key="first", name="digits"):
        settings = Settings(home=keys, signing_key=SecretStr(str(keys / f"{key}.pem")))
        return sign_if_configured(settings, LocalDocuments(site.store), name, digest)

    return sign_model


@pytest.fixture
def watcher(site, table, keys):
    store = GatewayStore(site.store)
    return RouteWatcher(
        store, table, Watchdog(1.0), GatewayMetrics(), replica="test", max_batch_rows=8,
        batching=BatchPolicy(), poll_interval_s=600,
        retry_interval_s=0.0, heartbeat_interval_s=600, verifier=SignatureVerifier(store, keys / "trusted"),
    )  # fmt: skip


def test_scan_serves_signed_models(watcher, table, site, models, sign):
    champion, challenger = site.put(models.linear()), site.put(models.linear(2))
    sign(champion), sign(challenger)
    site.route(champion, challenger, weight=5)

    watcher.scan()

    served = table.get("digits")
    assert (served.champion.digest, served.challenger.digest) == (champion, challenger)
    assert site.acknowledgement().ready


def refused_unsigned(sign, digest, keys, site):
    return "is not signed"


def refused_other_name(sign, digest, keys, site):
    sign(digest, name="letters")
    return "is not signed"


def refused_unknown_key(sign, digest, keys, site):
    return f"signed by {sign(digest, key='second')}, none of the trusted keys"


def refused_damaged(sign, digest, keys, site):
    key_id = sign(digest)
    (document,) = (site.store / "documents" / "signatures" / "digits" / digest / key_id).glob("*.json")
    document.write_bytes(document.read_bytes().replace(b'"signature":"', b'"signature":"0')[:-3] + b'"}')
    return "is wrong"


def refused_without_keys(sign, digest, keys, site):
    sign(digest)
    (keys / "trusted" / "first.pem").unlink()
    return "no verification key"


@pytest.mark.parametrize(
    "prepare", [refused_unsigned, refused_other_name, refused_unknown_key, refused_damaged, refused_without_keys]
)
def test_scan_keeps_the_old_route_and_says_why_when_the_new_champion_is_not_trusted(
    watcher, table, site, models, sign, keys, caplog, prepare
):
    champion, newer = site.put(models.linear()), site.put(models.linear(2))
    sign(champion)
    site.route(champion)
    watcher.scan()
    message = prepare(sign, newer, keys, site)
    site.route(newer)

    with caplog.at_level(logging.ERROR):
        watcher.scan()

    assert (table.get("digits").version, table.get("digits").champion.digest) == (1, champion)
    acknowledgement = site.acknowledgement()
    assert (acknowledgement.route_version, acknowledgement.ready) == (2, False)
    assert message in acknowledgement.message
    assert message in caplog.text


def test_scan_serves_the_champion_alone_until_the_challenger_is_signed(watcher, table, site, models, sign):
    champion, challenger = site.put(models.linear()), site.put(models.linear(2))
    sign(champion)
    site.route(champion, challenger, weight=50)
    watcher.scan()
    assert table.get("digits").challenger is None
    assert "signature refused" in site.acknowledgement().message

    sign(challenger)
    watcher.scan()
    assert table.get("digits").challenger.digest == challenger
    assert site.acknowledgement().ready


def test_scan_follows_a_rotation_of_keys_without_a_restart(watcher, table, site, models, sign, keys):
    first, second = site.put(models.linear()), site.put(models.linear(2))
    sign(first)
    site.route(first)
    watcher.scan()
    sign(second, key="second")
    site.route(second)
    watcher.scan()
    assert table.get("digits").champion.digest == first

    (keys / "aside" / "second.pem").rename(keys / "trusted" / "second.pem")
    watcher.scan()
    assert table.get("digits").champion.digest == second


def test_scan_refuses_a_loaded_model_under_a_name_that_it_is_not_signed_for(watcher, table, site, models, sign):
    digest = site.put(models.linear())
    sign(digest)
    site.route(digest)
    watcher.scan()
    site.name = "letters"
    site.route(digest)
    watcher.scan()

    assert table.get("digits").champion.digest == digest
    assert table.get("letters") is None


def test_scan_refuses_signed_models_whose_bytes_are_others(watcher, table, site, models, sign):
    digest = site.put(models.linear())
    sign(digest)
    (site.store / artifact_key(digest)).write_bytes(models.linear(3))
    site.route(digest)

    watcher.scan()

    assert table.get("digits") is None
    assert "damaged" in site.acknowledgement().message


def test_config_takes_the_verification_keys_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_VERIFY_KEYS", str(tmp_path / "a" / ".." / "keys"))

    assert GatewayConfig.from_environment().verify_keys == tmp_path / "keys"
    monkeypatch.delenv("STILLHOUSE_VERIFY_KEYS")
    assert GatewayConfig.from_environment().verify_keys is None


def test_gateway_answers_only_for_a_signed_model(start, site, models, sign, keys, poll):
    digest = site.put(models.linear())
    site.route(digest)
    gateway = start(verify_keys=keys / "trusted", retry_interval_s=0.01)
    assert not site.wait_for(1).ready
    assert gateway.http.get("/v2/models/digits/ready").status_code != 200

    sign(digest)
    poll(lambda: gateway.http.get("/v2/models/digits/ready").is_success)
