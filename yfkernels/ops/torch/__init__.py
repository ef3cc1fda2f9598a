"""Plain torch: the same operations tensor by tensor, and the readable statement of the kernels."""
