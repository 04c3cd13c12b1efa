import pytest

from infra.gateway.errors import RequestError
from infra.gateway.protocol.identifiers import MAX_ID_LENGTH, check_identifier, new_id, request_id_of


def test_check_identifier_gives_back_what_may_stand_in_a_header():
    assert check_identifier("user 7/é"[:7], "the key") == "user 7/"
    assert check_identifier("x" * MAX_ID_LENGTH, "the key") == "x" * MAX_ID_LENGTH


@pytest.mark.parametrize("value", ["", "x" * (MAX_ID_LENGTH + 1), "é", "a\nb", "a\x00", "\x7f", 7, None, b"a", ["a"]])
def test_check_identifier_refuses_with_the_name_of_what_is_wrong(value):
    with pytest.raises(RequestError, match="the key must be") as refusal:
        check_identifier(value, "the key")
    assert refusal.value.status == 400


def test_request_id_of_makes_one_up_when_none_is_given():
    assert request_id_of({"id": "mine"}) == "mine"
    made = {request_id_of({}), request_id_of({"id": None}), new_id()}
    assert len(made) == 3
    assert {len(name) for name in made} == {32}
