"""The core's deliveries -> requests to Discord."""
