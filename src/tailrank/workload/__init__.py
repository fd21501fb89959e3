"""Seeded schedules of queries: when they arrive and how large they are."""
