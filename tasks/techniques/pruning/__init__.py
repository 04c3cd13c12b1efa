"""Pruning: networks made smaller by removing what contributes least."""

from tasks.techniques.pruning.prune_channels import PruneChannels

__all__ = ["PruneChannels"]
