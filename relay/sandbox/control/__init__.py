"""The control interface, `POST /_sandbox/<method>`: who there is, what they do, what goes wrong. Imports all rooms."""
