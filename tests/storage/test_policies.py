"""Each role's policy allows what the role's code asks of S3, seen on the wire, and nothing more."""

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tasks.adapters import dvc
from tasks.adapters.locks import FileLocks
from tasks.adapters.mlflow_connection import connection
from tasks.adapters.mlflow_tracking import MlflowTracker
from tasks.adapters.route_store import RouteStore
from tasks.adapters.s3_bucket import Bucket
from tasks.adapters.s3_store import (
    S3Acknowledgements,
    S3Artifacts,
    S3Checkpoints,
    S3Documents,
    S3Files,
    S3Records,
)
from tasks.adapters.s3_traffic import S3Traffic
from tasks.adapters.store_mirror import StoreMirror
from tasks.adapters.traffic_shipping import TrafficShipper
from tasks.contracts.object_place import ObjectPlace
from tasks.contracts.route import Arm, ModelSignature, Route, RouteAcknowledgement
from tasks.contracts.signing import signature_document
from tasks.decisions.log_retention import Limits
from tasks.runtime.settings import Settings
from tasks.stages.collecting import collect_garbage
from tests.adapters.conftest import s3, s3_servers, s3_world  # noqa: F401 - fixtures
from tests.adapters.s3_server import CREDENTIALS, World
from tests.adapters.traffic_files import NOON, Segments

FILES = Path(__file__).parents[2] / "infra" / "storage"
SIGNATURE = ModelSignature(task="regression", input_shape=(4,), input_dtype="float32", class_names=())
PREFIXES = {
    "worker": "store|traffic|dvc",
    "gateway": "store|traffic",
    "housekeeping": "store|traffic",
    "mlflow": "mlflow",
}
"""Which prefixes of the bucket a role may know of."""


def policy(name):
    return json.loads((FILES / f"{name}.json").read_text())["Statement"]


def listed(value):
    return value if isinstance(value, list) else [value]


def matching(statements, action, resource, prefix):
    """The (statement, resource) pairs that allow one request. Only what the files use of IAM is understood."""
    found = set()
    for statement in statements:
        assert statement["Effect"] == "Allow"
        conditions = dict(statement.get("Condition", {}))
        patterns = conditions.pop("StringLikeIfExists", {}).get("s3:prefix", ["*"])
        assert conditions == {}
        if action not in listed(statement["Action"]):
            continue
        if prefix is not None and not any(fnmatchcase(prefix, pattern) for pattern in patterns):
            continue
        for pattern in listed(statement["Resource"]):
            if fnmatchcase(resource, pattern):
                found.add((statement["Sid"], action, pattern))
    return found


def asked(bucket, method, path):
    """What IAM calls a request: action, resource and listed prefix."""
    parts = urlsplit(path)
    query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    key = unquote(parts.path).removeprefix(f"/{bucket}").lstrip("/")
    if not key and "delete" in query:  # keys stand in the body; MLflow alone removes several at once
        return "s3:DeleteObject", "arn:aws:s3:::BUCKET/stillhouse/mlflow/run/artifacts/plan.yaml", None
    if not key:
        assert (method, query.get("list-type")) == ("GET", "2")
        return "s3:ListBucket", "arn:aws:s3:::BUCKET", query.get("prefix", "")
    if method == "DELETE" and "uploadId" in query:
        action = "s3:AbortMultipartUpload"
    else:
        action = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "POST": "s3:PutObject",
                  "DELETE": "s3:DeleteObject"}[method]  # fmt: skip
    return action, f"arn:aws:s3:::BUCKET/{key}", None


def opener(s3):  # noqa: F811
    """Open the bucket below one prefix."""

    def open_bucket(part):
        place = ObjectPlace.parse(f"s3://{s3.name}/stillhouse/{part}", "A_SETTING")
        return Bucket(place, s3.options(), "A_SETTING")

    return open_bucket


def work(buckets, root):
    """All that a worker does with the store, and with the log."""
    bucket = buckets("store")
    artifacts, documents = S3Artifacts(bucket), S3Documents(bucket)
    digest = artifacts.put(b"a model").digest
    artifacts.put(bytes(20 * 2**20))
    artifacts.put(b"a model")
    artifacts.get(digest)
    S3Files(bucket).touch(f"stages/none-{digest}.json")
    bucket.touch(f"sha256/{digest[:2]}/{digest[2:4]}/{digest}")
    documents.append("runs/a", b"{}", 0)
    documents.append("runs/a", b"{}", 1)
    documents.latest("runs/a")
    documents.names("runs/")
    records, checkpoints = S3Records(bucket), S3Checkpoints(bucket)
    records.write("train/a", b"{}")
    records.read("train/a")
    bucket.touch("stages/train/a.json")
    checkpoints.save("train/a", b"weights")
    checkpoints.load("train/a")
    checkpoints.clear("train/a")
    routes = RouteStore(documents, S3Acknowledgements(bucket))
    routes.publish(Route(model_name="m", signature=SIGNATURE, champion=Arm(digest=digest, version=1)), 0)
    documents.append(signature_document("m", digest, "0" * 16), b"{}", 0)
    routes.acknowledgements("m")
    traffic = S3Traffic(buckets("traffic"), root / "copy")
    traffic.folder("m")
    traffic.folder()


def version_data(s3, root):  # noqa: F811
    """Push a version of the data, and get it in another checkout."""
    settings = one_bucket(s3, root / "a")
    (settings.project / "data").mkdir(parents=True)
    (settings.project / "data" / "rows.csv").write_text("1,2")
    locks = FileLocks(root / "locks")
    revision = dvc.add(settings, locks).revision
    assert dvc.push(settings, locks).remote == f"s3://{s3.name}/stillhouse/dvc"
    assert dvc.status(settings, ask_remote=True).remote_has_it
    other = one_bucket(s3, root / "b")
    other.project.mkdir(parents=True)
    (other.project / "data.dvc").write_bytes((settings.project / "data.dvc").read_bytes())
    assert dvc.ensure_data(other, locks, pytest.fail) == revision


def track(s3, root):  # noqa: F811
    """All that MLflow does with artifacts for us: written and read beside a run, and removed by `mlflow gc`."""
    settings = one_bucket(s3, root)
    tracker, client = MlflowTracker(settings), connection(settings).client
    run = tracker.parent_run("m", "flow", "run", {})
    tracker.finish_parent(run, {}, {}, {"plan.yaml": b"name: m", "large.bin": bytes(20 * 2**20)}, "FINISHED")
    assert client.get_run(run).info.artifact_uri.startswith(f"s3://{s3.name}/stillhouse/mlflow/")
    assert {one.path for one in client.list_artifacts(run)} == {"plan.yaml", "large.bin"}
    assert Path(client.download_artifacts(run, "plan.yaml", str(root))).read_bytes() == b"name: m"
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(client.get_run(run).info.artifact_uri).delete_artifacts()


def one_bucket(s3, root):  # noqa: F811
    """Settings that name one place for everything."""
    return Settings(
        home=root / "home",
        project=root / "project",
        bucket_url=f"s3://{s3.name}/stillhouse",
        s3_endpoint=s3.proxy.url,
    )


def serve(buckets, root):
    """All that the companion of a gateway does."""
    Segments(root / "traffic").predictions({"request_id": "a", "at": NOON})
    TrafficShipper(buckets("traffic"), root / "traffic", max_waiting_bytes=10**9).ship()
    mirror = StoreMirror(buckets("store"), root / "store")
    heard = RouteAcknowledgement(model_name="m", replica="g", route_version=1, ready=True, at=NOON.isoformat())
    path = root / "store" / "acknowledgements" / "m" / "g.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(heard.canonical_json())
    mirror.follow()
    assert (root / "store" / "documents" / "routes" / "m" / "00000001.json").exists()
    path.unlink()
    mirror.follow()


def keep_house(buckets, root):
    """Garbage collection, twice, and pruning of the log."""
    bucket = buckets("store")
    services = SimpleNamespace(
        settings=SimpleNamespace(baselines=root / "none"),
        artifacts=S3Artifacts(bucket),
        documents=S3Documents(bucket),
        records=S3Records(bucket),
        files=S3Files(bucket),
        locks=FileLocks(root / "locks"),
        host_locks=FileLocks(root / "host-locks"),
        ledger=SimpleNamespace(digests=set),
        registry=SimpleNamespace(names=list),
    )
    from datetime import UTC, datetime, timedelta

    bucket.write("checkpoints/abandoned", b"weights")
    for days in (10, 12):
        collect_garbage(services, 2.0, datetime.now(UTC) + timedelta(days=days), dry_run=False)
    S3Traffic(buckets("traffic"), root / "copy").prune("m", Limits(NOON + timedelta(days=9), "all"))


@pytest.fixture(scope="module")
def s3_of_roles(s3_servers):  # noqa: F811
    """One bucket for all roles, which work in it one after the other."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL"):
            patch.setenv(name, "")  # so that what MLflow's connection sets ends with the tests
            patch.delenv(name)
        yield World(*s3_servers("moto"), "moto")


@pytest.fixture(scope="module")
def seen(s3_of_roles, tmp_path_factory):
    """The requests that each role made."""
    root, requests = tmp_path_factory.mktemp("roles"), {}
    buckets = opener(s3_of_roles)
    for name, role, means in (
        ("worker", work, buckets),
        ("gateway", serve, buckets),
        ("worker", work_again, buckets),
        ("worker", version_data, s3_of_roles),
        ("housekeeping", keep_house, buckets),
    ):
        requests.setdefault(name, []).extend(requests_of(role, s3_of_roles, means, root / name))
    # what was written to prepare a role's turn is not the role's
    requests["housekeeping"] = [
        one for one in requests["housekeeping"] if not one[1].endswith("checkpoints/abandoned") or "Put" not in one[0]
    ]
    return requests


def requests_of(role, s3, means, root):  # noqa: F811
    s3.proxy.seen.clear()
    role(means, root)
    return [asked(s3.name, *one) for one in s3.proxy.seen]


def work_again(buckets, root):
    """Read the log that has come meanwhile."""
    S3Traffic(buckets("traffic"), root / "copy").folder("m")


def test_every_request_of_a_role_is_allowed_by_its_policy(seen):
    assert refused(seen) == set()


def test_every_permission_of_a_role_is_used(seen):
    assert idle(seen) == set()


@pytest.mark.slow  # it imports MLflow and makes its database
def test_mlflows_policy_allows_what_mlflow_asks_for_and_nothing_more(s3_of_roles, tmp_path):
    requests = {"mlflow": requests_of(track, s3_of_roles, s3_of_roles, tmp_path)}
    assert refused(requests) == idle(requests) == set()


def refused(requests):
    """What a role asked for and may not have."""
    return {(name, *one) for name, asks in requests.items() for one in asks if not matching(policy(name), *one)}


def idle(requests):
    """What a role may have and did not ask for."""
    left = set()
    for name, asks in requests.items():
        statements = policy(name)
        given = {
            (statement["Sid"], action, resource)
            for statement in statements
            for action in listed(statement["Action"])
            for resource in listed(statement["Resource"])
        }
        # an upload is given up only when it fails
        given = {one for one in given if one[1] != "s3:AbortMultipartUpload"}
        used = set().union(*(matching(statements, *one) for one in asks))
        left |= {(name, *one) for one in given - used}
    return left


def test_no_policy_reaches_beyond_its_prefixes_or_names_an_action_by_pattern():
    for name in ("worker", "gateway", "housekeeping", "mlflow"):
        for statement in policy(name):
            for action in listed(statement["Action"]):
                assert re.fullmatch(r"s3:[A-Za-z]+", action)
            for resource in listed(statement["Resource"]):
                assert resource == "arn:aws:s3:::BUCKET" or re.match(
                    rf"arn:aws:s3:::BUCKET/stillhouse/({PREFIXES[name]})/", resource
                )


def test_a_gateway_can_neither_change_nor_remove_what_is_served():
    for action in ("s3:PutObject", "s3:DeleteObject"):
        for key in ("sha256/aa/bb/x", "documents/routes/m/00000001.json", "stages/a.json"):
            assert not matching(policy("gateway"), action, f"arn:aws:s3:::BUCKET/stillhouse/store/{key}", None)
    assert not matching(policy("gateway"), "s3:DeleteObject", "arn:aws:s3:::BUCKET/stillhouse/traffic/m/x", None)


def test_lifecycle_is_valid_and_never_expires_what_something_may_name(s3):  # noqa: F811
    rules = json.loads((FILES / "lifecycle.json").read_text())
    s3.client.put_bucket_lifecycle_configuration(Bucket=s3.name, LifecycleConfiguration=rules)
    expiring = [rule["Filter"]["Prefix"] for rule in rules["Rules"] if "Days" in rule.get("Expiration", {})]
    assert expiring == ["stillhouse/store/acknowledgements/"]
    assert all(
        "NoncurrentDays" in rule.get("NoncurrentVersionExpiration", {"NoncurrentDays": 1}) for rule in rules["Rules"]
    )


def test_bucket_policy_and_key_policy_are_json_of_the_known_form():
    (refusal,) = policy("bucket-policy")
    assert (refusal["Effect"], refusal["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    (key,) = policy("encryption")
    assert set(key["Action"]) == {"kms:GenerateDataKey", "kms:Decrypt"}
