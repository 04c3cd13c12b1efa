# Entries without values: what Terraform writes, its state keeps. docs/deployment.md says what belongs into each.
resource "aws_secretsmanager_secret" "this" {
  for_each = toset([
    "prefect",
    "mlflow",
    "worker",
    "keys",
    "gateway",
    "gateway-scraper",
    "webhooks",
    "job-maker",
  ])

  name                    = "${local.name}/${each.key}"
  description             = "Kubernetes secret stillhouse-${each.key} of ${local.name}"
  kms_key_id              = aws_kms_key.data.arn
  recovery_window_in_days = 30
}
