# SPDX-License-Identifier: Apache-2.0
"""Options of ini files for the executor."""

from __future__ import annotations

from collections.abc import Sequence

from oslo_config import cfg

from pluggableflow.config import GROUP

SUFFIX = "dask"

OPTIONS: Sequence[cfg.Opt] = (
    cfg.StrOpt(
        "address",
        help="Address of the scheduler, such as tcp://10.0.0.1:8786. Default: scheduler-address of Dask's own"
        " configuration, which also has its options of TLS.",
    ),
)


def list_opts() -> list[tuple[str, Sequence[cfg.Opt]]]:
    """The options by group, for oslo-config-generator."""
    return [(f"{GROUP}_{SUFFIX}", OPTIONS)]
