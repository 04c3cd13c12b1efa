import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.contracts.errors import DocumentConflictError, InfrastructureError
from tasks.runtime.documents import record_document
from tasks.runtime.embedded import running_services, services_file
from tasks.runtime.services import connect
from tasks.runtime.settings import Settings

ADDRESSES = {"gateway": "http://127.0.0.1:8080"}


@pytest.fixture
def settings(home: Path) -> Settings:
    home.mkdir(parents=True)
    return Settings()


def write(settings: Settings, pid: int) -> None:
    services_file(settings).write_text(json.dumps({"pid": pid, "addresses": ADDRESSES}))


def test_running_services_are_those_of_a_process_that_lives(settings: Settings) -> None:
    assert running_services(settings) == {}
    write(settings, os.getpid())
    assert running_services(settings) == ADDRESSES


def test_running_services_are_none_when_their_process_was_killed(settings: Settings) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write(settings, ended.pid)

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
