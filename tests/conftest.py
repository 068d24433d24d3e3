"""Fixtures for all tests; each server's lie in the file that starts it."""

pytest_plugins = ["tests.servers.kafka", "tests.servers.ray", "tests.servers.s3"]
