# SPDX-License-Identifier: Apache-2.0
"""Options of ini files for MongoDB."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oslo_config import cfg

from pluggableflow.config import GROUP, Parameter, attempts, flag, milliseconds, retries_option

SUFFIX = "mongodb"

OPTIONS: Sequence[cfg.Opt] = (
    cfg.StrOpt(
        "collection_prefix",
        max_length=30,
        regex="^[A-Za-z0-9_]*$",
        help="What the names of all collections begin with. Default: pluggableflow_.",
    ),
    retries_option("max_retries"),
    cfg.StrOpt("replica_set", help="Name of the replica set that the servers belong to."),
    cfg.StrOpt("auth_source", help="Database that the user is known in. Default: that of the URL, or admin."),
    cfg.FloatOpt(
        "server_selection_timeout",
        min=0.1,
        help="Seconds that a call looks for a server before it fails. Default: 10.",
    ),
    cfg.FloatOpt("connect_timeout", min=0.1, help="Seconds that a new connection may take. Default: 20."),
    cfg.FloatOpt("socket_timeout", min=0.1, help="Seconds that a call waits for its answer. Default: no limit."),
    cfg.BoolOpt("tls", help="Whether the servers are spoken to through TLS."),
    cfg.StrOpt("tls_ca_file", help="File with the certificates of the authorities that the servers may have."),
    cfg.StrOpt("tls_certificate_key_file", help="File with the certificate that this client shows, and its key."),
    cfg.StrOpt("tls_certificate_key_file_password", secret=True, help="Password of that key."),
    cfg.BoolOpt("tls_allow_invalid_hostnames", help="Whether a certificate may name another host than the server's."),
)


def _of(name: str, text: Callable[[Any], str] = str) -> dict[str, Parameter]:
    return {"mongodb": Parameter(name, text)}


PARAMETERS: Mapping[str, Mapping[str, Parameter]] = {
    "collection_prefix": _of("prefix"),
    "max_retries": _of("attempts", attempts),
    "replica_set": _of("replicaSet"),
    "auth_source": _of("authSource"),
    "server_selection_timeout": _of("serverSelectionTimeoutMS", milliseconds),
    "connect_timeout": _of("connectTimeoutMS", milliseconds),
    "socket_timeout": _of("socketTimeoutMS", milliseconds),
    "tls": _of("tls", flag),
    "tls_ca_file": _of("tlsCAFile"),
    "tls_certificate_key_file": _of("tlsCertificateKeyFile"),
    "tls_certificate_key_file_password": _of("tlsCertificateKeyFilePassword"),
    "tls_allow_invalid_hostnames": _of("tlsAllowInvalidHostnames", flag),
}

#: Options that name a file, which must be there.
FILES = frozenset({"tls_ca_file", "tls_certificate_key_file"})


def list_opts() -> list[tuple[str, Sequence[cfg.Opt]]]:
    """The options by group, for oslo-config-generator."""
    return [(f"{GROUP}_{SUFFIX}", OPTIONS)]
