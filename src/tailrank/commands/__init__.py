"""One file per verb: the only place that composes objects of different packages."""
