"""The gateway: connections, sessions that can be resumed, faults of dispatches. Imports `world`."""
