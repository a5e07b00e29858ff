"""The status page, the metrics and the health checks: read `core.status`, write nothing."""
