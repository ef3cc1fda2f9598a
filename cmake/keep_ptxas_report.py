"""Runs nvcc and keeps what it says, of registers and spills above all, in a file of its own.

CMake calls it as ``keep_ptxas_report.py FOLDER nvcc ... -o NAME.cu.o``; the report is then in
FOLDER/NAME.cu.txt.
"""

import re
import subprocess
import sys
from pathlib import Path

REPORT_LINE = re.compile(r"ptxas info|\s+\d+ bytes stack frame")

folder, *command = sys.argv[1:]
result = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
lines = result.stderr.splitlines(keepends=True)
report = Path(folder, Path(command[command.index("-o") + 1]).stem + ".txt")
report.parent.mkdir(exist_ok=True)
report.write_text(result.stderr)
sys.stderr.writelines(line for line in lines if not REPORT_LINE.match(line))
sys.exit(result.returncode)
