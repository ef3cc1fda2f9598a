"""`python -m bench.speed.gpu`."""

import sys

from bench.speed.gpu.command import main

sys.exit(main(sys.argv[1:]))
