"""The stream without a broker: files and iterables read as a partitioned log."""
