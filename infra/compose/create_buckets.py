"""Make the buckets that are named and missing: `python create_buckets.py NAME ...`; credentials as boto3 finds them."""

import sys

import boto3
from botocore.exceptions import ClientError


def create_missing(names: list[str]) -> list[str]:
    """Create what is missing and return its names.

    Raises:
        ClientError: S3 refuses; a bucket that is there already is no error.
    """
    client = boto3.client("s3")
    made = []
    for name in names:
        try:
            client.head_bucket(Bucket=name)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            client.create_bucket(Bucket=name)
            made.append(name)
    return made


if __name__ == "__main__":
    sys.stdout.write(f"created: {', '.join(create_missing(sys.argv[1:])) or 'nothing, all are there'}\n")
