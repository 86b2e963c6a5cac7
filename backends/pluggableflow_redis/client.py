# SPDX-License-Identifier: Apache-2.0
"""The driver's clients: made from a URL or passed in, scripts run through them, errors told in our words."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import msgpack
import redis
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.cluster import ClusterNode
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from pluggableflow.exceptions import OptionError, StorageFailure

#: A command that ended in one of these may succeed when it is sent again: the connection was cut, the server is
#: loading its data, or the roles or slots of the servers are just being moved. All our scripts may be sent again.
TRANSIENT: tuple[type[Exception], ...] = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    ClusterDownError,
    TryAgainError,
)
#: Children of the above that sending again does not cure.
_LASTING: tuple[type[Exception], ...] = (redis.exceptions.AuthenticationError,)
ATTEMPTS = 6
FIRST_WAIT_SECONDS = 0.02
LONGEST_WAIT_SECONDS = 1.0
_UNBOUNDED = 2**31 - 1
#: Others wait while the server carries out one command, so none is too large.
_KEYS_AT_ONCE = 1000

_SCHEMES = ("redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_TEXTS = {"client_name", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"}
#: Parameters of a URL that are handed to the driver, and how their text is read.
_DRIVER: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(_TEXTS, str),
    "socket_timeout": float,
    "socket_connect_timeout": float,
    "health_check_interval": int,
    "max_connections": int,
}
#: Parameters that are for us.
_OURS: dict[str, Callable[[str], Any]] = {"prefix": str, "attempts": int}
#: Of ``redis+sentinel`` alone: how to log in to the sentinels, who do not share the servers' passwords.
_SENTINEL: dict[str, Callable[[str], Any]] = {"sentinel_username": str, "sentinel_password": str}

T = TypeVar("T")


class Script:
    """One Lua program; the server keeps it under its SHA-1."""

    def __init__(self, *parts: str) -> None:
        self.text = "\n".join(part.strip() for part in parts).encode()
        self.sha = hashlib.sha1(self.text).hexdigest().encode()


def packed(values: Sequence[Any]) -> bytes:
    """A MessagePack array of texts, which a script unpacks much faster than the driver sends as many arguments."""
    # Not as numbers: those of scripts have 53 bits only.
    texts = [value if isinstance(value, (str, bytes)) else b"%d" % value for value in values]
    return bytes(msgpack.packb(texts, use_bin_type=False))


Call = tuple[Script, Sequence[bytes], Sequence[Any]]


class _Opened:
    """A driver's client, and those of its connections that no call uses now, of one process."""

    def __init__(self, client: Any, made_here: bool) -> None:
        self.client, self.pid = client, os.getpid()
        self.free: list[Any] = []
        pool = None if _is_cluster(client) else client.connection_pool
        # A pool with a bound is not kept from its connections. That of sentinels gives up those to a former master.
        self.keeps = (
            made_here
            and pool is not None
            and pool.max_connections >= _UNBOUNDED
            and not isinstance(pool, SentinelConnectionPool)
        )


class Client:
    """Runs scripts on one server, on the master that sentinels name, or on a cluster.

    :param make: makes the driver's client, again in a process that was forked; ``None``: it was passed in
    :param place: the URL without its password, for errors
    :param attempts: how often what meets transient errors is done, in all
    """

    def __init__(
        self, client: Any, place: str, make: Callable[[], Any] | None = None, attempts: int = ATTEMPTS
    ) -> None:
        self.place, self._make, self._attempts = place, make, attempts
        self._lock, self._lock_pid = threading.Lock(), os.getpid()
        # Replaced in one step, so that no thread of a forked process sees a part of its parent's.
        self._opened = None if client is None else _Opened(client, made_here=False)

    @property
    def driver(self) -> Any:
        """The driver's client for this process."""
        return self._open().client

    def _open(self) -> _Opened:
        opened = self._opened
        if opened is not None and (self._make is None or opened.pid == os.getpid()):
            return opened
        assert self._make is not None
        if self._lock_pid != os.getpid():
            # Another thread of the parent may have held the old lock. The parent's client is left as it is.
            self._lock, self._lock_pid = threading.Lock(), os.getpid()
        with self._lock:
            opened = self._opened
            if opened is None or opened.pid != os.getpid():
                opened = self._opened = _Opened(self._make(), made_here=True)
            return opened

    def close(self) -> None:
        """Close what was made here; what was passed in stays open."""
        opened = self._opened
        if self._make is not None and opened is not None:
            self._opened = None
            if opened.pid == os.getpid():
                _close(opened.client)

    def attempt(self, work: Callable[[], T]) -> T:
        """Do what may be done twice, and again after a transient error.

        :raises StorageFailure: it failed too often, or for good
        """
        for number in range(1, self._attempts + 1):
            try:
                return work()
            except (RedisError, RedisClusterException, OSError) as error:
                if isinstance(error, StorageFailure):
                    raise
                lasting = not isinstance(error, TRANSIENT) or isinstance(error, _LASTING)
                if lasting or number == self._attempts:
                    raise self._failure(error) from error
            time.sleep(random.uniform(0, min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**number)))
        raise AssertionError("unreachable")

    def command(self, *parts: Any, **options: Any) -> Any:
        """Send one command; the answer has bytes, whatever the client decodes."""
        return self.attempt(lambda: self.driver.execute_command(*parts, **{NEVER_DECODE: True}, **options))

    def run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Any] = ()) -> Any:
        """Run a script, all of whose keys share one hash tag."""
        try:
            return self._run(script, keys, arguments)
        except TRANSIENT:
            return self.attempt(lambda: self._run(script, keys, arguments))
        except (RedisError, RedisClusterException, OSError) as error:
            raise self._failure(error) from error

    def _run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        try:
            return self._send("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return self._send("EVAL", script.text, len(keys), *keys, *arguments)

    def _send(self, *parts: Any) -> Any:
        """Send one command, if possible past the driver's pool: on a connection that no other call uses now.

        One that was cut off meanwhile fails, and the next is a new one.
        """
        opened = self._open()
        if not opened.keeps:
            return opened.client.execute_command(*parts, **{NEVER_DECODE: True})
        pool, free = opened.client.connection_pool, opened.free
        try:
            connection = free.pop()
        except IndexError:
            connection = _new_connection(pool)
        try:
            connection.send_packed_command((_request(parts),))
            answer = connection.read_response(disable_decoding=True)
        except ResponseError:
            free.append(connection)
            raise
        except BaseException:
            # It may be in the middle of an answer; and where the server has gone, the others are cut off as well.
            for each in (connection, *_taken(free)):
                each.disconnect()
                pool.release(each)
            raise
        free.append(connection)
        return answer

    def run_many(self, calls: Iterable[Call]) -> list[Any]:
        """Run scripts on many keys, sent together; the answer to each, an error of the server included."""
        waiting = list(calls)
        answers = self._pipeline(
            [("EVALSHA", script.sha, len(keys), *keys, *arguments) for script, keys, arguments in waiting]
        )
        for number, answer in enumerate(answers):
            if isinstance(answer, (*TRANSIENT, NoScriptError)):
                answers[number] = self.run(*waiting[number])
        return answers

    def send_many(self, commands: Sequence[Sequence[Any]]) -> None:
        """Send commands together, each on one key, all of which must succeed."""
        for number, answer in enumerate(self._pipeline(commands)):
            if isinstance(answer, Exception):
                self.command(*commands[number])

    def set_many(self, values: Sequence[tuple[bytes, bytes]]) -> None:
        """Set keys that need not share a hash tag; not all at once."""
        if _is_cluster(self.driver):
            self.send_many([("SET", *pair) for pair in values])
            return
        # One command of many keys costs the driver a tenth of as many commands.
        for start in range(0, len(values), _KEYS_AT_ONCE):
            self.command("MSET", *itertools.chain.from_iterable(values[start : start + _KEYS_AT_ONCE]))

    def _pipeline(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        def work() -> list[Any]:
            if not commands:
                return []
            with self.driver.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command, **{NEVER_DECODE: True})
                return list(pipeline.execute(raise_on_error=False))

        return self.attempt(work)

    def servers(self) -> list[Any]:
        """A client for each server that holds data."""
        driver = self.driver
        if _is_cluster(driver):
            return [driver.get_redis_connection(node) for node in driver.get_primaries()]
        return [driver]

    def _failure(self, error: Exception) -> StorageFailure:
        if isinstance(error, redis.exceptions.AuthenticationError):
            return StorageFailure(f"{self.place} refuses the login: {error}; check user and password")
        if isinstance(error, (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)):
            return StorageFailure(f"{self.place} does not answer: {error}; is it running?")
        if isinstance(error, RedisClusterException):
            return StorageFailure(f"{self.place}: {error}; is the cluster running, and are all its slots served?")
        return StorageFailure(f"{self.place}: {error}")


def _request(parts: Iterable[Any]) -> bytes:
    """A command as it is sent, in one piece."""
    texts = [part if type(part) is bytes else str(part).encode() for part in parts]
    return b"".join([b"*%d\r\n" % len(texts), *[b"$%d\r\n%b\r\n" % (len(text), text) for text in texts]])


def _new_connection(pool: Any) -> Any:
    try:
        return pool.get_connection()
    except BaseException:
        # The pool may now have one that was interrupted in its greeting, and would take the rest of that for an answer.
        pool.disconnect(inuse_connections=False)
        raise


def _taken(free: list[Any]) -> Iterator[Any]:
    """Empty a list that other threads use as well."""
    while free:
        with contextlib.suppress(IndexError):
            yield free.pop()


def _close(client: Any) -> None:
    """Close a client with all that the driver's own ``close`` leaves open in some of its releases."""
    client.close()
    if _is_cluster(client):
        for node in (*client.get_nodes(), *client.nodes_manager.startup_nodes.values()):
            if node.redis_connection is not None:
                node.redis_connection.connection_pool.disconnect()
    elif isinstance(client.connection_pool, SentinelConnectionPool):
        client.connection_pool.disconnect()
        for sentinel in client.connection_pool.sentinel_manager.sentinels:
            sentinel.close()


def _is_cluster(client: Any) -> bool:
    return isinstance(client, redis.RedisCluster)


def place_of(client: Any) -> str:
    """Where a client that was passed in connects to, for people."""
    if _is_cluster(client):
        return "redis+cluster://" + ",".join(f"{node.host}:{node.port}" for node in client.get_primaries()[:1])
    known = client.connection_pool.connection_kwargs
    return f"redis://{known.get('host', known.get('path', 'localhost'))}:{known.get('port', '')}/{known.get('db', 0)}"


def client_from_url(url: str) -> tuple[Client, dict[str, Any]]:
    """A client for a URL, which connects when it is first used, and those of its parameters that are ours.

    :raises OptionError: a part of it is unknown or impossible
    """
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if scheme not in _SCHEMES:
        raise OptionError(
            f"{scheme}:// is no scheme of Redis; write one of {', '.join(each + '://' for each in _SCHEMES)}"
        )
    login, _, hosts = parts.netloc.rpartition("@")
    place = f"{scheme}://{hosts}{parts.path}"
    ours: dict[str, Any] = {}
    options: dict[str, Any] = {"socket_timeout": 30.0, "socket_connect_timeout": 10.0, "retry": Retry(NoBackoff(), 0)}
    options |= {"max_connections": _UNBOUNDED}  # a bound would make renewals wait, or fail
    if login:
        user, _, password = login.partition(":")
        options |= {"username": unquote(user) or None, "password": unquote(password) or None}
    sentinel = {**_SENTINEL} if scheme.endswith("+sentinel") else {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        reader = (_OURS | _DRIVER | sentinel).get(name)
        if reader is None:
            known = ", ".join(sorted({*_OURS, *_DRIVER, *sentinel}))
            raise OptionError(f"{scheme} has no parameter {name!r}; it has {known}")
        if name.startswith("ssl_") and not scheme.startswith("rediss"):
            raise OptionError(f"{name} needs a connection with TLS; write rediss instead of redis in the scheme")
        (ours if name in _OURS or name in sentinel else options)[name] = _read(name, value, reader)
    logins = {name[9:]: ours.pop(name) for name in sentinel if name in ours}
    nodes = [_host(each, 26379 if sentinel else 6379, url) for each in hosts.split(",")]
    make = _maker(scheme, nodes, parts.path.strip("/"), options, logins)
    return Client(None, place, make, ours.pop("attempts", ATTEMPTS)), ours


def _read(name: str, text: str, reader: Callable[[str], Any]) -> Any:
    try:
        value = reader(text)
    except ValueError:
        value = None
    if value is None or (isinstance(value, (int, float)) and not 0 < value < float("inf")):
        raise OptionError(f"{name} must be a number above 0, not {text!r}")
    return value


def _host(text: str, default_port: int, url: str) -> tuple[str, int]:
    try:
        one = urlsplit(f"//{text}")
        return one.hostname or "localhost", one.port or default_port
    except ValueError as error:
        raise OptionError(f"{text!r} is no host and port: {error}") from None


def _maker(
    scheme: str, nodes: list[tuple[str, int]], path: str, options: dict[str, Any], logins: dict[str, str]
) -> Callable[[], Any]:
    """What makes the client, once all parts are known to be possible."""
    secure: dict[str, Any] = {"ssl": True} if scheme.startswith("rediss") else {}
    kind = scheme.partition("+")[2]
    if kind == "cluster":
        if path not in ("", "0"):
            raise OptionError(f"a cluster has the database 0 alone, not {path!r}; use another prefix instead")
        make_node: Any = ClusterNode
        # Made anew each time, since some releases of the driver leave a connection in them.
        return lambda: redis.RedisCluster(startup_nodes=[make_node(*node) for node in nodes], **options, **secure)
    service, _, database = path.rpartition("/") if kind else ("", "", path)
    if kind and not service:
        service, database = database, ""
    if kind and not service:
        raise OptionError("redis+sentinel:// needs the name of the service: redis+sentinel://HOST:PORT/SERVICE/0")
    if not (database or "0").isdecimal():
        raise OptionError(f"the database of Redis is a number, not {database!r}")
    if kind:
        asking = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout")} | logins | secure
        make_sentinel: Any = Sentinel
        return lambda: make_sentinel(nodes, sentinel_kwargs=asking, **options, **secure).master_for(
            service, db=int(database or 0)
        )
    if len(nodes) > 1:
        raise OptionError("redis:// names one server; write redis+cluster:// or redis+sentinel:// for several")
    (host, port), number = nodes[0], int(database or 0)
    return lambda: redis.Redis(host=host, port=port, db=number, **options, **secure)
