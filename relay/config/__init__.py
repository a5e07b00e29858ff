"""relay.toml and the environment become one frozen `Settings`, or a list of mistakes. No other folder reads either."""
