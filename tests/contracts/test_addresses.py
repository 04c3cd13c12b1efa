import pytest

from tasks.contracts.addresses import apart, secrets_of, shown, without_secrets


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://ann:secret@host:5000/x", "http://ann:***@host:5000/x"),
        ("postgresql://ann:a%40b@host/db", "postgresql://ann:***@host/db"),
        ("postgresql://ann:a@b/c@host/db", "postgresql://ann:***@host/db"),
        ("postgresql://host/db?user=ann&password=secret&sslmode=require",
         "postgresql://host/db?user=ann&password=***&sslmode=require"),
        ("https://bucket/key?X-Amz-Credential=a&X-Amz-Signature=b&X-Amz-Expires=1",
         "https://bucket/key?X-Amz-Credential=***&X-Amz-Signature=***&X-Amz-Expires=1"),
        ("sqlite:////home/ann/mlflow.db", "sqlite:////home/ann/mlflow.db"),
        ("http://host:5000", "http://host:5000"),
        ("http://host:5000/models:a@champion", "http://host:5000/models:a@champion"),
        ("models:/digits@champion", "models:/digits@champion"),
    ],
)  # fmt: skip
def test_shown_hides_passwords_and_nothing_else(address: str, expected: str) -> None:
    assert shown(address) == expected


def test_without_secrets_removes_a_password_as_it_is_written_and_decoded() -> None:
    address = "http://ann:a%40b%2Fc@host/"

    assert secrets_of(address) == ["a%40b%2Fc", "a@b/c"]
    assert without_secrets("no a%40b%2Fc, and no a@b/c", address) == "no ***, and no ***"
    assert without_secrets("http://host is away", "http://host") == "http://host is away"


def test_apart_gives_a_client_the_credentials_beside_the_address() -> None:
    assert apart("https://ann:a%40b@host:8443/v2?x=1") == ("https://host:8443/v2?x=1", ("ann", "a@b"))
    assert apart("http://host:8080") == ("http://host:8080", None)
