"""`python -m yfkernels` is the `yfkernels` command."""

from yfkernels.cli import main

main()
