"""The bridge itself: decides which message goes where, once and in order.

Names no platform and imports no adapter. Everything but `domain` and `sandbox` may import it.
"""
