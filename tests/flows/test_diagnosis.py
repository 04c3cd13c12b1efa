from pathlib import Path

import pytest
from pydantic import SecretStr

from flows import diagnosis
from tasks.adapters.signing_keys import make_key_pair
from tasks.contracts.errors import ServiceUnavailableError, UserError
from tasks.runtime.services import connect
from tasks.runtime.settings import Settings


@pytest.mark.parametrize(
    "error", [ServiceUnavailableError("no answer"), UserError("wrong"), FileNotFoundError(2, "No such file", "/x")]
)
def test_a_check_that_breaks_is_a_finding_and_hides_no_other(error: Exception) -> None:
    def check(_services: object) -> diagnosis.Finding:
        raise error

    found = diagnosis._guarded("disk", check, connect())

    assert (found.name, found.state, found.detail) == ("disk", "broken", str(error))
    assert found.remedy


def test_an_address_that_does_not_answer_is_broken_and_names_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    found = diagnosis._prefect(connect())

    assert found.state == "broken"
    assert "http://127.0.0.1:9/api/health does not answer" in found.detail
    assert "PREFECT_API_URL" in found.remedy


def test_a_gateway_that_is_not_there_is_a_note_since_a_run_starts_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.runtime.settings import current_settings

    monkeypatch.setenv("STILLHOUSE_GATEWAY_URL", "http://127.0.0.1:9")
    current_settings.cache_clear()
    connect.cache_clear()

    found = diagnosis._gateway(connect())
    assert found.state == "note"
    assert "starts one" in found.remedy


def test_signing_tells_a_key_that_nobody_trusts_before_a_run_fails_by_it(tmp_path: Path) -> None:
    own = make_key_pair(tmp_path / "own.pem", tmp_path / "own.pub.pem")
    other = make_key_pair(tmp_path / "other.pem", tmp_path / "other.pub.pem")
    key = SecretStr(str(tmp_path / "own.pem"))

    def found(signing: SecretStr | None, trusted: str | None) -> diagnosis.Finding:
        keys = tmp_path / trusted if trusted else None
        return diagnosis._signing(connect(Settings(home=tmp_path, signing_key=signing, verify_keys=keys)))

    assert (found(None, None).state, found(key, None).state) == ("note", "ok")
    assert found(key, "own.pub.pem").detail == f"key {own} signs and is trusted"
    assert (found(None, "own.pub.pem").state, found(key, "other.pub.pem").state) == ("note", "broken")
    assert other in found(key, "other.pub.pem").detail
