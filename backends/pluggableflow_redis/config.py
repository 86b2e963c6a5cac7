# SPDX-License-Identifier: Apache-2.0
"""Options of ini files for Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from oslo_config import cfg

from pluggableflow.config import GROUP, Parameter, attempts, retries_option

SUFFIX = "redis"

OPTIONS: Sequence[cfg.Opt] = (
    cfg.StrOpt(
        "key_prefix",
        max_length=60,
        regex=r"^[A-Za-z0-9_.:-]*$",
        help="What the names of all keys begin with. Default: pluggableflow_.",
    ),
    retries_option("max_retries"),
    cfg.FloatOpt("socket_timeout", min=0.1, help="Seconds that a command waits for its answer. Default: 30."),
    cfg.FloatOpt("socket_connect_timeout", min=0.1, help="Seconds that a new connection may take. Default: 10."),
    cfg.IntOpt(
        "health_check_interval",
        min=0,
        help="Seconds without a command after which a connection is tried out before it is used.",
    ),
    cfg.StrOpt("client_name", help="Name that the server lists the connections under."),
    cfg.StrOpt("ssl_ca_certs", help="File with the certificates of the authorities that a rediss server may have."),
    cfg.StrOpt("ssl_certfile", help="File with the certificate that this client shows."),
    cfg.StrOpt("ssl_keyfile", help="File with the key of that certificate."),
    cfg.StrOpt(
        "ssl_cert_reqs",
        choices=["none", "optional", "required"],
        help="Whether a rediss server must show a certificate that one of the authorities has signed.",
    ),
    cfg.StrOpt("sentinel_username", help="User that the sentinels know."),
    cfg.StrOpt("sentinel_password", secret=True, help="Password of that user."),
)

_PARTICULAR = {"key_prefix": Parameter("prefix"), "max_retries": Parameter("attempts", attempts)}
PARAMETERS: Mapping[str, Mapping[str, Parameter]] = {
    option.dest: dict.fromkeys(
        ("rediss",) if option.dest.startswith("ssl_") else ("redis", "rediss"),
        _PARTICULAR.get(option.dest, Parameter(option.dest)),
    )
    for option in OPTIONS
}

#: Options that name a file, which must be there.
FILES = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})


def list_opts() -> list[tuple[str, Sequence[cfg.Opt]]]:
    """The options by group, for oslo-config-generator."""
    return [(f"{GROUP}_{SUFFIX}", OPTIONS)]
