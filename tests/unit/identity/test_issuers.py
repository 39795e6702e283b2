"""What may be connected as an identity provider."""

import pytest

from popsigner_server.errors import InvalidField
from popsigner_server.identity.issuers import Kind, Wanted


def wanted(issuer: str = "https://id.example", **changed: str) -> Wanted:
    values = {"name": "", "issuer": issuer, "client_id": "popsigner", "client_secret": "kept"} | changed
    return Wanted.of(Kind(values.pop("kind", "oidc")), **values)


@pytest.mark.parametrize(
    "issuer",
    [
        "https://id.example",
        "https://id.example/",
        "https://id.example:8443/realms/rollup",
        "http://127.0.0.1:9000",
        "http://localhost:9000/realm",
        "http://[::1]:9000",
    ],
)
def test_an_issuer_stays_as_it_was_written(issuer: str) -> None:
    assert wanted(issuer).issuer == issuer


@pytest.mark.parametrize(
    "issuer",
    [
        "",
        "id.example",
        "http://id.example",
        "http://127.0.0.1.id.example",
        "http://localhost.id.example",
        "ftp://id.example",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "https://user@id.example",
        "https://user:password@id.example",
        "http://127.0.0.1@id.example",
        "https://id.example?tenant=a",
        "https://id.example?",
        "https://id.example#a",
        "https://id.example/a b",
        "https://id.example\\@other.example",
        "https://id.example/\n",
        "https://[::1",
        "https://id.example:port",
        "https://id.exämple",
        "https://id.example/" + "a" * 255,
    ],
)
def test_an_issuer_that_is_no_plain_https_url_is_refused(issuer: str) -> None:
    with pytest.raises(InvalidField) as refused:
        wanted(issuer)
    assert refused.value.faults[0].field == "issuer"


@pytest.mark.parametrize(
    ("kind", "issuer", "name"),
    [
        ("github", "https://github.com", "GitHub"),
        ("google", "https://accounts.google.com", "Google"),
    ],
)
def test_github_and_google_have_their_own_site_and_name(kind: str, issuer: str, name: str) -> None:
    made = wanted("", kind=kind)
    assert (made.issuer, made.name) == (issuer, name)


def test_a_provider_without_a_name_is_called_by_its_host() -> None:
    assert wanted("https://id.example:8443/realm").name == "id.example"
    assert wanted(name="  Our staff ").name == "Our staff"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("client_id", ""),
        ("client_id", "a" * 256),
        ("client_id", "a\nb"),
        ("client_secret", "a" * 1025),
        ("client_secret", "a\x00"),
        ("name", "a" * 101),
        ("name", "a\x1bb"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_its_field(field: str, value: str) -> None:
    with pytest.raises(InvalidField) as refused:
        wanted(**{field: value})
    assert refused.value.faults[0].field == field
    assert value == "" or value not in refused.value.detail


def test_the_secret_is_in_no_representation() -> None:
    assert "kept" not in repr(wanted())
