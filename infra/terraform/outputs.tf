output "region" {
  description = "For STILLHOUSE_S3_REGION and AWS_DEFAULT_REGION."
  value       = var.region
}

output "bucket" {
  description = "For STILLHOUSE_STORE_URL, STILLHOUSE_TRAFFIC_URL, STILLHOUSE_DVC_REMOTE and MLflow's artifacts."
  value       = aws_s3_bucket.data.bucket
}

output "kms_key_arn" {
  description = "The key of bucket, database and secrets."
  value       = aws_kms_key.data.arn
}

output "role_arns" {
  description = "For the annotation eks.amazonaws.com/role-arn of the service account stillhouse-NAME."
  value       = { for name, role in aws_iam_role.this : name => role.arn }
}

output "database_address" {
  description = "For the service stillhouse-database."
  value       = aws_db_instance.this.address
}

output "database_secret_arn" {
  description = "Where RDS keeps the master password; for the external secret stillhouse-database-master."
  value       = aws_db_instance.this.master_user_secret[0].secret_arn
}

output "secret_names" {
  description = "Entries of Secrets Manager that wait for their values."
  value       = sort([for secret in aws_secretsmanager_secret.this : secret.name])
}

output "repository_urls" {
  description = "Where images are pushed."
  value       = { for name, repository in aws_ecr_repository.this : name => repository.repository_url }
}
