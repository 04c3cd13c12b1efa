import pytest

from infra.gateway.errors import RequestError
from infra.gateway.protocol.documents import flag, load_object, may_hold_booleans, parameters_of


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"null", b'"x"', b"{", b'{"a": NaN}', b"\xff", b"{}{}"])
def test_load_object_refuses_what_is_no_json_object(body):
    with pytest.raises(RequestError) as refusal:
        load_object(body)
    assert refusal.value.status == 400


def test_may_hold_booleans_is_true_whenever_one_is_there():
    assert may_hold_booleans(b'{"data":[true]}')
    assert may_hold_booleans(b'{"data":[false]}')
    assert not may_hold_booleans(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1e5]}]}')
    assert not may_hold_booleans(b'{"id":"request-1","parameters":{"binary_data_size":4},"title":"false alarm"}'[:60])


def test_parameters_of_takes_none_as_empty_and_refuses_other_types():
    assert parameters_of({}) == parameters_of({"parameters": None}) == {}
    assert parameters_of({"parameters": {"a": 1}}) == {"a": 1}
    for wrong in ([], "a", 1, True):
        with pytest.raises(RequestError):
            parameters_of({"parameters": wrong})


def test_flag_is_the_default_when_it_is_not_given_and_never_a_truthy_value():
    assert flag({}, "f", default=True)
    assert not flag({"f": False}, "f", default=True)
    for wrong in (1, "true", None, []):
        with pytest.raises(RequestError, match="'f' must be true or false"):
            flag({"f": wrong}, "f")
