variable "account_id" {
  description = "AWS account that everything is made in; another one's credentials are refused."
  type        = string

  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id has 12 digits."
  }
}

variable "region" {
  description = "AWS region."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region is written like eu-central-1."
  }
}

variable "environment" {
  description = "Name of this installation; part of every name."
  type        = string
  default     = "production"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,19}$", var.environment))
    error_message = "environment has 2 to 20 lower-case letters, digits and hyphens, and begins with a letter."
  }
}

variable "tags" {
  description = "Tags of everything, beside Application, Environment and ManagedBy."
  type        = map(string)
  default     = {}
}

variable "cluster_name" {
  description = "EKS cluster that is there already, with an IAM OIDC provider for its service accounts."
  type        = string
}

variable "namespace" {
  description = "Namespace of the service accounts; as in infra/k8s."
  type        = string
  default     = "stillhouse"
}

variable "vpc_id" {
  description = "VPC of the cluster."
  type        = string

  validation {
    condition     = startswith(var.vpc_id, "vpc-")
    error_message = "vpc_id begins with vpc-."
  }
}

variable "private_subnet_ids" {
  description = "Private subnets for nodes and database, in two availability zones or more."
  type        = list(string)

  validation {
    condition     = length(distinct(var.private_subnet_ids)) >= 2 && alltrue([for id in var.private_subnet_ids : startswith(id, "subnet-")])
    error_message = "private_subnet_ids names two or more subnets, each beginning with subnet-."
  }
}

variable "noncurrent_version_days" {
  description = "Days for which overwritten and deleted objects can be brought back."
  type        = number
  default     = 14

  validation {
    condition     = var.noncurrent_version_days >= 7
    error_message = "noncurrent_version_days is 7 or more: a mistake is seldom seen sooner."
  }
}

variable "access_log_bucket" {
  description = "Bucket of the account that S3 writes its access logs to; null writes none."
  type        = string
  default     = null
}

variable "database_instance_class" {
  description = "RDS instance class."
  type        = string
  default     = "db.m7g.large"

  validation {
    condition     = startswith(var.database_instance_class, "db.")
    error_message = "database_instance_class begins with db."
  }
}

variable "database_storage_gb" {
  description = "Storage of the database in GB at first, and at most, to which it grows by itself."
  type = object({
    initial = number
    maximum = number
  })
  default = { initial = 50, maximum = 500 }

  validation {
    condition     = var.database_storage_gb.initial >= 20 && var.database_storage_gb.maximum > var.database_storage_gb.initial
    error_message = "database_storage_gb.initial is 20 or more, and maximum is larger, else the database cannot grow."
  }
}

variable "database_multi_az" {
  description = "Keep a standby in another availability zone."
  type        = bool
  default     = true
}

variable "cpu_nodes" {
  description = "Nodes for servers, gateways and CPU stages. One instance type, so that latencies of all nodes compare."
  type = object({
    instance_type = string
    minimum       = number
    maximum       = number
    disk_gb       = number
  })
  default = { instance_type = "m7i.2xlarge", minimum = 2, maximum = 10, disk_gb = 100 }

  validation {
    condition     = var.cpu_nodes.minimum >= 2 && var.cpu_nodes.maximum >= var.cpu_nodes.minimum && var.cpu_nodes.disk_gb >= 50
    error_message = "cpu_nodes: minimum is 2 or more (two gateways on two nodes), maximum not below it, disk_gb 50 or more."
  }
}

variable "gpu_nodes" {
  description = "Nodes with NVIDIA GPUs, none while nothing runs on them. One instance type, so that figures of all nodes compare."
  type = object({
    instance_type = string
    minimum       = number
    maximum       = number
    disk_gb       = number
  })
  default = { instance_type = "g6.2xlarge", minimum = 0, maximum = 4, disk_gb = 200 }

  validation {
    condition     = can(regex("^(g[4-9]|gr6|p[3-9])", var.gpu_nodes.instance_type))
    error_message = "gpu_nodes.instance_type is one with NVIDIA GPUs: g4dn, g5, g6, p4d, p5 and their kin."
  }

  validation {
    condition     = var.gpu_nodes.minimum >= 0 && var.gpu_nodes.maximum >= max(1, var.gpu_nodes.minimum) && var.gpu_nodes.disk_gb >= 100
    error_message = "gpu_nodes: maximum is 1 or more and not below minimum; disk_gb is 100 or more, for the CUDA image."
  }
}

variable "gpus_per_node" {
  description = "GPUs of one node of gpu_nodes.instance_type; the autoscaler must know while there is no node to look at."
  type        = number
  default     = 1

  validation {
    condition     = contains([1, 2, 4, 8, 16], var.gpus_per_node)
    error_message = "gpus_per_node is 1, 2, 4, 8 or 16."
  }
}
