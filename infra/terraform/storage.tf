# One bucket, a prefix for each kind of data: stillhouse/store, /traffic, /dvc, /mlflow.

# The account decides by IAM who may use the key: the roles of iam.tf, through S3 and Secrets Manager.
data "aws_iam_policy_document" "key" {
  statement {
    sid       = "ByIam"
    actions   = ["kms:*"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = ["arn:aws:iam::${var.account_id}:root"]
    }
  }
}

resource "aws_kms_key" "data" {
  description             = "${local.name}: bucket, database, secrets"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = data.aws_iam_policy_document.key.json
}

resource "aws_kms_alias" "data" {
  name          = "alias/${local.name}"
  target_key_id = aws_kms_key.data.key_id
}

resource "aws_s3_bucket" "data" {
  bucket = "${local.name}-${var.account_id}"

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_versioning" "data" {
  bucket = aws_s3_bucket.data.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "data" {
  bucket = aws_s3_bucket.data.id

  rule {
    # fewer calls to KMS
    bucket_key_enabled = true

    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.data.arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "data" {
  bucket                  = aws_s3_bucket.data.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "data" {
  bucket = aws_s3_bucket.data.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_policy" "data" {
  bucket = aws_s3_bucket.data.id
  policy = replace(file("${path.module}/../storage/bucket-policy.json"), "BUCKET", aws_s3_bucket.data.bucket)

  # with the block in place first, so that no policy is ever public
  depends_on = [aws_s3_bucket_public_access_block.data]
}

resource "aws_s3_bucket_logging" "data" {
  count = var.access_log_bucket == null ? 0 : 1

  bucket        = aws_s3_bucket.data.id
  target_bucket = var.access_log_bucket
  target_prefix = "s3/${aws_s3_bucket.data.bucket}/"
}

# As infra/storage/lifecycle.json says it; a test holds them equal. Nothing is deleted by age but what gateways last said:
# an old model may be the one that serves, and `stillhouse store gc` knows what nothing names any more. What it removes
# can be brought back for noncurrent_version_days.
resource "aws_s3_bucket_lifecycle_configuration" "data" {
  bucket = aws_s3_bucket.data.id

  rule {
    id     = "uploads-that-were-never-finished"
    status = "Enabled"

    filter {
      prefix = "stillhouse/"
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }

  rule {
    id     = "what-was-removed-or-replaced"
    status = "Enabled"

    filter {
      prefix = "stillhouse/"
    }

    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_version_days
    }

    expiration {
      expired_object_delete_marker = true
    }
  }

  rule {
    id     = "words-of-gateways-that-are-gone"
    status = "Enabled"

    filter {
      prefix = "stillhouse/store/acknowledgements/"
    }

    expiration {
      days = 1
    }
  }

  # rules of versions need versions
  depends_on = [aws_s3_bucket_versioning.data]
}
