"""What a channel cannot carry becomes what it can. Pure: imports `relay.domain` only."""
