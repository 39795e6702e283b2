"""Where a client connects, and with which API key."""

from pathlib import Path

import pytest

from popsigner import AsyncClient, Client, ConfigurationError
from popsigner.endpoint import connection, find_api_key, parse_endpoint

from .scripted_pop import API_KEY


@pytest.mark.parametrize(
    ("given", "target", "secure", "local"),
    [
        ("127.0.0.1:8080", "dns:///127.0.0.1:8080", False, True),
        ("localhost:8080", "dns:///localhost:8080", False, True),
        ("[::1]:8080", "dns:///[::1]:8080", False, True),
        ("http://127.0.0.1:9090", "dns:///127.0.0.1:9090", False, True),
        ("http://127.0.0.1", "dns:///127.0.0.1:80", False, True),
        ("https://pop.example.com", "dns:///pop.example.com:443", True, False),
        ("https://pop.example.com:8443/", "dns:///pop.example.com:8443", True, False),
        ("pop.example.com:8080", "dns:///pop.example.com:8080", False, False),
        ("localhost.example.com:8080", "dns:///localhost.example.com:8080", False, False),
        ("unix:///run/pop.sock", "unix:/run/pop.sock", False, True),
        ("unix:/run/pop.sock", "unix:/run/pop.sock", False, True),
    ],
)
def test_an_endpoint_is_read(given: str, target: str, secure: bool, local: bool) -> None:
    endpoint = parse_endpoint(given)

    assert (endpoint.target, endpoint.secure, endpoint.local) == (target, secure, local)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "pop.example.com",
        "127.0.0.1:0",
        "127.0.0.1:99999",
        "127.0.0.1:x",
        "ftp://pop.example.com",
        "https://pop.example.com/v1",
        "https://pop.example.com?a=b",
        "https://me:secret@pop.example.com",
        "https://[::1",
        "unix:relative.sock",
    ],
)
def test_what_is_no_endpoint_is_refused(given: str) -> None:
    with pytest.raises(ConfigurationError, match="endpoint"):
        parse_endpoint(given)


def test_plaintext_to_another_machine_needs_to_be_asked_for_by_name() -> None:
    with pytest.raises(ConfigurationError, match="insecure=True"):
        Client(api_key=API_KEY, endpoint="http://pop.example.com:8080")
    with pytest.raises(ConfigurationError, match="insecure=True"):
        AsyncClient(api_key=API_KEY, endpoint="10.0.0.7:8080")

    Client(api_key=API_KEY, endpoint="http://pop.example.com:8080", insecure=True).close()


def test_the_environment_names_endpoint_and_api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPSIGNER_ENDPOINT", "unix:///run/pop.sock")
    monkeypatch.setenv("POPSIGNER_API_KEY", API_KEY)

    with Client() as client:
        assert repr(client) == "Client(endpoint='unix:///run/pop.sock')"


def test_the_default_endpoint_is_a_pop_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POPSIGNER_ENDPOINT", raising=False)

    with Client(api_key=API_KEY) as client:
        assert repr(client) == "Client(endpoint='127.0.0.1:8080')"


def test_an_api_key_is_taken_from_the_nearest_source(tmp_path: Path) -> None:
    named, from_environment = tmp_path / "named", tmp_path / "environment"
    named.write_text("psk_test_file\n")
    from_environment.write_text("psk_test_environmentfile\n")
    environment = {"POPSIGNER_API_KEY": "psk_test_env", "POPSIGNER_API_KEY_FILE": str(from_environment)}

    assert find_api_key(api_key="psk_test_arg", api_key_file=named, environment=environment) == "psk_test_arg"
    assert find_api_key(api_key=None, api_key_file=named, environment=environment) == "psk_test_file"
    assert find_api_key(api_key=None, api_key_file=None, environment=environment) == "psk_test_env"
    del environment["POPSIGNER_API_KEY"]
    assert find_api_key(api_key=None, api_key_file=None, environment=environment) == "psk_test_environmentfile"


def test_a_missing_api_key_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POPSIGNER_API_KEY", raising=False)
    monkeypatch.delenv("POPSIGNER_API_KEY_FILE", raising=False)

    with pytest.raises(ConfigurationError, match="POPSIGNER_API_KEY_FILE"):
        Client(endpoint="127.0.0.1:8080")


def test_a_missing_api_key_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        find_api_key(api_key=None, api_key_file=tmp_path / "none", environment={})


@pytest.mark.parametrize("given", ["", "psk_live one", "psk_live\nx-admin: yes", "psk_l\u00efve"])
def test_what_is_no_api_key_is_refused_without_being_repeated(given: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_api_key(api_key=given, api_key_file=None, environment={})

    assert not given or given not in str(caught.value)


def test_nothing_that_can_be_printed_shows_the_api_key() -> None:
    settled = connection(
        api_key=API_KEY,
        api_key_file=None,
        credential=None,
        endpoint=None,
        organization=None,
        ca_file=None,
        insecure=False,
        environment={},
    )
    with Client(api_key=API_KEY) as client:
        printed = [repr(settled), repr(client), repr(AsyncClient(api_key=API_KEY)), repr(client.keys)]

    assert not [text for text in printed if API_KEY in text or "5e5e" in text]


def test_certificates_that_cannot_be_read_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="certificates"):
        Client(api_key=API_KEY, endpoint="https://pop.example.com", ca_file=tmp_path / "none.pem")
