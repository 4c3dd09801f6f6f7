"""Data sets in AVSBench's layouts, read and checked, and clips composed of cut-outs with exact masks."""
