"""Fixtures for all tests; each server's lie in the file that starts it."""

import os

# As in the learner's process: tests of Ray Client leave gRPC's threads in this one, whose fork handlers crash children.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

pytest_plugins = ["tests.servers.certificates", "tests.servers.kafka", "tests.servers.ray", "tests.servers.s3"]
