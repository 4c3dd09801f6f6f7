"""Model versions: on disk, in a store, on the hub; which one each project uses; their weights to modules and back."""
