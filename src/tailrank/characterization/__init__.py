"""What this host can do: service times of batches, measured on the rankers that will serve."""
