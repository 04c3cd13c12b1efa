"""The Terraform module, as far as it can be looked at without the provider: its form, its promises, and its names."""

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import hcl2
import pytest

from tests.infra.manifests import INFRA, KUBERNETES, documents, is_kustomization, job

FOLDER = INFRA / "terraform"
FILES = sorted(FOLDER.glob("*.tf"))
TEXT = "\n".join(path.read_text() for path in FILES)


def plain(value):
    """hcl2's values without the quotes that it keeps around names and strings, and without its own marks."""
    if isinstance(value, dict):
        return {plain(name): plain(one) for name, one in value.items() if not str(name).startswith("__")}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value[1:-1] if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"' else value


@cache
def parsed(path: Path) -> dict:
    return plain(hcl2.loads(path.read_text()))


def blocks(kind: str) -> dict[tuple[str, ...], dict]:
    """Blocks of a kind by their labels."""
    found = {}
    for path in FILES:
        for block in parsed(path).get(kind, []):
            labels, body = [], block
            while len(body) == 1 and isinstance(next(iter(body.values())), dict) and len(labels) < depth(kind):
                ((label, body),) = body.items()
                labels.append(label)
            found[tuple(labels)] = body
    return found


def depth(kind: str) -> int:
    return {"resource": 2, "data": 2, "variable": 1, "output": 1}.get(kind, 0)


RESOURCES = blocks("resource")
AWS = [
    one
    for path in sorted((KUBERNETES / "overlays/aws").glob("*.yaml"))
    for one in documents(path)
    if not is_kustomization(one)
]


def test_every_variable_and_output_is_described_and_typed():
    variables, outputs = blocks("variable"), blocks("output")

    assert len(variables) >= 12
    assert all({"description", "type"} <= one.keys() for one in variables.values())
    assert all("description" in one for one in outputs.values())
    assert not [name for (name,) in variables if re.search("password|secret|token", name)]


def test_every_variable_that_is_named_exists_and_none_is_idle():
    named = set(re.findall(r"\bvar\.(\w+)", TEXT))
    assert named == {name for (name,) in blocks("variable")}


def test_every_resource_that_is_named_exists():
    known = {".".join(labels) for labels in RESOURCES} | {f"data.{'.'.join(labels)}" for labels in blocks("data")}
    named = set(re.findall(r"\b((?:data\.)?aws_\w+\.\w+)\b", TEXT))
    assert named <= known


def test_the_bucket_keeps_versions_encrypts_and_is_closed_to_the_public():
    block = RESOURCES["aws_s3_bucket_public_access_block", "data"]
    (versioning,) = RESOURCES["aws_s3_bucket_versioning", "data"]["versioning_configuration"]
    (rule,) = RESOURCES["aws_s3_bucket_server_side_encryption_configuration", "data"]["rule"]

    for switch in ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets"):
        assert block[switch] is True
    assert versioning["status"] == "Enabled"
    assert rule["apply_server_side_encryption_by_default"][0]["sse_algorithm"] == "aws:kms"
    assert RESOURCES["aws_s3_bucket", "data"]["lifecycle"][0]["prevent_destroy"] is True


def test_the_buckets_lifecycle_is_the_one_that_the_store_is_made_for():
    wanted = json.loads((INFRA / "storage" / "lifecycle.json").read_text())["Rules"]
    rules = RESOURCES["aws_s3_bucket_lifecycle_configuration", "data"]["rule"]
    (days,) = [one["default"] for (name,), one in blocks("variable").items() if name == "noncurrent_version_days"]

    assert [(rule["id"], rule["filter"][0]["prefix"]) for rule in rules] == [
        (one["ID"], one["Filter"]["Prefix"]) for one in wanted
    ]
    uploads, versions, words = rules
    assert (
        uploads["abort_incomplete_multipart_upload"][0]["days_after_initiation"]
        == (wanted[0]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"])
    )
    assert days == wanted[1]["NoncurrentVersionExpiration"]["NoncurrentDays"]
    assert versions["expiration"][0]["expired_object_delete_marker"] is True
    assert words["expiration"][0]["days"] == wanted[2]["Expiration"]["Days"]


def test_the_roles_have_the_policies_of_the_store():
    policies = {path.stem for path in (INFRA / "storage").glob("*.json")} - {"lifecycle"}
    iam, storage = ((FOLDER / name).read_text() for name in ("iam.tf", "storage.tf"))
    named = set(re.search(r"for name in \[(.*?)\]", iam)[1].replace('"', "").split(", "))
    named |= set(re.findall(r"\.\./storage/([\w-]+)\.json", iam + storage))

    assert named == policies
    assert '"arn:aws:kms:REGION:ACCOUNT:key/KEY"' in (INFRA / "storage" / "encryption.json").read_text()
    assert '"arn:aws:kms:REGION:ACCOUNT:key/KEY"' in iam
    assert "s3:" not in iam  # what a role may do with objects is said by its file alone


def test_the_database_is_private_encrypted_and_can_be_brought_back():
    database = RESOURCES["aws_db_instance", "this"]

    assert database["manage_master_user_password"] is True
    assert "password" not in database
    assert database["storage_encrypted"] is True
    assert database["publicly_accessible"] is False
    assert database["deletion_protection"] is True
    assert database["skip_final_snapshot"] is False
    assert database["backup_retention_period"] >= 7
    assert database["lifecycle"][0]["prevent_destroy"] is True


def test_no_secret_has_a_value_here():
    assert not [labels for labels in RESOURCES if labels[0] in ("aws_secretsmanager_secret_version", "random_password")]


def test_roles_are_those_of_the_service_accounts_of_the_overlay():
    roles = set(re.findall(r"^    (\w+) += data\.aws_iam_policy_document\.\w+\.json$", TEXT, re.MULTILINE))
    annotated = {
        one["metadata"]["name"].removeprefix("stillhouse-"): one["metadata"]["annotations"][
            "eks.amazonaws.com/role-arn"
        ]
        for one in AWS
        if one["kind"] == "ServiceAccount"
    }

    assert roles == set(annotated)
    assert all(arn.endswith(f":role/stillhouse-production-{name}") for name, arn in annotated.items())


def test_secrets_are_those_of_the_overlay():
    made = set(re.findall(r'^    "([\w-]+)",$', (FOLDER / "secrets.tf").read_text(), re.MULTILINE))
    wanted = {
        one["metadata"]["name"]: one["spec"]["dataFrom"][0]["extract"]["key"]
        for one in AWS
        if one["kind"] == "ExternalSecret"
    }

    assert {f"stillhouse-{name}" for name in made} == set(wanted) - {"stillhouse-database-master"}
    assert all(wanted[f"stillhouse-{name}"] == f"stillhouse-production/{name}" for name in made)


def test_nodes_have_the_labels_and_taints_that_flow_runs_ask_for():
    nodes = (FOLDER / "nodes.tf").read_text()
    pools = set(re.findall(r"^    (\w+) = merge\(var\.\w+_nodes", nodes, re.MULTILINE))
    spec = job("gpu")["spec"]["template"]["spec"]
    (toleration,) = spec["tolerations"]

    assert {
        job(name)["spec"]["template"]["spec"]["nodeSelector"]["stillhouse.dev/pool"] for name in ("cpu", "gpu")
    } == pools
    assert 'labels = { "stillhouse.dev/pool" = each.key }' in nodes
    assert f'key    = "{toleration["key"]}"' in nodes
    assert 'effect = "NO_SCHEDULE"' in nodes


def test_no_role_is_granted_everything():
    for labels, body in blocks("data").items():
        if labels[0] != "aws_iam_policy_document" or labels[1] == "key":  # a key's own policy names itself by *
            continue
        for statement in body.get("statement", []):
            if statement.get("effect") != "Deny":
                assert not [action for action in statement["actions"] if "*" in action], labels
                assert statement.get("resources") != ["*"], labels


@pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not on PATH")
def test_files_are_formatted():
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-diff", str(FOLDER)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
