"""Fixtures for all tests; each server's lie in the file that starts it."""

import os

# As in the learner's process: tests of Ray Client leave gRPC's threads in this one, whose fork handlers crash children.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# As in the learner's process: a sum in another number of threads is another sum, and hashes of states are compared.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

pytest_plugins = ["tests.servers.certificates", "tests.servers.kafka", "tests.servers.ray", "tests.servers.s3"]
