import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tasks.contracts.errors import UserError
from tasks.contracts.signing import ModelSignatureDocument, SignedStatement
from tasks.decisions.signatures import SignatureState, judge_signatures, key_id_of, parse_public_keys

DIGEST = "ab" * 32
STATEMENT = SignedStatement(model_name="digits", digest=DIGEST)
KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
ID, OTHER_ID = key_id_of(KEY.public_key()), key_id_of(OTHER.public_key())
TRUSTED = {ID: KEY.public_key()}


def signed(key=KEY, statement=STATEMENT, **changes):
    values = {"key_id": key_id_of(key.public_key()), "signature": key.sign(statement.signed_bytes()).hex()} | changes
    return ModelSignatureDocument(statement=statement, **values).canonical_json()


def pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def state(documents, statement=STATEMENT, trusted=TRUSTED):
    return judge_signatures(statement, documents, trusted).state


def test_a_signature_is_the_same_today_as_when_models_were_signed_first():
    document = json.loads(signed())

    assert document["key_id"] == "34750f98bd59fcfc"
    assert document["signature"] == GOLDEN
    assert state({ID: signed()}) is SignatureState.VALID


def test_judge_signatures_refuses_when_any_byte_of_the_document_is_changed():
    document = signed()
    for position in range(len(document)):
        for flipped in (1, 32, 128):  # another digit, another case, another plane
            changed = bytearray(document)
            changed[position] ^= flipped
            assert state({ID: bytes(changed)}) is SignatureState.WRONG, (position, flipped, bytes(changed))


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_judge_signatures_refuses_when_the_document_is_cut(length):
    assert state({ID: signed()[:length]}) is SignatureState.WRONG


@pytest.mark.parametrize(
    "statement",
    [
        SignedStatement(model_name="letters", digest=DIGEST),
        SignedStatement(model_name="digits", digest="ac" + DIGEST[2:]),
    ],
)
def test_judge_signatures_refuses_when_it_was_made_for_another_name_or_artifact(statement):
    verdict = judge_signatures(STATEMENT, {ID: signed(statement=statement)}, TRUSTED)

    assert verdict.state is SignatureState.WRONG
    assert f"it is of {statement.digest[:12]} as {statement.model_name}" in verdict.detail


def test_judge_signatures_refuses_when_the_statement_was_exchanged_after_signing():
    other = SignedStatement(model_name="letters", digest=DIGEST)
    forged = json.loads(signed(statement=other)) | {"statement": STATEMENT.model_dump()}

    assert state({ID: json.dumps(forged).encode()}) is SignatureState.WRONG


def test_judge_signatures_refuses_bytes_that_were_signed_for_another_purpose():
    without_context = KEY.sign(STATEMENT.canonical_json()).hex()

    assert state({ID: signed(signature=without_context)}) is SignatureState.WRONG


def test_judge_signatures_refuses_when_another_key_poses_as_the_trusted_one():
    assert state({ID: signed(OTHER)}) is SignatureState.WRONG
    assert state({ID: signed(OTHER, key_id=ID)}) is SignatureState.WRONG


def test_judge_signatures_tells_unsigned_from_signed_by_a_stranger():
    assert state({}) is SignatureState.UNSIGNED
    verdict = judge_signatures(STATEMENT, {OTHER_ID: signed(OTHER)}, TRUSTED)
    assert verdict.state is SignatureState.UNKNOWN_KEY
    assert OTHER_ID in verdict.detail
    assert ID in verdict.detail


def test_judge_signatures_accepts_old_and_new_while_keys_rotate():
    both = TRUSTED | {OTHER_ID: OTHER.public_key()}
    old, new = {ID: signed()}, {OTHER_ID: signed(OTHER)}

    assert state(old, trusted=both) is state(new, trusted=both) is SignatureState.VALID
    assert state(old, trusted={OTHER_ID: OTHER.public_key()}) is SignatureState.UNKNOWN_KEY
    assert state(old | new, trusted={OTHER_ID: OTHER.public_key()}) is SignatureState.VALID
    assert state(old | {OTHER_ID: b"damaged"}, trusted=both) is SignatureState.VALID


def test_parse_public_keys_reads_several_files_and_several_keys_in_one():
    assert set(parse_public_keys({"a": pem(KEY) + pem(OTHER)})) == {ID, OTHER_ID}
    assert set(parse_public_keys({"a": pem(KEY), "b": pem(OTHER)})) == {ID, OTHER_ID}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there is no verification key"),
        ({"a.pem": b""}, "a.pem does not hold PEM public keys"),
        ({"a.pem": pem(KEY) + b"more"}, "nothing else"),
        ({"a.pem": pem(KEY).replace(b"MC", b"XX")}, "damaged"),
        ({"a.pem": pem(generate_private_key(SECP256R1()))}, "Ed25519"),
    ],
)
def test_parse_public_keys_refuses_what_is_no_ed25519_key(files, message):
    with pytest.raises(UserError, match=message):
        parse_public_keys(files)


GOLDEN = (
    "14a9f4600010b4a7ebdec23f2ffac11923054698719a950258899708bc96a2d5"
    "4f587a83ceea759fde4190a5c3cf65f82cc1464d193fa048a0e536b0a175c608"
)
