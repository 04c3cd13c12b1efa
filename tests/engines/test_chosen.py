import os
import socket

import pytest

from infra.engines import chosen
from infra.engines.chosen import Options, chosen_cluster, chosen_services, deployment, with_ports
from tasks.contracts.errors import UserError
from tasks.runtime.settings import Settings

LEDGER = "postgresql+psycopg://ledger:a-secret@db.internal/ledger"


def names(settings, **options):
    return [one.name for one in chosen_services(settings, Options(**options), None)]


def test_mlflow_is_served_from_here_unless_a_server_is_named(tmp_path):
    assert names(Settings(home=tmp_path)) == ["prefect_api", "mlflow", "gateway"]
    elsewhere = Settings(home=tmp_path, tracking_url="http://mlflow.internal:5000")
    assert names(elsewhere) == ["prefect_api", "gateway"]


def test_workers_serve_the_pool_of_gpus_where_there_are_some(tmp_path, monkeypatch):
    settings = Settings(home=tmp_path)
    monkeypatch.setattr(chosen, "visible_gpus", list)
    assert names(settings, worker=True)[3:] == ["worker"]
    monkeypatch.setattr(chosen, "visible_gpus", lambda: ["0", "1"])
    services = chosen_services(settings, Options(worker=True), None)[3:]
    pools = {one.name: one.command[one.command.index("--pool") + 1] for one in services}
    assert pools == {"worker": "cpu", "worker-gpu": "gpu"}


def test_no_secret_is_an_argument_and_flows_alone_get_those_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_LEDGER_URL", LEDGER)
    settings = Settings(home=tmp_path, tracking_url="postgresql+psycopg://mlflow:a-secret@db.internal/mlflow")
    for service in chosen_services(settings, Options(worker=True), None):
        assert "a-secret" not in " ".join(service.command)
        assert ("STILLHOUSE_LEDGER_URL" in service.environment) == service.name.startswith("worker")


def test_mlflow_keeps_artifacts_in_the_bucket_and_is_told_where_it_is(tmp_path):
    settings = Settings(home=tmp_path, bucket_url="s3://models/team", s3_endpoint="http://127.0.0.1:9")
    mlflow = next(one for one in chosen_services(settings, Options(), None) if one.name == "mlflow")
    assert mlflow.command[-1] == "s3://models/team/mlflow"
    assert mlflow.environment["MLFLOW_S3_ENDPOINT_URL"] == "http://127.0.0.1:9"


def test_with_ports_gives_free_ones_for_0_and_names_the_option_when_one_is_taken(tmp_path):
    settings = Settings(home=tmp_path)
    found = with_ports(Options(0, 0, 0), settings)
    assert len({found.prefect_port, found.mlflow_port, found.gateway_port, 0}) == 4
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} .*choose another with --mlflow-port"):
            with_ports(Options(0, port, 0), settings)
        elsewhere = Settings(home=tmp_path, tracking_url="http://mlflow.internal:5000")
        assert with_ports(Options(0, port, 0), elsewhere).mlflow_port == port


def test_a_worker_is_refused_when_there_is_nothing_to_deploy(tmp_path):
    settings = Settings(home=tmp_path, project=tmp_path)
    with pytest.raises(UserError, match=r"no prefect\.yaml.*--worker"):
        deployment(settings, "http://127.0.0.1:4200/api")
    (tmp_path / "prefect.yaml").touch()
    command, folder, environment = deployment(settings, "http://127.0.0.1:4200/api")
    assert (command[-1], folder) == ("process", tmp_path)
    assert environment["STILLHOUSE_PROJECT"] == str(tmp_path)


def test_postgres_elsewhere_must_hold_what_mlflow_and_prefect_keep(tmp_path, monkeypatch):
    settings = Settings(home=tmp_path, ledger_url=LEDGER)
    assert chosen_cluster(settings, Options()) is None
    with pytest.raises(UserError, match=r"STILLHOUSE_TRACKING_URL=.*PREFECT_SERVER_DATABASE_CONNECTION_URL=") as told:
        chosen_cluster(settings, Options(postgres=True))
    assert "a-secret" not in str(told.value)
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "postgresql+asyncpg://prefect@db.internal/prefect")
    complete = Settings(home=tmp_path, ledger_url=LEDGER, tracking_url="http://mlflow.internal:5000")
    assert chosen_cluster(complete, Options(postgres=True)) is None
    with pytest.raises(UserError, match="another kind of database"):
        chosen_cluster(Settings(home=tmp_path, ledger_url="sqlite:///x.db"), Options(postgres=True))


def test_postgres_of_the_home_is_refused_when_state_would_be_left_behind_or_the_user_is_root(tmp_path, monkeypatch):
    pytest.importorskip("psycopg")
    settings = Settings(home=tmp_path)
    assert chosen_cluster(settings, Options()) is None
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(UserError, match="refuses to run as root"):
        chosen_cluster(settings, Options(postgres=True))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(UserError, match=r"keeps its state in SQLite \(.*mlflow\.db\)"):
        chosen_cluster(settings, Options(postgres=True))
