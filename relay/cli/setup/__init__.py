"""The commands that write or check what the relay needs before it runs: the configuration, accounts, pairs."""
