"""The vocabulary: queries, time, latency, service-level agreements. Standard library and NumPy."""
