"""What carries gradients between a server and its workers: in one process, or over a network."""
