"""The API server's fixture, for the tests of the chart alone: nobody else waits for one."""

from tests.servers.kube.server import kube

__all__ = ["kube"]
