"""The batch contract: clickstream objects in, a pickled model out, nothing trained twice."""
