"""Pruning: networks made smaller by removing what contributes least."""
