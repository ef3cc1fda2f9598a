"""`python -m yfkernels` is the `yfkernels` command."""

from yfkernels.lab.cli import main

main()
