"""The one event loop, its ports for simulation and for serving, and what a run leaves behind."""
