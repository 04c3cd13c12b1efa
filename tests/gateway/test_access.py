import hashlib
import json
import logging

import pytest

from infra.gateway.access import Access, TokensError
from infra.gateway.errors import RequestError

TOKENS = {"infer": "caller", "feedback": "labeller", "admin": "operator"}


def digest(token):
    return hashlib.sha256(token.encode()).hexdigest()


def held(**tokens):
    return json.dumps({role: [digest(token)] for role, token in tokens.items()})


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "tokens.json"
    file.write_text(held(**TOKENS))
    return file


def asked(access, token, role="infer", scheme="Bearer"):
    """The status that a request meets: 0 if it passes."""
    headers = [(b"host", b"g")] + ([(b"authorization", f"{scheme} {token}".encode())] if token is not None else [])
    try:
        access.check(headers, role)
    except RequestError as error:
        refusal = error
    else:
        return 0
    assert dict(refusal.headers)[b"www-authenticate"].startswith(b"Bearer realm=")
    assert not token or token not in refusal.message
    return refusal.status


@pytest.mark.parametrize(
    ("token", "role", "status"),
    [
        ("caller", "infer", 0),
        ("caller", "feedback", 403),
        ("caller", "admin", 403),
        ("labeller", "feedback", 0),
        ("labeller", "infer", 403),
        ("operator", "infer", 0),
        ("operator", "feedback", 0),
        ("operator", "admin", 0),
        (None, "infer", 401),
        ("", "infer", 401),
        ("nobody", "infer", 401),
        ("caller2", "infer", 401),
        (digest("caller"), "infer", 401),
    ],
)
def test_check_lets_pass_only_the_tokens_of_the_role_and_of_admin(path, token, role, status):
    assert asked(Access(path), token, role) == status


def test_check_takes_the_scheme_in_any_case_and_no_other(path):
    access = Access(path)
    assert asked(access, "caller", scheme="bearer") == asked(access, " caller ") == 0
    assert asked(access, "caller", scheme="Basic") == 401


def test_the_same_token_may_have_two_roles_and_the_file_be_yaml(tmp_path):
    file = tmp_path / "tokens.yaml"
    file.write_text(
        f"infer:\n  - {digest('shop-1')}  # the shop\n  - {digest('shop-2')}\nfeedback: [{digest('shop-1')}]\n"
    )
    access = Access(file)
    assert [asked(access, "shop-1", role) for role in ("infer", "feedback")] == [0, 0]
    assert [asked(access, "shop-2", role) for role in ("infer", "feedback")] == [0, 403]


SECRET = "hunter2-is-no-digest"
BROKEN = {
    "neither": "{infer: [",
    "a secret instead of a digest": json.dumps({"infer": [SECRET]}),
    "upper case": json.dumps({"infer": [digest("a").upper()]}),
    "an unknown role": json.dumps({"root": [digest("a")]}),
    "no list": json.dumps({"infer": digest("a")}),
    "a list": json.dumps([digest("a")]),
    "nothing": "",
    "no token": json.dumps({"infer": []}),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_refused_at_start_and_its_values_are_not_repeated(tmp_path, text):
    file = tmp_path / "tokens.json"
    file.write_text(text)
    with pytest.raises(TokensError, match=r"tokens\.json") as refusal:
        Access(file)
    assert "SHA-256" in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_a_missing_file_is_refused_at_start(tmp_path):
    with pytest.raises(TokensError, match="No such file"):
        Access(tmp_path / "none.json")


def test_reload_takes_the_new_tokens_as_a_whole(path):
    access = Access(path)
    path.write_text(held(infer="new"))
    access.reload()
    assert [asked(access, "new"), asked(access, "caller"), asked(access, "operator")] == [0, 401, 401]


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_reload_keeps_the_old_tokens_and_says_so_when_the_file_is_broken(path, text, caplog):
    access = Access(path)
    path.write_text(text)
    with caplog.at_level(logging.ERROR):
        access.reload()
    assert "stay as they were" in caplog.text
    assert SECRET not in caplog.text
    assert asked(access, "caller") == 0


def test_check_follows_the_file_when_it_changed_and_reports_a_missing_one_once(path, caplog, monkeypatch):
    monkeypatch.setattr("infra.gateway.access._CHECK_INTERVAL_S", 0.0)
    access = Access(path)
    path.write_text(held(infer="other", admin="root"))
    assert [asked(access, "other"), asked(access, "caller")] == [0, 401]
    path.unlink()
    assert [asked(access, "other") for _ in range(5)] == [0] * 5
    assert caplog.text.count("stay as they were") == 1
    path.write_text(held(infer="third"))
    assert [asked(access, "third"), asked(access, "other")] == [0, 401]


def test_check_looks_at_the_file_once_a_second_at_most(path, monkeypatch):
    access = Access(path)
    monkeypatch.setattr("infra.gateway.access._stamp", lambda _: pytest.fail("looked too soon"))
    assert asked(access, "caller") == 0
