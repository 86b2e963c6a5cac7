# SPDX-License-Identifier: Apache-2.0
"""Ini files: their samples, what becomes of their options, and flows that run as they say on real servers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from oslo_config import cfg

from pluggableflow import api, config, task
from pluggableflow.exceptions import OptionError
from pluggableflow.loader import connection_for
from pluggableflow.patterns import linear_flow

ROOT = Path(__file__).parents[2]
ETC = ROOT / "etc" / "pluggableflow"
#: Store to the fixture with the URL of its server; ``None`` where files do.
STORES = {
    "sqlite": None,
    "directory": None,
    "postgresql": "postgresql_url",
    "mariadb": "mariadb_url",
    "mongodb": "mongodb_url",
    "redis": "redis_url",
}
FLOW = """
from pluggableflow import task
from pluggableflow.patterns import linear_flow

def create_flow():
    return linear_flow.Flow("configured").add(task.FunctorTask(lambda: 7, name="task", provides="x"))
"""


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / name), *arguments], cwd=ROOT, capture_output=True, text=True
    )


def write(folder: Path, core: str = "", **groups: str) -> str:
    text = f"[pluggableflow]\n{core}\n" + "".join(f"[{group}]\n{options}\n" for group, options in groups.items())
    (folder / "flows.conf").write_text(text)
    return str(folder / "flows.conf")


def query(file: str) -> list[str]:
    return sorted(config.url(config.read([file])).partition("?")[2].split("&"))


@pytest.mark.parametrize("store", STORES)
def test_a_sample_is_what_the_generator_makes(store: str, tmp_path: Path) -> None:
    made = tool(
        "oslo-config-generator", "--config-file", f"etc/pluggableflow/generator/{store}.conf",
        "--output-file", str(tmp_path / "sample"),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "sample").read_text() == (ETC / f"{store}.conf.sample").read_text()


@pytest.mark.parametrize("store", STORES)
def test_a_sample_that_is_filled_in_is_valid_and_runs_a_flow(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    fixture = STORES[store]
    if fixture is not None:
        url = request.getfixturevalue(fixture)
    else:
        url = f"{'sqlite' if store == 'sqlite' else 'dir'}:///{tmp_path}/flows"
    text, count = re.subn("(?m)^#connection = .*$", lambda _: f"connection = {url}", (
        ETC / f"{store}.conf.sample"
    ).read_text())  # fmt: skip
    assert count == 1
    for name, given in {"engine": "parallel", "max_workers": "2", "lease_seconds": "20"}.items():
        text, count = re.subn(f"(?m)^#{name} = .*$", f"{name} = {given}", text)
        assert count == 1
    prefix = re.search("(?m)^#(table_prefix|collection_prefix|key_prefix) = ", text)
    if prefix is not None:
        text = re.sub(f"(?m)^#{prefix[1]} = .*$", f"{prefix[1]} = configured_", text)
    file = tmp_path / "flows.conf"
    file.write_text(text)
    valid = tool(
        "oslo-config-validator", "--config-file", f"etc/pluggableflow/generator/{store}.conf", "--input-file", str(file)
    )
    assert valid.returncode == 0, valid.stdout + valid.stderr
    (tmp_path / "flow.py").write_text(FLOW)
    command = [sys.executable, "-m", "pluggableflow", "--config-file", str(file)]
    done = subprocess.run([*command, "run", str(tmp_path / "flow.py"), "--json"], capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["results"] == {"x": 7}, done.stderr
    listed = subprocess.run([*command, "list", "--json"], capture_output=True, text=True)
    uuid = json.loads(done.stdout)["uuid"]
    assert [flow["state"] for flow in json.loads(listed.stdout) if flow["uuid"] == uuid] == ["SUCCESS"]
    if prefix is not None:  # it is kept under that prefix, and no other
        with closing(api.connect(url)) as connection:
            assert uuid not in {flow.uuid for flow in connection.find_flows()}
        with closing(api.connect(f"{url}{'&' if '?' in url else '?'}prefix=configured_")) as connection:
            assert uuid in {flow.uuid for flow in connection.find_flows()}
            connection.clear_all()


def test_an_embedder_loads_a_flow_from_its_own_configuration_and_group(tmp_path: Path) -> None:
    conf = cfg.ConfigOpts()
    (tmp_path / "service.conf").write_text(
        f"[workflows]\nconnection = sqlite:///{tmp_path}/flows.db\nengine = parallel\nmax_workers = 3\n"
        "[workflows_sqlalchemy]\ntable_prefix = mine_\n"
    )
    conf([], default_config_files=[str(tmp_path / "service.conf")])
    flow = linear_flow.Flow("f").add(task.FunctorTask(lambda: 7, name="task", provides="x"))
    engine = config.load(conf, flow, group="workflows", max_workers=2)
    engine.run()
    assert engine.storage.fetch("x") == 7 and engine.options["max_workers"] == 2
    assert engine.connection is not None
    engine.connection.close()
    with closing(api.connect(f"sqlite:///{tmp_path}/flows.db?prefix=mine_")) as connection:
        assert [found.name for found in connection.find_flows()] == ["f"]


def test_nothing_is_registered_in_the_global_configuration() -> None:
    code = "import pluggableflow.config; from oslo_config import cfg; assert not [n for n in cfg.CONF if 'flow' in n]"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_core_does_without_oslo_config_until_it_is_used() -> None:
    code = "import sys, pluggableflow.api, pluggableflow.cli.commands; assert 'oslo_config' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "url, group, options, expected",
    [
        (
            "postgresql://h/d", "sqlalchemy", "ssl_mode = verify-full\nssl_ca = FOLDER/a b\nconnect_timeout = 5",
            ["connect_timeout=5", "sslmode=verify-full", "sslrootcert=FOLDER%2Fa%20b"],
        ),
        (
            "mariadb://h/d", "sqlalchemy",
            "ssl_ca = FOLDER/ca\nssl_cert = FOLDER/c\nssl_key = FOLDER/k\nssl_check_hostname = true",
            ["ssl_ca=FOLDER%2Fca", "ssl_cert=FOLDER%2Fc", "ssl_check_hostname=true", "ssl_key=FOLDER%2Fk"],
        ),
        (
            "mongodb://h/d", "mongodb", "tls = true\ntls_ca_file = FOLDER/ca\nconnect_timeout = 2.5\nreplica_set = r",
            ["connectTimeoutMS=2500", "replicaSet=r", "tls=true", "tlsCAFile=FOLDER%2Fca"],
        ),
        (
            "rediss://h/0", "redis", "ssl_ca_certs = FOLDER/ca\nssl_cert_reqs = required\nsocket_timeout = 4",
            ["socket_timeout=4.0", "ssl_ca_certs=FOLDER%2Fca", "ssl_cert_reqs=required"],
        ),
        ("sqlite:///f.db", "sqlalchemy", "table_prefix = t_", ["prefix=t_"]),
        ("sqlite:///f.db?prefix=u_", "sqlalchemy", "table_prefix = t_", ["prefix=u_"]),
    ],
)  # fmt: skip
def test_options_of_a_group_become_parameters_of_the_url_unless_it_has_them(
    tmp_path: Path, url: str, group: str, options: str, expected: list[str]
) -> None:
    for name in ("a b", "ca", "c", "k"):
        (tmp_path / name).touch()
    options = options.replace("FOLDER", str(tmp_path))
    file = write(tmp_path, f"connection = {url}", **{f"pluggableflow_{group}": options})
    assert query(file) == [each.replace("FOLDER", quote(str(tmp_path), safe="")) for each in expected]


@pytest.mark.parametrize(
    "options", [("postgresql", "sqlalchemy"), ("mariadb", "sqlalchemy"), ("mongodb", "mongodb"), ("rediss", "redis")]
)
def test_every_option_is_a_parameter_that_the_store_takes(options: tuple[str, str]) -> None:
    scheme, owner = options
    module = config._module(f"{scheme}://h/0")
    assert module is not None and owner == module.SUFFIX
    assert set(module.PARAMETERS) == {option.dest for option in module.OPTIONS}
    known = {
        "sqlalchemy": lambda: _sqlalchemy_parameters(scheme),
        "mongodb": _mongodb_parameters,
        "redis": _redis_parameters,
    }[owner]()
    for parameters in module.PARAMETERS.values():
        if scheme in parameters:
            assert parameters[scheme].name in known


def _sqlalchemy_parameters(scheme: str) -> set[str]:
    from pluggableflow_sqlalchemy.mysql import MySQL
    from pluggableflow_sqlalchemy.postgresql import PostgreSQL

    kind = PostgreSQL if scheme == "postgresql" else MySQL
    return {*kind.parameters, *kind.driver_parameters}


def _mongodb_parameters() -> set[str]:
    from pluggableflow_mongodb import client

    return {"prefix", "attempts", *client._DRIVER_PARAMETERS}


def _redis_parameters() -> set[str]:
    from pluggableflow_redis import client

    return {*client._OURS, *client._DRIVER, *client._SENTINEL}


@pytest.mark.parametrize(
    "core, groups, words",
    [
        ("max_workers = none", {}, ["max_workers", "[pluggableflow]", "flows.conf"]),
        ("lease_seconds = 0", {}, ["lease_seconds", "greater than or equal to 1"]),
        ("", {"pluggableflow_sqlalchemy": "ssl_mode = maybe"}, ["ssl_mode", "_sqlalchemy]", "verify-full"]),
        ("", {"pluggableflow_sqlalchemy": "ssl_mode = require"}, ["ssl_mode", "sqlite://"]),
        ("", {"pluggableflow_sqlalchemy": "table_prefix = a b!!"}, ["table_prefix", "flows.conf"]),
        ("", {"pluggableflow_sqlalchemy": "table_prefix = $name"}, ["table_prefix", "$$"]),
        ("lease_seconds = nan", {}, ["lease_seconds", "finite"]),
        ("connection = redis://h/0", {"pluggableflow_redis": "ssl_certfile = /c"}, ["ssl_certfile", "redis://"]),
        ("connection = mongodb://h/d", {"pluggableflow_mongodb": "tls_ca_file = /none"}, ["tls_ca_file", "'/none'"]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_option_group_file_and_what_is_allowed(
    tmp_path: Path, core: str, groups: dict[str, str], words: list[str]
) -> None:
    file = write(tmp_path, core, **groups)
    with pytest.raises(OptionError) as raised:
        config.url(config.read([file]))
    assert all(word in str(raised.value) for word in words), raised.value
    command = [sys.executable, "-m", "pluggableflow", "--config-file", file, "list"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and words[0] in done.stderr, done.stderr


def test_the_url_of_the_command_wins_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, f"connection = sqlite:///{tmp_path}/configured.db")
    (tmp_path / "flow.py").write_text(FLOW)
    command = [sys.executable, "-m", "pluggableflow", "--config-file", file]
    given = ["--connection", f"sqlite:///{tmp_path}/given.db"]
    subprocess.run([*command, "run", "flow.py", *given, "--json"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "given.db").exists() and not (tmp_path / "configured.db").exists()


def test_a_worker_takes_what_it_is_not_told_from_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, f"connection = sqlite:///{tmp_path}/flows.db\nallowed_prefixes = made\nmax_flows = 1")
    (tmp_path / "made.py").write_text(FLOW)
    with closing(api.connect(f"sqlite:///{tmp_path}/flows.db")) as connection:
        detail = api.create_flow_detail(linear_flow.Flow("f"), connection=connection)
        api.save_factory_details(detail, "made:create_flow", connection=connection)
        command = [sys.executable, "-m", "pluggableflow", "--config-file", file, "worker", "--until-idle"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert connection.get_flow_details(detail.uuid, lazy=True).state == "SUCCESS"


def test_defaults_can_be_set_for_a_process() -> None:
    code = (
        "from pluggableflow import config; from oslo_config import cfg\n"
        "config.set_defaults(engine='parallel'); conf = cfg.ConfigOpts(); conf([], default_config_files=[])\n"
        "assert config.engine_options(conf)['engine'] == 'parallel'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(OptionError, match="no option 'speed'"):
        config.set_defaults(speed=1)


def test_secrets_are_marked_as_such() -> None:
    secret: Any = {"connection", "tls_certificate_key_file_password", "sentinel_password"}
    options = [*config.OPTIONS]
    for scheme in ("sqlite", "mongodb", "redis"):
        module = config._module(f"{scheme}://h/0")
        assert module is not None
        options += module.OPTIONS
    assert {option.dest for option in options if option.secret} == secret


@pytest.mark.parametrize("named", ["serial", "parallel", "asyncio"])
def test_an_engine_that_the_command_names_keeps_what_it_takes_of_the_file(tmp_path: Path, named: str) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    options = f"connection = sqlite:///{tmp_path}/flows.db\nengine = parallel\nmax_workers = 3\nexecutor = threads"
    file = write(tmp_path, options)
    command = [sys.executable, "-m", "pluggableflow", "--config-file", file, "run", "flow.py", "--engine", named]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_options_that_say_nothing_of_the_engine_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"max_workers of group \[pluggableflow\].*'serial'.*parallel"):
        config.engine_options(config.read([write(tmp_path, "max_workers = 3")]))


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"max_workers = 3"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "flows.conf"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(OptionError, match="flows.conf"):
        config.read([str(file)])


def test_mariadb_does_not_pretend_to_check_a_host() -> None:
    with pytest.raises(OptionError, match="ssl_check_hostname needs ssl_ca"):
        connection_for("mariadb://h/d?ssl_check_hostname=true")
