from pathlib import Path

import pytest

from tasks.contracts.errors import DocumentConflictError, InfrastructureError
from tasks.runtime.documents import record_document
from tasks.runtime.embedded import running_services
from tasks.runtime.processes import ProcessId, myself
from tasks.runtime.service_state import ServicesState, ServiceState, services_file, write_state
from tasks.runtime.services import connect
from tasks.runtime.settings import Settings


@pytest.fixture
def settings(home: Path) -> Settings:
    home.mkdir(parents=True)
    return Settings()


def write(settings: Settings, supervisor: ProcessId, *, ready: bool = True) -> None:
    gateway = ServiceState(
        name="gateway", process=supervisor, address="http://127.0.0.1:8080", page="", log="", stop_signal=15,
        stop_within_s=1.0, mark="",
    )  # fmt: skip
    write_state(settings, ServicesState(supervisor=supervisor, ready=ready, services=(gateway,)))


def test_running_services_are_those_of_a_process_that_lives_once_all_are_ready(settings: Settings) -> None:
    assert running_services(settings) == {}
    write(settings, myself(), ready=False)
    assert running_services(settings) == {}
    write(settings, myself())
    assert running_services(settings) == {"gateway": "http://127.0.0.1:8080"}


def test_running_services_are_none_when_another_process_has_the_number_of_theirs(settings: Settings) -> None:
    write(settings, myself().model_copy(update={"started": "in another life"}))

    assert running_services(settings) == {}


def test_running_services_names_the_file_when_it_is_damaged(settings: Settings) -> None:
    services_file(settings).write_text('{"pid"')

    with pytest.raises(InfrastructureError, match=r"services\.json is damaged"):
        running_services(settings)


def test_record_document_writes_a_version_only_when_something_changed() -> None:
    documents = connect().documents

    versions = [record_document(documents, "a/b", data).version for data in (b"1", b"1", b"2")]
    assert versions == [1, 1, 2]


def test_record_document_looks_again_when_another_writer_was_between() -> None:
    real = connect().documents

    class Raced:
        raced = False

        def latest(self, name):
            return real.latest(name)

        def append(self, name, data, expected_version):
            if not self.raced:
                self.raced = True
                real.append(name, b"theirs", expected_version)
                with pytest.raises(DocumentConflictError):
                    real.append(name, data, expected_version)
            return real.append(name, data, expected_version)

    assert record_document(Raced(), "a/b", b"ours").version == 2
