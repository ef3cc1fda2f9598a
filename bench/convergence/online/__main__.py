from bench.convergence.online.cli import app

app()
