# A role for each kind of process, taken by its service account alone, with what that process does in S3 and no more.

data "aws_eks_cluster" "this" {
  name = var.cluster_name
}

data "aws_iam_openid_connect_provider" "cluster" {
  url = data.aws_eks_cluster.this.identity[0].oidc[0].issuer
}

locals {
  issuer = trimprefix(data.aws_eks_cluster.this.identity[0].oidc[0].issuer, "https://")

  # service account (without "stillhouse-") => its policy
  roles = {
    worker       = data.aws_iam_policy_document.worker.json
    gateway      = data.aws_iam_policy_document.gateway.json
    housekeeping = data.aws_iam_policy_document.housekeeping.json
    mlflow       = data.aws_iam_policy_document.mlflow.json
    secrets      = data.aws_iam_policy_document.secrets.json
  }
}

data "aws_iam_policy_document" "trust" {
  for_each = local.roles

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [data.aws_iam_openid_connect_provider.cluster.arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:sub"
      values   = ["system:serviceaccount:${var.namespace}:stillhouse-${each.key}"]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "this" {
  for_each = local.roles

  name                 = "${local.name}-${each.key}"
  assume_role_policy   = data.aws_iam_policy_document.trust[each.key].json
  max_session_duration = 3600
}

resource "aws_iam_role_policy" "this" {
  for_each = local.roles

  name   = each.key
  role   = aws_iam_role.this[each.key].id
  policy = each.value
}

# The policies of infra/storage, for this bucket and key. Each role that touches objects also uses the key.
locals {
  storage_policy = {
    for name in ["worker", "gateway", "housekeeping", "mlflow"] :
    name => replace(file("${path.module}/../storage/${name}.json"), "BUCKET", aws_s3_bucket.data.bucket)
  }

  encryption_policy = replace(
    file("${path.module}/../storage/encryption.json"),
    "arn:aws:kms:REGION:ACCOUNT:key/KEY",
    aws_kms_key.data.arn,
  )
}

# Flow runs reach MLflow's artifacts through MLflow.
data "aws_iam_policy_document" "worker" {
  source_policy_documents = [local.storage_policy["worker"], local.encryption_policy]
}

# The mirror beside a gateway.
data "aws_iam_policy_document" "gateway" {
  source_policy_documents = [local.storage_policy["gateway"], local.encryption_policy]
}

data "aws_iam_policy_document" "housekeeping" {
  source_policy_documents = [local.storage_policy["housekeeping"], local.encryption_policy]
}

data "aws_iam_policy_document" "mlflow" {
  source_policy_documents = [local.storage_policy["mlflow"], local.encryption_policy]
}

# The External Secrets operator, on behalf of the namespace: reads the entries of secrets.tf and the database's.
data "aws_iam_policy_document" "secrets" {
  statement {
    sid     = "Read"
    actions = ["secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue"]
    resources = concat(
      [for secret in aws_secretsmanager_secret.this : secret.arn],
      [aws_db_instance.this.master_user_secret[0].secret_arn],
    )
  }

  statement {
    sid       = "Key"
    actions   = ["kms:Decrypt"]
    resources = [aws_kms_key.data.arn]

    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["secretsmanager.${var.region}.amazonaws.com"]
    }
  }
}
