"""`python -m bench.speed`, for machines without the `yfkernels` command."""

import sys

from bench.speed.runner import main

sys.exit(main(sys.argv[1:]))
