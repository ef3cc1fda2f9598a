from bench.convergence.ladder.cli import app

app(prog_name="python -m bench.convergence.ladder")
