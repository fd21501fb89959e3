"""Train, compress, tune and serve deep recommendation ranking models inside a tail-latency SLA."""

__version__ = "0.1.0"
