# SPDX-License-Identifier: Apache-2.0
"""Options of ini files for SQLite, PostgreSQL, MariaDB and MySQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from oslo_config import cfg

from pluggableflow.config import GROUP, Parameter, attempts, flag, retries_option

SUFFIX = "sqlalchemy"

OPTIONS: Sequence[cfg.Opt] = (
    cfg.StrOpt(
        "table_prefix",
        max_length=30,
        regex="^[A-Za-z0-9_]*$",
        help="What the names of all tables begin with, the table of the schema's version among them."
        " Default: pluggableflow_.",
    ),
    cfg.StrOpt(
        "sqlite_synchronous",
        choices=[("full", "every commit waits for the disk"), ("normal", "a power failure may undo the last commits")],
        help="How safe a commit of SQLite is. Default: full.",
    ),
    retries_option("db_max_retries"),
    cfg.IntOpt("connect_timeout", min=1, help="Seconds that a new connection to PostgreSQL or MariaDB may take."),
    cfg.StrOpt(
        "ssl_mode",
        choices=[
            ("disable", "without TLS"),
            ("allow", "with TLS if the server insists"),
            ("prefer", "with TLS if the server can"),
            ("require", "with TLS, whoever the server is"),
            ("verify-ca", "with TLS and a certificate that ssl_ca has signed"),
            ("verify-full", "with TLS and a certificate that ssl_ca has signed for this host"),
        ],
        help="How PostgreSQL is spoken to.",
    ),
    cfg.BoolOpt("ssl_check_hostname", help="Whether the certificate of MariaDB must name its host. Needs ssl_ca."),
    cfg.StrOpt("ssl_ca", help="File with the certificates of the authorities that PostgreSQL or MariaDB may have."),
    cfg.StrOpt("ssl_cert", help="File with the certificate that this client shows."),
    cfg.StrOpt("ssl_key", help="File with the key of that certificate."),
)

_SERVERS = ("postgresql", "mysql", "mariadb")


def _tls(postgresql: str, mysql: str) -> dict[str, Parameter]:
    return {scheme: Parameter(postgresql if scheme == "postgresql" else mysql) for scheme in _SERVERS}


PARAMETERS: Mapping[str, Mapping[str, Parameter]] = {
    "table_prefix": {scheme: Parameter("prefix") for scheme in ("sqlite", *_SERVERS)},
    "sqlite_synchronous": {"sqlite": Parameter("synchronous")},
    "db_max_retries": {scheme: Parameter("attempts", attempts) for scheme in ("sqlite", *_SERVERS)},
    "connect_timeout": {scheme: Parameter("connect_timeout") for scheme in _SERVERS},
    "ssl_mode": {"postgresql": Parameter("sslmode")},
    "ssl_check_hostname": {scheme: Parameter("ssl_check_hostname", flag) for scheme in ("mysql", "mariadb")},
    "ssl_ca": _tls("sslrootcert", "ssl_ca"),
    "ssl_cert": _tls("sslcert", "ssl_cert"),
    "ssl_key": _tls("sslkey", "ssl_key"),
}

#: Options that name a file, which must be there.
FILES = frozenset({"ssl_ca", "ssl_cert", "ssl_key"})


def list_opts() -> list[tuple[str, Sequence[cfg.Opt]]]:
    """The options by group, for oslo-config-generator."""
    return [(f"{GROUP}_{SUFFIX}", OPTIONS)]
