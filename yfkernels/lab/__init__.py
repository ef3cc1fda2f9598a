"""Recording what an optimizer did and saw, and drawing it."""
