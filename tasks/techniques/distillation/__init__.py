"""Distillation: a small network learns from a big one, from its like, or from itself."""
