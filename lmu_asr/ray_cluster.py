"""The Ray cluster of ``RAY_ADDRESS``, or one of this machine: no dashboard, no usage statistics."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

OBJECT_STORE_BYTES = 80 * 2**20  # nothing large goes through it
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
# Ray takes the loopback address for the machine's own where it thinks that there are no others;
# _node_ip_address=127.0.0.1 it would turn into an outer address
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextlib.contextmanager
def joined_cluster(processes: int, gpus: int = 0) -> Iterator[None]:
    """Join the cluster of ``RAY_ADDRESS``, or make one of this machine that ends with the context.

    Args:
        processes: that a cluster of this machine has cores for.
        gpus: that it has.
    """
    os.environ.update(SETTINGS if "RAY_ADDRESS" in os.environ else {**SETTINGS, **ALONE})
    import ray  # reads them

    quiet = ray.LoggingConfig(log_level="ERROR")
    if "RAY_ADDRESS" in os.environ:
        kept = {k: v for k, v in os.environ.items() if k == "PYTHONPATH" or k in SETTINGS}
        ray.init(runtime_env={"env_vars": kept}, logging_config=quiet)
    else:
        ray.init(
            address="local",  # not what another user of this machine may have started
            num_cpus=processes,
            num_gpus=gpus,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            logging_config=quiet,
        )
    try:
        yield
    finally:
        ray.shutdown()
