from bench.convergence.asynchronous.cli import app

app()
