"""The status page, the metrics and the health checks. They read `core.status` and change nothing.

Only `app` imports this package.
"""
