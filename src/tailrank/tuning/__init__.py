"""Searches over loads and settings; they cannot tell simulation from serving."""
