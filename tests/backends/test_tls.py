# SPDX-License-Identifier: Apache-2.0
"""Stores that are spoken to through TLS, configured by an ini file; servers ask for certificates of their clients."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from servers import MariaDBServer, MongoDBServer, PostgreSQLServer, RedisServer, Server, free_port

from tests.conftest import start_or_skip

USER = "tls"
FLOW = """
from pluggableflow import task
from pluggableflow.patterns import linear_flow

def create_flow():
    return linear_flow.Flow("secret").add(task.FunctorTask(lambda: 7, name="task", provides="x"))
"""


class Certificates:
    """Of an authority, a server and a client, and of another authority, as files of a folder."""

    def __init__(self, folder: Path) -> None:
        ours, other = trustme.CA(), trustme.CA()
        server, client = ours.issue_cert("127.0.0.1", "localhost"), ours.issue_cert(USER, common_name=USER)
        self.ca, self.other_ca = str(folder / "ca.pem"), str(folder / "other.pem")
        ours.cert_pem.write_to_path(self.ca)
        other.cert_pem.write_to_path(self.other_ca)
        for name, issued in ("server", server), ("client", client):
            issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
            issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
            issued.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{name}.both"))
            (folder / f"{name}.key").chmod(0o600)
        for path in (folder, *folder.iterdir()):
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0))
        self.folder = folder

    def __getattr__(self, name: str) -> str:
        """``server_pem``, ``client_key`` and so on: the path of that file."""
        who, _, what = name.partition("_")
        if what not in ("pem", "key", "both"):
            raise AttributeError(name)
        return str(self.folder / f"{who}.{what}")


class Redis(RedisServer):
    def command(self) -> list[str]:
        certificates: Certificates = self.options["certificates"]
        self.tls_port = free_port()
        return [
            *super().command(), "--tls-port", str(self.tls_port), "--tls-cert-file", certificates.server_pem,
            "--tls-key-file", certificates.server_key, "--tls-ca-cert-file", certificates.ca,
            "--tls-auth-clients", "yes",
        ]  # fmt: skip

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.tls_port}/0"


class MariaDB(MariaDBServer):
    def command(self) -> list[str]:
        certificates: Certificates = self.options["certificates"]
        files = (certificates.server_pem, certificates.server_key, certificates.ca)
        return [*super().command(), *map("--ssl-{}={}".format, ("cert", "key", "ca"), files)]

    def ping(self) -> None:
        import pymysql

        super().ping()
        root = pymysql.connect(host="127.0.0.1", port=self.port, user="root")
        with root as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE USER IF NOT EXISTS {USER}@'%' REQUIRE X509")
            cursor.execute(f"GRANT ALL ON *.* TO {USER}@'%'")

    @property
    def url(self) -> str:
        return f"mariadb://{USER}@127.0.0.1:{self.port}/flows"


class MongoDB(MongoDBServer):
    def command(self) -> list[str]:
        certificates: Certificates = self.options["certificates"]
        return [
            *super().command(), "--tlsMode", "preferTLS", "--tlsCertificateKeyFile", certificates.server_both,
            "--tlsCAFile", certificates.ca,
        ]  # fmt: skip


class PostgreSQL(PostgreSQLServer):
    def prepare(self) -> None:
        certificates: Certificates = self.options["certificates"]
        super().prepare()
        for name, source in ("server.pem", certificates.server_pem), ("server.key", certificates.server_key), (
            "ca.pem", certificates.ca,
        ):  # fmt: skip
            copied = self.data / name
            copied.write_bytes(Path(source).read_bytes())
            copied.chmod(0o600)
            if os.getuid() == 0:
                account = pwd.getpwnam(str(self.user))
                os.chown(copied, account.pw_uid, account.pw_gid)
        (self.data / "pg_hba.conf").write_text(
            f"hostssl all {USER} 127.0.0.1/32 trust clientcert=verify-ca\nhost all postgres 127.0.0.1/32 trust\n"
        )

    def command(self) -> list[str]:
        settings = {"ssl": "on", "ssl_cert_file": "server.pem", "ssl_key_file": "server.key", "ssl_ca_file": "ca.pem"}
        return [*super().command(), *(part for each in settings.items() for part in ("-c", "=".join(each)))]

    def ping(self) -> None:
        import psycopg

        with psycopg.connect(f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres", autocommit=True) as made:
            if made.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (USER,)).fetchone() is None:
                made.execute(f"CREATE ROLE {USER} LOGIN SUPERUSER")

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"


#: Server, its group, and the options for an authority and for a client's certificate.
STORES: dict[str, tuple[type[Server], str, Any, Any]] = {
    "redis": (
        Redis, "redis", lambda ca: {"ssl_ca_certs": ca},
        lambda made: {"ssl_certfile": made.client_pem, "ssl_keyfile": made.client_key},
    ),
    "postgresql": (
        PostgreSQL, "sqlalchemy", lambda ca: {"ssl_mode": "verify-full", "ssl_ca": ca},
        lambda made: {"ssl_cert": made.client_pem, "ssl_key": made.client_key},
    ),
    "mariadb": (
        MariaDB, "sqlalchemy", lambda ca: {"ssl_ca": ca},
        lambda made: {"ssl_cert": made.client_pem, "ssl_key": made.client_key},
    ),
    "mongodb": (
        MongoDB, "mongodb", lambda ca: {"tls": "true", "tls_ca_file": ca, "server_selection_timeout": "5"},
        lambda made: {"tls_certificate_key_file": made.client_both},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def certificates() -> Iterator[Certificates]:
    # Not below pytest's own folder, which the users that servers run as cannot enter.
    with tempfile.TemporaryDirectory(prefix="pluggableflow-tls-") as folder:
        yield Certificates(Path(folder))


@pytest.mark.parametrize("store", STORES)
def test_a_flow_runs_through_tls_if_both_sides_show_certificates_that_the_other_accepts(
    store: str, certificates: Certificates, tmp_path: Path
) -> None:
    kind, group, trusting, showing = STORES[store]
    (tmp_path / "flow.py").write_text(FLOW)

    def run(**options: str) -> subprocess.CompletedProcess[str]:
        lines = "".join(f"{name} = {value}\n" for name, value in options.items())
        (tmp_path / "flows.conf").write_text(
            f"[pluggableflow]\nconnection = {server.url}\n[pluggableflow_{group}]\n{lines}"
        )
        command = [sys.executable, "-m", "pluggableflow", "--config-file", "flows.conf", "run", "flow.py", "--json"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    with tempfile.TemporaryDirectory(prefix="pluggableflow-", ignore_cleanup_errors=True) as folder:
        server = start_or_skip(lambda: kind(Path(folder) / "server", durable=False, certificates=certificates))
        try:
            done = run(**trusting(certificates.ca), **showing(certificates))
            assert done.returncode == 0 and '"SUCCESS"' in done.stdout, done.stderr
            for options in (
                {**trusting(certificates.other_ca), **showing(certificates)},  # the server could be anybody
                trusting(certificates.ca),  # and so could we
            ):
                refused = run(**options)
                assert refused.returncode == 2 and refused.stderr.startswith("pluggableflow: "), refused.stderr
        finally:
            server.stop()
