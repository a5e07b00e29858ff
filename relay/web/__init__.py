"""The status page, the metrics and the health checks, which read `core.status`; files for those who have a link.

Only what is around the core imports this: `composition`, `standby`, `tenants`, `doctor`, and `relay directory`.
"""
