"""A lineage copied into another store, while the service goes on."""
