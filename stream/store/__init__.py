"""The object store's two doors: S3, and a local directory with the same semantics."""
