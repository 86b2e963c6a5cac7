# SPDX-License-Identifier: Apache-2.0
"""What a connection needs of the driver: URL options, collections with the right concerns, errors, repetition."""

from __future__ import annotations

import contextlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

from bson.codec_options import CodecOptions
from bson.errors import BSONError
from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import split_options

from pluggableflow.connection import check_prefix, read_attempts
from pluggableflow.exceptions import OptionError, StorageFailure

#: The server or the way to it changed (an election, a cut connection); the same statement may succeed in a moment.
TRANSIENT_ERRORS = (AutoReconnect,)
#: No server was found within ``serverSelectionTimeoutMS``, which was wait enough.
LASTING_ERRORS = (ServerSelectionTimeoutError,)
#: HostUnreachable, HostNotFound, NetworkTimeout, ShutdownInProgress, WriteConflict, PrimarySteppedDown,
#: ExceededTimeLimit, SocketException, NotWritablePrimary, InterruptedAtShutdown, InterruptedDueToReplStateChange,
#: NotPrimaryNoSecondaryOk, NotPrimaryOrSecondary
TRANSIENT_CODES = frozenset({6, 7, 89, 91, 112, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436})
ATTEMPTS = 6
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 2.0

_DATABASE = "pluggableflow"
_SERVER_SELECTION_MS = 10_000
#: Sockets that are opened at the same time.
_CONNECTING = 100
#: Parameters that are the driver's. ``maxPoolSize`` is not among them: with a limit, a renewal could wait.
_DRIVER_PARAMETERS = frozenset(
    {
        "appName", "authMechanism", "authMechanismProperties", "authSource", "compressors", "connectTimeoutMS",
        "directConnection", "journal", "localThresholdMS", "maxIdleTimeMS", "readConcernLevel", "replicaSet",
        "retryReads", "retryWrites", "serverSelectionTimeoutMS", "socketTimeoutMS", "srvMaxHosts", "srvServiceName",
        "ssl", "tls", "tlsAllowInvalidCertificates", "tlsAllowInvalidHostnames", "tlsCAFile", "tlsCertificateKeyFile",
        "tlsCertificateKeyFilePassword", "tlsInsecure", "w", "wTimeoutMS",
    }
)  # fmt: skip
_INHERITED: list[Any] = []

_Answer = TypeVar("_Answer")
Document = dict[str, Any]


def shown(url: str) -> str:
    """A URL without its password and its parameters."""
    return re.sub(r"(://[^/@:]*):[^/]*@", r"\1:***@", url).partition("?")[0]


def options_of(url: str) -> tuple[str, str, Document]:
    """The prefix, the URL as the driver takes it, and its parameters as the driver understands them.

    ``attempts`` stands among these, though it is not the driver's.

    :raises OptionError: a parameter is unknown or has an impossible value
    """
    canonical = {name.lower(): name for name in _DRIVER_PARAMETERS}
    prefix = "pluggableflow_"
    given: dict[str, str] = {}
    options: Document = {}
    for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if name == "prefix":
            prefix = value
            continue
        if name == "attempts":
            options[name] = read_attempts(value)
            continue
        if name.lower() not in canonical:
            known = ", ".join(sorted({"prefix", "attempts", *_DRIVER_PARAMETERS}, key=str.lower))
            raise OptionError(f"mongodb:// has no parameter {name!r}; it has {known}")
        given[canonical[name.lower()]] = value
        try:
            # One by one: the driver does not say which one it means.
            options.update(split_options(urlencode({name: value}), validate=True, warn=False))
        except (PyMongoError, ValueError, TypeError) as error:
            raise OptionError(f"{name} cannot be {value!r}: {error}") from error
    if options.get("w") == 0:
        raise OptionError("w cannot be 0: a commit must know that it was written; the default is majority")
    given.setdefault("serverSelectionTimeoutMS", str(_SERVER_SELECTION_MS))
    base = url.partition("?")[0]
    base += "" if urlsplit(base).path else "/"
    return prefix, f"{base}?{urlencode(given)}", options


class Store:
    """Three collections and the schema version, over a client of our own or an embedder's.

    :ivar books, flows, atoms, version: collections with the concerns of this store
    :ivar place: names it in errors
    """

    books: Collection[Document]
    flows: Collection[Document]
    atoms: Collection[Document]
    version: Collection[Document]

    def __init__(
        self,
        prefix: str,
        *,
        url: str | None = None,
        database: Database[Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_prefix(prefix)
        self._prefix, self._url, self._options = prefix, url, options or {}
        self._fork_lock = threading.Lock()
        if database is None:
            database = self._made()
        self.place = shown(url) if url is not None else f"MongoDB database {database.name!r}"
        self._use(database)

    def _made(self) -> Database[Any]:
        """A database of a new client, whose pool has no limit, so that a renewal never waits for a socket."""
        url = str(self._url)
        try:
            client: MongoClient[Any] = MongoClient(url, maxPoolSize=0, maxConnecting=_CONNECTING)
        except (ConfigurationError, ValueError, TypeError) as error:
            raise OptionError(f"{shown(url)} cannot be used: {error}") from error
        except PyMongoError as error:
            raise StorageFailure(f"{shown(url)}: {error}") from error
        return client.get_default_database(_DATABASE)

    def _use(self, database: Database[Any]) -> None:
        self._database = database
        concerns: Any = {
            "codec_options": CodecOptions(),
            "read_preference": ReadPreference.PRIMARY,
            "read_concern": ReadConcern(self._options.get("readconcernlevel", "majority")),
            "write_concern": WriteConcern(
                self._options.get("w", "majority"), self._options.get("wtimeoutms"), self._options.get("journal", True)
            ),
        }
        for name in ("books", "flows", "atoms", "version"):
            title = {"books": "logbooks"}.get(name, name)
            setattr(self, name, database.get_collection(f"{self._prefix}{title}", **concerns))
        self._pid = os.getpid()  # last, since other threads go on when they see it

    def close(self) -> None:
        if self._url is not None and os.getpid() == self._pid:
            self._database.client.close()

    def after_fork(self) -> None:
        """Give a forked child a client of its own, or tell it that it has none."""
        if os.getpid() == self._pid:
            return
        if self._url is None:
            raise StorageFailure(
                f"the client of {self.place} belongs to the parent process; make a MongoClient in the child"
            )
        with self._fork_lock:
            if os.getpid() != self._pid:
                _INHERITED.append(self._database)  # never closed here: its sockets are the parent's
                self._use(self._made())

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the driver's errors into ours."""
        self.after_fork()
        try:
            yield
        except ServerSelectionTimeoutError as error:
            raise StorageFailure(f"no answer from {self.place}; is it running? ({_first_line(error)})") from error
        except OperationFailure as error:
            hint = "; check user, password and authSource" if error.code in (13, 18) else ""
            hint = "; run `pluggableflow upgrade` on it" if "hint provided" in str(error) else hint
            raise StorageFailure(f"{self.place}: {_first_line(error)}{hint}") from error
        except (PyMongoError, BSONError, OverflowError, UnicodeError) as error:
            raise StorageFailure(f"{self.place}: {_first_line(error)}") from error

    def repeated(self, statement: Callable[[], _Answer]) -> _Answer:
        """Run what may safely be sent again, up to ``attempts`` times while its errors are transient."""
        for attempt in range(int(self._options.get("attempts", ATTEMPTS)) - 1):
            try:
                return statement()
            except PyMongoError as error:
                if not _is_transient(error):
                    raise
            pause(attempt)
        return statement()


def pause(attempt: int) -> None:
    """Wait a random time, the longer the more attempts have failed."""
    time.sleep(random.uniform(0, min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**attempt)))


def _is_transient(error: PyMongoError) -> bool:
    if isinstance(error, LASTING_ERRORS):
        return False
    return isinstance(error, TRANSIENT_ERRORS) or getattr(error, "code", None) in TRANSIENT_CODES


def _first_line(error: BaseException) -> str:
    """What is for people; the driver adds its settings and all that it knows of the servers."""
    lines = str(error).splitlines()
    line = re.split(r" \(configured timeouts|, Timeout: ", lines[0])[0] if lines else ""
    return line[:500] or type(error).__name__
