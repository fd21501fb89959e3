"""Answers ranking queries over a network: the engine, and the protocols in front of it."""
