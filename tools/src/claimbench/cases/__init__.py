"""Cases: what is run. Each module imports exactly one package, and only inside a worker process."""
