"""The Envoy configuration of one machine: the repository's one `envoy.yaml` with this machine's places put in."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
# The checkout that this package is installed from in place, or where the containers mount the same file.
TEMPLATES = (HERE.parents[2] / "envoy.yaml", Path("/etc/popsigner/envoy.yaml"))
# The cluster of the gateway's web application.
WEB = "web"
# What a browser may send and read across origins.
CORS_REQUEST_HEADERS = (
    "authorization, content-type, grpc-timeout, x-api-key, x-grpc-web, x-popsigner-organization, x-user-agent"
)
CORS_ANSWER_HEADERS = "grpc-message, grpc-status, grpc-status-details-bin, retry-after, x-request-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files for TLS 1.3 (RFC 8446) on the public port; Envoy reads them at its start."""

    certificate: Path
    """PEM, the chain with the leaf first."""
    private_key: Path
    """PEM, unencrypted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """Tokens of one caller's address (IPv6: of its /64); a request, or a whole stream, takes one."""

    per_second: int = 2_000
    burst: int = 4_000


def render(
    *,
    listen: str,
    upstreams: Sequence[str],
    web: str | None = None,
    tls: Tls | None = None,
    admin_socket: Path | None = None,
    rate_limit: RateLimit | None = None,
    cors_origins: Sequence[str] = (),
    trusted_hops: int = 0,
    heap_bytes: int | None = None,
    template: Path | None = None,
) -> str:
    """Return the YAML of a complete static Envoy configuration, for `envoy --config-yaml` or a file.

    listen: the public address, `host:port`; the host is an IP address, IPv6 in brackets. upstreams: where the servers
    answer gRPC: `host:port` each, or `unix:///path/to.sock` each, not both kinds. web: where the gateway's web
    application answers HTTP/1.1, `unix:///path/to.sock` or `host:port`; without it there are
        no log-in pages.
    tls: without it the port speaks plaintext; use that on loopback only.
    admin_socket: a unix socket (mode 0600) for Envoy's admin interface; without it there is none.
    rate_limit: without it, what `envoy.yaml` says.
    cors_origins: origins that browsers may call from, e.g. `https://app.example.com`; none by default.
    trusted_hops: how many proxies in front of this one append to `x-forwarded-for` and are trusted; 0 means that the
        peer is the caller.
    heap_bytes: Envoy refuses new requests near this size; without it, what `envoy.yaml` says.
    template: another `envoy.yaml` to start from.

    Raises ValueError for an argument that makes no configuration, FileNotFoundError where there is no `envoy.yaml`,
    and LookupError where `envoy.yaml` lacks a place that this edits.
    """
    place = template or _template()
    tree: dict[str, Any] = yaml.safe_load(place.read_text())
    listener = _at(tree, "static_resources", "listeners", "public")
    chain = _at(listener, "filter_chains", 0)
    manager = _at(chain, "filters", "envoy.filters.network.http_connection_manager", "typed_config")
    host = _at(manager, "route_config", "virtual_hosts", "public")

    _put(listener, "address", _socket_address(listen, literal=True))
    _connect(_at(tree, "static_resources", "clusters", "server"), upstreams)
    _connect_web(tree, host, web)
    _put_files(manager, host)
    _put(manager, "xff_num_trusted_hops", _natural(trusted_hops, "trusted_hops", least=0))
    if tls is not None:
        chain["transport_socket"] = _downstream_tls(tls)
    if admin_socket is not None:
        tree["admin"] = {"address": {"pipe": {"path": str(admin_socket), "mode": 0o600}}}
    if rate_limit is not None:
        _limit(manager, rate_limit)
    if cors_origins:
        _allow_origins(manager, host, cors_origins)
    if heap_bytes is not None:
        monitor = _at(tree, "overload_manager", "resource_monitors", "envoy.resource_monitors.fixed_heap")
        _put(_at(monitor, "typed_config"), "max_heap_size_bytes", _natural(heap_bytes, "heap_bytes"))
    return yaml.dump(tree, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """Writes what the template shares by an anchor out in each place."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _template() -> Path:
    for candidate in TEMPLATES:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"no envoy.yaml at {' or '.join(map(str, TEMPLATES))}; name one as `template`")


def _at(tree: Any, *path: str | int) -> Any:
    """Return the place below `tree`: each step is a mapping's key, a list's index, or the `name` of a list's item."""
    found = tree
    for step in path:
        if isinstance(found, list) and isinstance(step, str):
            named = [item for item in found if isinstance(item, dict) and item.get("name") == step]
            found = named[0] if len(named) == 1 else None
        elif isinstance(found, list):
            found = found[int(step)] if int(step) < len(found) else None
        else:
            found = found.get(step) if isinstance(found, dict) else None
        if found is None:
            raise LookupError(f"envoy.yaml has no {'.'.join(map(str, path))} at {step!r}, which has to be edited")
    return found


def _put(parent: Any, key: str, value: object) -> None:
    """Replace what is there; what is not there cannot be replaced."""
    _at(parent, key)
    parent[key] = value


def _natural(value: int, name: str, *, least: int = 1) -> int:
    if value < least:
        raise ValueError(f"{name} is {value}; it has to be {least} or more")
    return value


def _socket_address(text: str, *, literal: bool = False) -> dict[str, Any]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError(f"{text!r} is no address; write host:port, IPv6 as [::1]:8080")
    if literal:
        try:
            ip_address(host)
        except ValueError:
            raise ValueError(
                f"{host!r} is no IP address, which the public address needs; e.g. 127.0.0.1:8080"
            ) from None
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _connect(cluster: Any, upstreams: Sequence[str]) -> None:
    pipes = [upstream.removeprefix("unix://") for upstream in upstreams if upstream.startswith("unix:///")]
    if not upstreams or len(pipes) not in (0, len(upstreams)):
        raise ValueError("upstreams are one or more host:port, or one or more unix:///path, not a mixture")
    addresses: list[dict[str, Any]] = [{"pipe": {"path": path}} for path in pipes]
    addresses = addresses or [_socket_address(upstream) for upstream in upstreams]
    # Envoy resolves names, and with STRICT_DNS plain IP addresses too; a unix socket is nothing to resolve.
    _put(cluster, "type", "STATIC" if pipes else "STRICT_DNS")
    locality = _at(cluster, "load_assignment", "endpoints", 0)
    _put(locality, "lb_endpoints", [{"endpoint": {"address": address}} for address in addresses])


def _connect_web(tree: Any, host: Any, web: str | None) -> None:
    """Put the web application's address in, or take it and its routes out."""
    clusters, routes = _at(tree, "static_resources", "clusters"), _at(host, "routes")
    cluster = _at(clusters, WEB)
    theirs = [route for route in routes if route.get("route", {}).get("cluster") == WEB]
    if not theirs:
        raise LookupError(f"envoy.yaml has no route to the cluster {WEB}, which has to be edited")
    if web is not None:
        _connect(cluster, [web])
        return
    clusters.remove(cluster)
    for route in theirs:
        routes.remove(route)


def _put_files(manager: Any, host: Any) -> None:
    """Name this package's own files where `envoy.yaml` names those below /etc/popsigner."""
    filters = _at(manager, "http_filters")
    _put(_at(filters, "json", "typed_config", "default_source_code"), "filename", str(HERE / "json.lua"))
    transcoder = _at(filters, "envoy.filters.http.grpc_json_transcoder", "typed_config")
    _put(transcoder, "proto_descriptor", str(HERE / "descriptors.binpb"))
    served = [route for route in _at(host, "routes") if _at(route, "match").get("path") == "/openapi.json"]
    if len(served) != 1:
        raise LookupError("envoy.yaml has no single route with the path /openapi.json, which has to be edited")
    _put(_at(served[0], "direct_response", "body"), "filename", str(HERE / "openapi.json"))


def _downstream_tls(tls: Tls) -> dict[str, Any]:
    context = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    pair = {
        "certificate_chain": {"filename": str(tls.certificate)},
        "private_key": {"filename": str(tls.private_key)},
    }
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificates": [pair],
    }
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {"@type": context, "common_tls_context": common},
    }


def _limit(manager: Any, limit: RateLimit) -> None:
    per_second = _natural(limit.per_second, "rate_limit.per_second")
    ticks = 10 if per_second % 10 == 0 else 1
    config = _at(manager, "http_filters", "envoy.filters.http.local_ratelimit", "typed_config")
    bucket = {
        "max_tokens": _natural(limit.burst, "rate_limit.burst"),
        "tokens_per_fill": per_second // ticks,
        "fill_interval": "0.1s" if ticks == 10 else "1s",
    }
    _put(_at(config, "descriptors", 0), "token_bucket", bucket)


def _allow_origins(manager: Any, host: Any, origins: Sequence[str]) -> None:
    policy = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"exact": origin} for origin in origins],
        "allow_methods": "GET, POST, PATCH, DELETE",
        "allow_headers": CORS_REQUEST_HEADERS,
        "expose_headers": CORS_ANSWER_HEADERS,
        "max_age": "600",
    }
    _at(manager, "http_filters", "envoy.filters.http.cors")
    host.setdefault("typed_per_filter_config", {})["envoy.filters.http.cors"] = policy
    # The filter answers a preflight only where a route matches, and those of gRPC-Web match on its content type. Only
    # where the API is: the log-in pages are for no other origin, and what is internal is not routed by any method.
    api = {"regex": "/v1/.*|/popsigner[.]v1[.].*"}
    preflight = {"safe_regex": api, "headers": [{"name": ":method", "string_match": {"exact": "OPTIONS"}}]}
    _at(host, "routes").insert(0, {"match": preflight, "route": {"cluster": "server"}})
