import json
import stat
from pathlib import Path

import pytest
from model_world import digest_of, run_json

from tasks.contracts.errors import UserError
from tasks.runtime.services import connect
from tasks.runtime.settings import current_settings


@pytest.fixture
def use_keys(run, monkeypatch):
    """Set the keys and forget the settings that the process has read before."""

    def use(signing=None, trusted=None):
        for name, value in (("SIGNING_KEY", signing), ("VERIFY_KEYS", trusted)):
            monkeypatch.setenv(f"STILLHOUSE_{name}", str(value)) if value else monkeypatch.delenv(
                f"STILLHOUSE_{name}", raising=False
            )
        current_settings.cache_clear()
        connect.cache_clear()

    return use


def signature_check(output):
    (check,) = [check for check in json.loads(output)["checks"] if check["name"] == "signature"]
    return check


def test_keygen_sign_and_verify_show_the_state_of_a_signature(run, use_keys, tmp_path):
    made = run_json(run, "model", "keygen", tmp_path / "signing.pem")
    assert made["public"] == str(tmp_path / "signing.pub.pem")
    assert stat.S_IMODE(Path(made["private"]).stat().st_mode) == 0o600

    use_keys(trusted=made["public"])
    code, output = run("model", "verify", "digits/3", "--json")
    assert (code, signature_check(output)["passed"]) == (1, False)
    assert signature_check(output)["detail"].startswith("unsigned: ")

    use_keys(signing=made["private"], trusted=made["public"])
    signed = run_json(run, "model", "sign", "digits/3")
    assert signed == {"name": "digits", "digest": digest_of(3), "key_id": made["key_id"]}
    code, output = run("model", "verify", "digits/3", "--json")
    assert signature_check(output)["detail"] == f"valid: {digest_of(3)[:12]} as digits, by key {made['key_id']}"

    use_keys()
    assert (
        f"signed by {made['key_id']}, unproved"
        in signature_check(run("model", "verify", "digits/3", "--json")[1])["detail"]
    )


def test_sign_refuses_without_a_key_and_for_a_bare_digest(run, use_keys):
    use_keys()
    with pytest.raises(UserError, match="keygen"):
        run("model", "sign", "digits/3")
    with pytest.raises(UserError, match="NAME@alias"):
        run("model", "sign", digest_of(3))
