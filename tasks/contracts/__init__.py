"""Frozen values that cross task borders: identities and records, never paths, tensors or clients."""
