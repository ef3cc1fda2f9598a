"""Real tasks, small enough for a laptop, that the demo, the comparisons and the tests share."""
