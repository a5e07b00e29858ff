"""A Discord-compatible server on loopback, and the demo that runs on it. Only `relay.cli` imports this."""
