"""Pure conversions between a label config, masks and regions; no network.

`config` is imported by the HTTP service at every `/setup` and needs nothing beyond the standard library.
"""
