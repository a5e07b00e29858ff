"""The gateway: connections, sessions that can be resumed, and who is sent which event."""
