"""Removes objects, on the host of the S3 server: `python -m tests.hosts.forget BUCKET PREFIX ...`."""

import sys

from tasks.adapters.s3_connection import S3Options, make_client


def main(bucket: str, prefixes: list[str]) -> None:
    """Remove every object whose key begins with one of the prefixes."""
    client = make_client(S3Options(endpoint="http://control:9001"))
    for prefix in prefixes:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", ()):
                client.delete_object(Bucket=bucket, Key=item["Key"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
