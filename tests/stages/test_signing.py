import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

sys.path.insert(0, str(Path(__file__).parent))
from promotion_world import NOW, World

from tasks.adapters.signing_keys import make_key_pair
from tasks.contracts.errors import ArtifactMissingError, ModelError, UserError
from tasks.contracts.signing import signature_document, signature_folder
from tasks.decisions.signatures import SignatureState
from tasks.stages.promoting import bootstrap, rollback
from tasks.stages.signing import require_signature, sign, sign_if_configured, signature_verdict, signed_by


def with_keys(world, signing=None, trusted=None):
    settings = world.services.settings.model_copy(
        update={"signing_key": SecretStr(str(signing)) if signing else None, "verify_keys": trusted}
    )
    return World(world.root, replace(world.services, settings=settings))


@pytest.fixture
def keys(tmp_path):
    """Private keys 1 and 2, and a folder that trusts the first."""
    ids = {
        number: make_key_pair(tmp_path / f"{number}.pem", tmp_path / f"public-{number}" / "key.pem")
        for number in (1, 2)
    }
    return ids, tmp_path


@pytest.fixture
def world(tmp_path, keys):
    world = World.create(tmp_path)
    for version in (1, 2, 3):
        world.services.artifacts.put(f"model {version}".encode())
    return with_keys(world, tmp_path / "1.pem", tmp_path / "public-1")


def test_sign_writes_one_document_however_often_it_is_called(world, keys):
    assert {sign(world.services, "digits", world.digest(1)) for _ in range(3)} == {keys[0][1]}

    names = world.services.documents.names("signatures/")
    assert names == [signature_document("digits", world.digest(1), keys[0][1])]
    assert world.services.documents.latest(names[0]).version == 1
    assert signature_verdict(world.services, "digits", world.digest(1)).trusted


def test_sign_refuses_without_a_key_or_without_the_artifact(world):
    with pytest.raises(ArtifactMissingError):
        sign(world.services, "digits", "0" * 64)
    keyless = with_keys(world).services
    with pytest.raises(UserError, match="STILLHOUSE_SIGNING_KEY"):
        sign(keyless, "digits", world.digest(1))
    assert sign_if_configured(keyless.settings, keyless.documents, "digits", world.digest(1)) is None
    assert world.services.documents.names("signatures/") == []


def test_signature_verdict_does_not_carry_over_to_another_name(world):
    sign(world.services, "digits", world.digest(1))

    assert signature_verdict(world.services, "letters", world.digest(1)).state is SignatureState.UNSIGNED
    # copied by hand below the other name, it still says what it was made for
    document = world.services.documents.latest(world.services.documents.names("signatures/")[0])
    key_id = signed_by(world.services, "digits", world.digest(1))[0]
    world.services.documents.append(signature_document("letters", world.digest(1), key_id), document.data, 0)
    assert signature_verdict(world.services, "letters", world.digest(1)).state is SignatureState.WRONG


def test_rotation_signs_beside_the_old_signature_and_ends_when_the_old_key_is_trusted_no_more(world, keys):
    ids, folder = keys
    sign(world.services, "digits", world.digest(1))
    rotated = with_keys(world, folder / "2.pem", folder / "public-2")

    assert signature_verdict(rotated.services, "digits", world.digest(1)).state is SignatureState.UNKNOWN_KEY
    sign(rotated.services, "digits", world.digest(1))

    assert signed_by(rotated.services, "digits", world.digest(1)) == sorted(ids.values())
    assert signature_verdict(rotated.services, "digits", world.digest(1)).key_id == ids[2]
    assert signature_verdict(world.services, "digits", world.digest(1)).key_id == ids[1]


def test_promotion_and_bootstrap_refuse_before_the_ledger_moves_when_a_version_is_not_signed(world):
    with pytest.raises(ModelError, match="not signed"):
        bootstrap(world.services, "digits", 1, "flow", "first", NOW)
    assert world.state() == {"ledger": [], "aliases": {}, "route": None}

    sign(world.services, "digits", world.digest(1))
    bootstrap(world.services, "digits", 1, "flow", "first", NOW)
    with pytest.raises(ModelError, match="no gateway that verifies signatures would serve it"):
        world.promote(2)
    assert world.state()["ledger"] == [1]

    sign(world.services, "digits", world.digest(2))
    world.promote(2)
    assert world.state() == {"ledger": [1, 2], "aliases": {"champion": 2, "previous": 1}, "route": (2, None)}


def test_rollback_refuses_when_the_earlier_champions_key_is_trusted_no_more(world, keys):
    for version in (1, 2):
        sign(world.services, "digits", world.digest(version))
    bootstrap(world.services, "digits", 1, "flow", "first", NOW)
    world.promote(2)
    rotated = with_keys(world, keys[1] / "2.pem", keys[1] / "public-2")

    with pytest.raises(ModelError, match="stillhouse model sign"):
        rollback(rotated.services, "digits", "ann", "slow", NOW)
    sign(rotated.services, "digits", world.digest(1))
    assert rollback(rotated.services, "digits", "ann", "slow", NOW).version == 1


def test_require_signature_asks_nothing_when_no_keys_are_configured(world):
    require_signature(with_keys(world).services, "digits", world.digest(1))


def test_require_signature_refuses_when_the_trusted_keys_are_gone(world, tmp_path):
    sign(world.services, "digits", world.digest(1))
    (tmp_path / "public-1" / "key.pem").unlink()

    with pytest.raises(UserError, match="no verification key"):
        require_signature(world.services, "digits", world.digest(1))


def test_signature_folder_of_a_killed_writer_counts_as_unsigned(world):
    folder = world.root / "documents" / signature_folder("digits", world.digest(1)) / ("0" * 16)
    folder.mkdir(parents=True)
    (folder / ".staged-1").write_bytes(b"half")

    assert signature_verdict(world.services, "digits", world.digest(1)).state is SignatureState.UNSIGNED
