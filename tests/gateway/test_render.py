"""`render` edits `envoy.yaml` and nothing but it, and says so when it cannot."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from popsigner_gateway.envoy import TEMPLATES, RateLimit, Tls, render
from tests.gateway.proxy import BINARY

ENVOY_YAML = TEMPLATES[0]
HERE = "127.0.0.1:8080"


def rendered(**arguments: Any) -> Any:
    return yaml.safe_load(render(**{"listen": HERE, "upstreams": ["127.0.0.1:9090"]} | arguments))


def manager(tree: Any) -> Any:
    return tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]


def test_envoy_takes_the_file_itself_with_its_files_in_place(tmp_path: Path) -> None:
    """Only the folder differs from how docker-compose mounts it."""
    package = Path(TEMPLATES[0]).parent / "gateway" / "src" / "popsigner_gateway"
    config = tmp_path / "envoy.yaml"
    config.write_text(ENVOY_YAML.read_text().replace("/etc/popsigner", str(package)))
    assert BINARY is not None
    checked = subprocess.run([BINARY, "--mode", "validate", "-c", config], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr[-2000:]


@pytest.mark.parametrize(
    "arguments",
    [
        {"listen": "[::1]:8080"},
        {"upstreams": ["unix:///run/a.sock", "unix:///run/b.sock"]},
        {"upstreams": ["server:9090", "[::1]:9090"]},
        {"web": "unix:///run/web.sock"},
        {"web": "web:9191", "cors_origins": ["https://app.example.com"]},
        {"admin_socket": Path("/tmp/admin.sock")},
        {"rate_limit": RateLimit(per_second=7, burst=9), "heap_bytes": 1 << 28, "trusted_hops": 2},
        {"cors_origins": ["https://app.example.com", "http://localhost:3000"]},
    ],
)
def test_envoy_takes_what_is_rendered(arguments: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "envoy.yaml"
    config.write_text(render(**{"listen": HERE, "upstreams": ["127.0.0.1:9090"]} | arguments))
    assert BINARY is not None
    checked = subprocess.run([BINARY, "--mode", "validate", "-c", config], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr[-2000:]


def test_what_is_not_named_stays_as_the_file_says() -> None:
    ours, theirs = rendered(), yaml.safe_load(ENVOY_YAML.read_text())
    assert manager(ours)["local_reply_config"] == manager(theirs)["local_reply_config"]
    assert manager(ours)["access_log"] == manager(theirs)["access_log"]
    assert ours["overload_manager"] == theirs["overload_manager"]
    assert "admin" not in ours
    assert "transport_socket" not in ours["static_resources"]["listeners"][0]["filter_chains"][0]
    assert "/etc/popsigner" not in render(listen=HERE, upstreams=["127.0.0.1:9090"])


def test_each_argument_reaches_its_place() -> None:
    tree = rendered(
        upstreams=["unix:///run/a.sock"],
        tls=Tls(certificate=Path("/c.pem"), private_key=Path("/k.pem")),
        rate_limit=RateLimit(per_second=50, burst=60),
        trusted_hops=3,
        heap_bytes=123_456_789,
    )
    (cluster,) = tree["static_resources"]["clusters"]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"] == {"pipe": {"path": "/run/a.sock"}}
    assert manager(tree)["xff_num_trusted_hops"] == 3
    (limit,) = [each for each in manager(tree)["http_filters"] if each["name"] == "envoy.filters.http.local_ratelimit"]
    bucket = limit["typed_config"]["descriptors"][0]["token_bucket"]
    assert bucket == {"max_tokens": 60, "tokens_per_fill": 5, "fill_interval": "0.1s"}
    assert tree["overload_manager"]["resource_monitors"][0]["typed_config"]["max_heap_size_bytes"] == 123_456_789
    context = tree["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"]["typed_config"]
    limits = context["common_tls_context"]["tls_params"]
    assert set(limits.values()) == {"TLSv1_3"}


def test_the_web_application_has_its_place_or_no_trace() -> None:
    without = rendered()
    assert "web" not in {cluster["name"] for cluster in without["static_resources"]["clusters"]}
    assert "cluster: web" not in yaml.dump(without)
    assert "/login" not in yaml.dump(manager(without)["route_config"])
    for web, kind, address in (
        ("unix:///run/web.sock", "STATIC", {"pipe": {"path": "/run/web.sock"}}),
        ("web:9191", "STRICT_DNS", {"socket_address": {"address": "web", "port_value": 9191}}),
    ):
        (cluster,) = [each for each in rendered(web=web)["static_resources"]["clusters"] if each["name"] == "web"]
        (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        assert (cluster["type"], endpoint["endpoint"]["address"]) == (kind, address)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"web": "nowhere"}, "host:port"),
        ({"listen": "localhost:8080"}, "IP address"),
        ({"listen": "8080"}, "host:port"),
        ({"listen": "127.0.0.1:70000"}, "host:port"),
        ({"upstreams": []}, "upstreams"),
        ({"upstreams": ["unix:///a.sock", "127.0.0.1:9"]}, "mixture"),
        ({"upstreams": ["nowhere"]}, "host:port"),
        ({"trusted_hops": -1}, "trusted_hops"),
        ({"rate_limit": RateLimit(per_second=0)}, "per_second"),
        ({"heap_bytes": 0}, "heap_bytes"),
    ],
)
def test_an_argument_that_makes_no_configuration_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rendered(**arguments)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    - name: public\n      address", "    - name: other\n      address"),
        ("    - name: server\n", "    - name: servers\n"),
        ("    - name: web\n", "    - name: webs\n"),
        ("{cluster: web, ", "{cluster: server, "),
        ("xff_num_trusted_hops: 0", "skip_xff_append: false"),
        ("path: /openapi.json", "path: /document.json"),
        ("proto_descriptor:", "proto_descriptor_file:"),
        ("name: json\n", "name: lua\n"),
    ],
)
def test_a_place_that_is_gone_from_the_file_is_named(old: str, new: str, tmp_path: Path) -> None:
    text = ENVOY_YAML.read_text()
    assert old in text
    changed = tmp_path / "envoy.yaml"
    changed.write_text(text.replace(old, new))
    with pytest.raises(LookupError, match=r"envoy\.yaml has no"):
        rendered(template=changed)
