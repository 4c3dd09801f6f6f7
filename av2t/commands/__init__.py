"""The commands: one function with a typed signature for each, in a module that is imported when it is chosen."""
