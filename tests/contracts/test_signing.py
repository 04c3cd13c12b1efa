import pytest
from pydantic import ValidationError

from tasks.contracts.artifact import document_key
from tasks.contracts.signing import (
    ModelSignatureDocument,
    SignedStatement,
    signature_document,
    signature_folder,
)

DIGEST = "ab" * 32


def test_signed_bytes_are_a_context_and_the_canonical_form():
    signed = SignedStatement(model_name="digits", digest=DIGEST).signed_bytes()

    assert signed == (
        b'stillhouse model signature\x00{"digest":"' + DIGEST.encode() + b'","model_name":"digits","version":1}'
    )


def test_signature_document_lies_below_the_folder_of_its_artifact():
    name = signature_document("digits", DIGEST, "0123456789abcdef")

    assert name == f"{signature_folder('digits', DIGEST)}/0123456789abcdef"
    assert document_key(name, 1) == f"documents/signatures/digits/{DIGEST}/0123456789abcdef/00000001.json"


@pytest.mark.parametrize("change", [{"signature": "AB" * 64}, {"signature": "ab" * 63}, {"key_id": "../../etc/passwd"}])
def test_a_signature_document_has_one_form_only(change):
    values = {
        "statement": SignedStatement(model_name="digits", digest=DIGEST), "key_id": "0123456789abcdef",
        "signature": "ab" * 64,
    }  # fmt: skip
    ModelSignatureDocument(**values)

    with pytest.raises(ValidationError):
        ModelSignatureDocument(**(values | change))
