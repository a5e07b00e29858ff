"""From the core to Matrix: deliveries become events and requests, and the homeserver's errors the core's."""
