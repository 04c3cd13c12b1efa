import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from tasks.adapters.signing_keys import load_signing_key, load_verify_keys, make_key_pair
from tasks.contracts.errors import UserError
from tasks.decisions.signatures import key_id_of


@pytest.fixture
def pair(tmp_path):
    private, public = tmp_path / "keys" / "signing.pem", tmp_path / "trusted" / "a.pem"
    return private, public, make_key_pair(private, public)


def test_make_key_pair_writes_a_private_key_for_its_owner_alone_and_its_public_half(pair):
    private, public, key_id = pair

    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert key_id_of(load_signing_key(str(private)).public_key()) == key_id
    assert set(load_verify_keys(public)) == {key_id}


@pytest.mark.parametrize("taken", [0, 1])
def test_make_key_pair_never_replaces_a_key(pair, tmp_path, taken):
    paths = [tmp_path / "new.pem", tmp_path / "new.pub.pem"]
    paths[taken] = pair[taken]
    before = pair[taken].read_bytes()

    with pytest.raises(UserError, match="exists"):
        make_key_pair(*paths)
    assert pair[taken].read_bytes() == before
    assert not paths[1 - taken].exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o660])
def test_load_signing_key_refuses_when_others_may_read_the_file(pair, mode):
    pair[0].chmod(mode)

    with pytest.raises(UserError, match=f"open to others \\(mode {mode:03o}\\); close it with `chmod 600"):
        load_signing_key(str(pair[0]))


def test_load_signing_key_takes_the_text_of_a_key_with_real_or_written_line_ends(pair):
    text = pair[0].read_text()

    for given in (text, text.replace("\n", "\\n")):
        assert key_id_of(load_signing_key(given).public_key()) == pair[2]


def test_load_signing_key_names_the_file_when_there_is_none(tmp_path):
    with pytest.raises(UserError, match=r"none\.pem \(STILLHOUSE_SIGNING_KEY\): No such file"):
        load_signing_key(str(tmp_path / "none.pem"))


def test_load_signing_key_shows_nothing_of_a_key_that_it_cannot_use(pair):
    text = pair[0].read_text()
    damaged = text.replace(text.splitlines()[1][:20], "A" * 20)
    locked = load_signing_key(text).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    rsa = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    for given, message in ((damaged, "no PEM private key"), (locked.decode(), "password"), (rsa.decode(), "Ed25519")):
        with pytest.raises(UserError, match=message) as caught:
            load_signing_key(given)
        assert given.splitlines()[1] not in str(caught.value)
        assert caught.value.__cause__ is None


def test_load_verify_keys_reads_every_pem_of_a_folder(pair, tmp_path):
    second = make_key_pair(tmp_path / "second.pem", tmp_path / "trusted" / "b.pem")
    (tmp_path / "trusted" / "README").write_text("notes")

    assert set(load_verify_keys(tmp_path / "trusted")) == {pair[2], second}


def test_load_verify_keys_refuses_an_empty_folder_and_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="no verification key"):
        load_verify_keys(tmp_path)
    with pytest.raises(UserError, match="STILLHOUSE_VERIFY_KEYS"):
        load_verify_keys(tmp_path / "none.pem")
