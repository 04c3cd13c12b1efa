from pathlib import Path

import pytest

from tasks.adapters.s3_probe import probe_bucket
from tasks.contracts.errors import UserError
from tasks.contracts.object_place import ObjectPlace
from tasks.runtime.settings import Settings
from tests.adapters.s3_server import World


def test_probe_bucket_tells_versioning_and_encryption_and_leaves_nothing_of_its_own(s3: World, tmp_path: Path) -> None:
    place = s3.bucket().place
    settings = Settings(home=tmp_path, s3_endpoint=s3.server)
    client = s3.client

    first = probe_bucket(settings, place, "STILLHOUSE_STORE_URL")
    client.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": "Enabled"})
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    client.put_bucket_encryption(Bucket=place.bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    second = probe_bucket(settings, place, "STILLHOUSE_STORE_URL")

    assert (first.versioning, first.encryption) == ("off", "off")
    assert (second.versioning, second.encryption) == ("on", "AES256")
    listed = client.list_objects_v2(Bucket=place.bucket).get("Contents", ())
    assert not [item["Key"] for item in listed if "doctor" in item["Key"]]


def test_probe_bucket_names_the_setting_when_there_is_no_bucket(s3: World, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, s3_endpoint=s3.server)
    place = ObjectPlace.parse("s3://none-of-that-name/store", "STILLHOUSE_STORE_URL")

    with pytest.raises(UserError, match="STILLHOUSE_STORE_URL"):
        probe_bucket(settings, place, "STILLHOUSE_STORE_URL")
