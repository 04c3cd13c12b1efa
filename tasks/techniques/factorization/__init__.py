"""Factorization: a layer becomes two or three thinner ones in a row."""
