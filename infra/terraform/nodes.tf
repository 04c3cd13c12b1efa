# Node groups whose labels and taints are those of infra/k8s and infra/prefect.

locals {
  pools = {
    cpu = merge(var.cpu_nodes, { ami_type = "AL2023_x86_64_STANDARD" })
    # brings NVIDIA's driver and container toolkit; the device plugin is the cluster's own to install
    gpu = merge(var.gpu_nodes, { ami_type = "AL2023_x86_64_NVIDIA" })
  }
}

data "aws_iam_policy_document" "node_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "node" {
  name               = "${local.name}-node"
  assume_role_policy = data.aws_iam_policy_document.node_trust.json
}

# What a node needs to join and to pull images; data is the pods' own roles' affair.
resource "aws_iam_role_policy_attachment" "node" {
  for_each = toset(["AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryPullOnly"])

  role       = aws_iam_role.node.name
  policy_arn = "arn:aws:iam::aws:policy/${each.key}"
}

resource "aws_launch_template" "node" {
  for_each = local.pools

  name_prefix = "${local.name}-${each.key}-"

  # Pods get no credentials of the node: a hop more than one is refused.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = each.value.disk_gb
      encrypted             = true
      delete_on_termination = true
    }
  }

  tag_specifications {
    resource_type = "instance"
    tags          = { Name = "${local.name}-${each.key}" }
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_eks_node_group" "this" {
  for_each = local.pools

  cluster_name           = var.cluster_name
  node_group_name_prefix = "${local.name}-${each.key}-"
  node_role_arn          = aws_iam_role.node.arn
  subnet_ids             = var.private_subnet_ids
  ami_type               = each.value.ami_type
  instance_types         = [each.value.instance_type]
  # a stage that trains for hours is repeated from its checkpoint at best: no spot market
  capacity_type = "ON_DEMAND"

  labels = { "stillhouse.dev/pool" = each.key }

  dynamic "taint" {
    for_each = each.key == "gpu" ? ["gpu"] : []

    content {
      key    = "nvidia.com/gpu"
      value  = "present"
      effect = "NO_SCHEDULE"
    }
  }

  launch_template {
    id      = aws_launch_template.node[each.key].id
    version = aws_launch_template.node[each.key].latest_version
  }

  scaling_config {
    min_size     = each.value.minimum
    max_size     = each.value.maximum
    desired_size = each.value.minimum
  }

  update_config {
    max_unavailable = 1
  }

  lifecycle {
    create_before_destroy = true
    # how many there are is the autoscaler's to say
    ignore_changes = [scaling_config[0].desired_size]
  }

  depends_on = [aws_iam_role_policy_attachment.node]
}

# A group without nodes tells nothing of what its nodes would have; the autoscaler reads it from these tags.
locals {
  gpu_hints = {
    "k8s.io/cluster-autoscaler/node-template/label/stillhouse.dev/pool" = "gpu"
    "k8s.io/cluster-autoscaler/node-template/taint/nvidia.com/gpu"      = "present:NoSchedule"
    "k8s.io/cluster-autoscaler/node-template/resources/nvidia.com/gpu"  = tostring(var.gpus_per_node)
  }
}

resource "aws_autoscaling_group_tag" "gpu" {
  for_each = local.gpu_hints

  autoscaling_group_name = aws_eks_node_group.this["gpu"].resources[0].autoscaling_groups[0].name

  tag {
    key                 = each.key
    value               = each.value
    propagate_at_launch = false
  }
}
