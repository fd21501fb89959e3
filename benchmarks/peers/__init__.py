"""Other ways to do the same work, for comparison side by side."""
