"""Server files: what lies beside a run and says how its server was set."""
