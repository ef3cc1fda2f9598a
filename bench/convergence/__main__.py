from bench.convergence.cli import app

app(prog_name="python -m bench.convergence")
