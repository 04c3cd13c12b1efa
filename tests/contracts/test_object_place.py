import pytest

from tasks.contracts.errors import UserError
from tasks.contracts.object_place import ObjectPlace
from tasks.runtime.settings import Settings


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://my.bucket-1/a/b=c_d", "my.bucket-1", "a/b=c_d/"),
        ("s3://bucket/a/", "bucket", "a/"),
    ],
)
def test_parse_reads_bucket_and_prefix(url, bucket, prefix):
    place = ObjectPlace.parse(url, "SETTING")
    assert (place.bucket, place.prefix) == (bucket, prefix)
    assert place.url == url.rstrip("/")


@pytest.mark.parametrize("url", ["bucket/a", "s3:/b/a", "s3://B/a", "s3://bucket//a", "s3://bucket/a b", "s3://", "/x"])
def test_parse_names_the_setting_and_the_form_when_it_is_another(url):
    with pytest.raises(UserError, match=r"SETTING=.*s3://BUCKET/PREFIX"):
        ObjectPlace.parse(url, "SETTING")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"store": "s3://bucket/a"}, "STILLHOUSE_STORE_URL"),
        ({"store_url": "s3://Bucket"}, "names no place"),
        ({"store_url": "s3://bucket/a", "traffic_url": "s3://bucket/a/"}, "must differ"),
        ({"s3_kms_key": "key"}, "aws:kms"),
    ],
)
def test_settings_refuse_what_cannot_be_meant(tmp_path, fields, told):
    with pytest.raises(ValueError, match=told):
        Settings(home=tmp_path, **fields)
