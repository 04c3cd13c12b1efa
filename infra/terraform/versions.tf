terraform {
  # 1.10: locks of the state in S3 itself
  required_version = ">= 1.10, < 2.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }

  # Bucket, key and region come from a file of your own: terraform init -backend-config=backend.hcl
  backend "s3" {
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region              = var.region
  allowed_account_ids = [var.account_id]

  default_tags {
    tags = merge(var.tags, {
      Application = "stillhouse"
      Environment = var.environment
      ManagedBy   = "terraform"
    })
  }
}

locals {
  name = "stillhouse-${var.environment}"
}
