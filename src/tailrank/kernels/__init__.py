"""Kernels: each a thin wrapper, checked against `reference`."""
