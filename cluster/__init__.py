"""One film on many machines, with Ray (`pip install 'zsm[cpu,cluster]'`).

| module | contains |
|---|---|
| `cluster` | `Cluster`: gives segments to workers, collects them, writes the film |
| `engines` | one build of each TensorRT engine for all workers |
| `task` | what runs on a worker: one segment, or the check that a node is fit for it |

Ray is imported when a `Cluster` is made, and not before.
"""

from zsm.cluster.cluster import Cluster

__all__ = ["Cluster"]
