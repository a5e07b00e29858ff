"""The REST API and the CDN: routes, rate limits, errors, faults to order."""
