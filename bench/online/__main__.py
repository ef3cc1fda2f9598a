from bench.online.cli import app

app()
