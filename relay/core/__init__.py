"""The bridge itself: which message goes where, once, in order. Names no platform and imports no adapter."""
