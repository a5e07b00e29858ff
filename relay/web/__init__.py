"""The status page, the metrics and the health checks, which read `core.status`; files for those who have a link.

Only `app` imports this package.
"""
