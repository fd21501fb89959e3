"""Data sets: files or a planted teacher in, `FeatureBatch` and `Labels` out."""
