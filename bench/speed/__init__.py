"""Time, traffic and memory of one optimizer step, beside its rivals in one interleaved run."""
