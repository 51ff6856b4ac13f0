"""A further node of a Ray cluster on loopback, until it is ended: `second_node.py GCS_ADDRESS CPUS`.

Ray's own command refuses a second node where the cluster is told to stay on loopback, and without that takes the host's
address; this is what `ray.cluster_utils` does.
"""

import signal
import sys

from ray._private.node import Node
from ray._private.parameter import RayParams

params = RayParams(gcs_address=sys.argv[1], node_ip_address="127.0.0.1", num_cpus=int(sys.argv[2]), num_gpus=0,
                   object_store_memory=150 << 20, min_worker_port=0, max_worker_port=0, include_log_monitor=False,
                   node_manager_port=0)
params.dashboard_agent_listen_port = None
node = Node(params, head=False, shutdown_at_exit=True, spawn_reaper=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("up", flush=True)
signal.pause()
