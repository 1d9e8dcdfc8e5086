"""A Ray cluster of two nodes on this machine, in processes not forked from one that has jax."""

import atexit
import functools
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

TESTS = Path(__file__).resolve().parent
# Ray gives up on a node that has not started within 30 s, which happens on a machine under load.
ATTEMPTS = 4

# Prints its address; on a line of input removes the second node and confirms it.
PROGRAM = textwrap.dedent("""
    import sys
    from ray.cluster_utils import Cluster

    own = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=own)
    second = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    print("address", cluster.address, flush=True)
    for line in sys.stdin:
        cluster.remove_node(second, allow_graceful=False)
        print("removed", flush=True)
    cluster.shutdown()
    """)


class Nodes:
    """Two nodes with a core each; both are gone after `close`."""

    def __init__(self):
        paths = (str(TESTS), str(TESTS.parents[1]), os.environ.get("PYTHONPATH", ""))
        # Sockets need a short path, and what Ray logs goes with the folder.
        self._folder = tempfile.TemporaryDirectory(
            prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
        )
        (Path(self._folder.name) / "ray").mkdir()
        environment = {
            "RAY_TMPDIR": self._folder.name,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address = self._line("address").removeprefix("address").strip()

    def lose_one(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        assert self._line("removed")

    def close(self) -> None:
        self._process.communicate()
        self._folder.cleanup()

    def _line(self, word: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line
        return ""


def start() -> Nodes:
    for _ in range(ATTEMPTS):
        nodes = Nodes()
        if nodes.address:
            return nodes
        nodes.close()
    raise AssertionError("the nodes do not start")


@functools.cache
def shared() -> Nodes:
    """Two nodes that all tests of this process share."""
    nodes = start()
    atexit.register(nodes.close)
    return nodes
