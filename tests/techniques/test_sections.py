import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.techniques.sections import joined, parted


def together(facts: dict[str, Any], sections: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    return facts, sections


@given(sections=st.lists(st.binary()), facts=st.dictionaries(st.text(), st.integers() | st.text()))
def test_parted_gives_back_what_was_joined(sections: list[bytes], facts: dict[str, Any]) -> None:
    assert parted("a/1", joined("a/1", facts, sections), together) == (facts, sections)


def test_layout_is_the_documented_one() -> None:
    header = b'{"format": "a/1", "lengths": [2, 0], "facts": {"n": 1}}'
    assert joined("a/1", {"n": 1}, [b"xy", b""]) == len(header).to_bytes(8, "little") + header + b"xy"


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"z", lambda data: data[9:]])
def test_parted_gives_nothing_and_says_so_when_bytes_are_missing_or_too_many(
    change: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data = change(joined("a/1", {"n": 1}, [b"xy", b"z"]))
    with caplog.at_level(logging.WARNING):
        assert parted("a/1", data, together) is None
    assert "starts anew" in caplog.text


def test_parted_names_both_forms_when_the_bytes_are_of_another(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert parted("b/2", joined("a/1", {}, []), together) is None
    assert "'a/1' instead of 'b/2'" in caplog.text


def test_parted_gives_nothing_when_the_facts_are_not_understood(caplog: pytest.LogCaptureFixture) -> None:
    def read(facts: dict[str, Any], _: list[bytes]) -> int:
        return int(facts["absent"])

    with caplog.at_level(logging.WARNING):
        assert parted("a/1", joined("a/1", {}, []), read) is None
    assert "absent" in caplog.text
