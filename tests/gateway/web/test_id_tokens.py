"""What an issuer may say, and what it may not: each trick of a dishonest one is refused."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from popsigner_gateway.web.providers.discovery import KEPT, REFETCH, Discovery
from tests.gateway.web import issuers
from tests.gateway.web.fake_server import State
from tests.gateway.web.issuers import Claims, Issuer
from tests.gateway.web.process import Web, site
from tests.gateway.web.test_login import SESSION, refused
from tests.support.login import Browser, log_in


async def test_an_honest_token_is_taken(browser: Browser, issuer: Issuer, issuer_id: str, server: State) -> None:
    assert (await log_in(browser, issuer_id, "alice")).status_code == 303
    assert server.asked("CompleteLogin")[-1].subject == "alice"


def but(**changed: Any) -> Callable[[Claims], Claims]:
    """The claims with others; None leaves one out."""
    return lambda claims: {name: value for name, value in (claims | changed).items() if value is not None}


NOW = int(time.time())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (but(aud="another-client"), "aud"),
        (but(aud=["another-client"]), "aud"),
        (but(aud=["popsigner", "another-client"]), "several audiences"),
        (but(aud=["popsigner", "another-client"], azp="another-client"), "azp"),
        (but(azp="another-client"), "azp"),
        (but(aud=None), "aud"),
        (but(iss="https://evil.example"), "iss"),
        (but(iss=None), "iss"),
        (but(exp=NOW - 3600), "exp"),
        (but(exp=None), "exp"),
        (but(exp="tomorrow"), "exp"),
        (but(iat=NOW + 36000), "iat"),
        (but(iat=None), "iat"),
        (but(nonce="another"), "nonce"),
        (but(nonce=None), "nonce"),
        (but(nonce=7), "nonce"),
        (but(sub=None), "sub"),
        (but(sub=""), "sub"),
        (but(sub=["alice"]), "sub"),
        (but(sub="a" * 256), "sub"),
    ],
)
async def test_a_token_for_somebody_else_or_another_time_is_refused(
    browser: Browser, web: Web, issuer: Issuer, issuer_id: str, change: Callable[[Claims], Claims], why: str
) -> None:
    issuer.change = change
    refused(await log_in(browser, issuer_id, "alice"), 401, "ID_TOKEN_REFUSED")
    assert browser.cookie(SESSION) is None
    (said,) = [line for line in web.lines() if line["event"] == "login.id_token_refused"][-1:]
    assert why in said["why"]


@pytest.mark.parametrize(
    "mint",
    [
        issuers.unsigned,
        issuers.signed_with_the_public_key,
        issuers.signed_by_a_stranger,
        issuers.signed_with_its_own_key,
        lambda issuer, claims: "nonsense",
        lambda issuer, claims: "e30.e30.e30",
        lambda issuer, claims: "W10.e30.e30",
        lambda issuer, claims: "x" * 40_000,
    ],
    ids=["none", "hs256", "stranger", "jwk", "nonsense", "empty", "list", "long"],
)
async def test_a_token_that_the_issuer_did_not_sign_is_refused(
    browser: Browser, issuer: Issuer, issuer_id: str, mint: Callable[[Issuer, Claims], str]
) -> None:
    issuer.mint = mint
    refused(await log_in(browser, issuer_id, "alice"), 401, "ID_TOKEN_REFUSED")
    assert browser.cookie(SESSION) is None


async def test_several_audiences_are_taken_with_this_client_as_azp(
    browser: Browser, issuer: Issuer, issuer_id: str
) -> None:
    issuer.change = but(aud=["another", "popsigner"], azp="popsigner")
    assert (await log_in(browser, issuer_id, "alice")).status_code == 303


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("PS256", RSAKey.generate_key(2048, private=True)),
        ("ES256", ECKey.generate_key("P-256", private=True)),
        ("EdDSA", OKPKey.generate_key("Ed25519", private=True)),
    ],
    ids=["PS256", "ES256", "EdDSA"],
)
async def test_every_public_key_signature_is_taken_also_without_a_kid(
    browser: Browser, server: State, algorithm: str, key: Any
) -> None:
    other = Issuer(people={"alice": {"email": "alice@example.com", "email_verified": "true"}})
    other.published = [{"kty": "oct", "k": "AAAA"}, {"kty": "unheard-of"}, key.as_dict(private=False)]
    other.mint = lambda issuer, claims: jwt.encode({"alg": algorithm}, claims, key, algorithms=[algorithm])
    async with site(other.app()) as url:
        other.url = url
        provider_id = server.provider("GOOGLE", url)
        assert (await log_in(browser, provider_id, "alice")).status_code == 303
    assert server.asked("CompleteLogin")[-1].email_verified is True


async def test_an_issuer_may_change_its_keys_and_is_not_asked_for_them_at_every_bad_token(
    browser: Browser, server: State
) -> None:
    other = Issuer(people={"alice": {"email": "alice@example.com", "email_verified": True}})
    async with site(other.app()) as url:
        other.url = url
        provider_id = server.provider("OIDC", url)
        assert (await log_in(browser, provider_id, "alice")).status_code == 303
        assert other.fetched == ["discovery", "jwks"]
        other.mint = issuers.signed_by_a_stranger
        for _ in range(3):
            refused(await log_in(browser, provider_id, "alice"), 401, "ID_TOKEN_REFUSED")
        # The keys are young: whoever sends bad tokens makes nobody fetch.
        assert other.fetched == ["discovery", "jwks"]


async def test_discovery_looks_again_for_an_unknown_key_but_not_often() -> None:
    key, fetched, now = RSAKey.generate_key(2048, private=True), [], 0.0
    here = "https://idp.example"

    class Canned:
        async def json(self, url: str, headers: object = None) -> Any:
            fetched.append(url)
            if url.endswith("openid-configuration"):
                return {"issuer": here} | dict.fromkeys(
                    ("authorization_endpoint", "token_endpoint", "jwks_uri"), f"{here}/x"
                )
            return {"keys": [key.as_dict(private=False)]}

    discovery = Discovery(Canned(), clock=lambda: now)  # type: ignore[arg-type]
    await discovery.keys(here)
    for moment, expected in ((1.0, 2), (REFETCH, 3), (REFETCH + 1, 3), (2 * REFETCH, 4)):
        now = moment
        await discovery.keys(here, afresh=True)
        await discovery.keys(here)
        assert len(fetched) == expected, moment
    now = 2 * REFETCH + KEPT
    await discovery.keys(here)
    assert len(fetched) == 6


async def test_a_short_rsa_key_is_no_key(browser: Browser, server: State) -> None:
    short = RSAKey.generate_key(1024, private=True)
    other = Issuer(people={"alice": {"email": "alice@example.com", "email_verified": True}})
    other.published = [short.as_dict(private=False)]
    other.mint = lambda issuer, claims: jwt.encode({"alg": "RS256"}, claims, short)
    async with site(other.app()) as url:
        other.url = url
        answer = await log_in(browser, server.provider("OIDC", url), "alice")
    refused(answer, 401, "ID_TOKEN_REFUSED")


async def test_the_email_may_come_from_the_userinfo_endpoint_of_the_same_person(
    browser: Browser, issuer: Issuer, issuer_id: str, server: State
) -> None:
    issuer.claims_by_userinfo = True
    assert (await log_in(browser, issuer_id, "alice")).status_code == 303
    assert server.asked("CompleteLogin")[-1].email == "alice@example.com"
    issuer.userinfo_subject = "somebody-else"
    refused(await log_in(browser, issuer_id, "alice"), 502, "PROVIDER_FAULTY")


@pytest.mark.parametrize(
    "verified", [False, "false", None, 1, "TRUE ", [True]], ids=["false", "text", "absent", "one", "shouted", "list"]
)
async def test_only_a_clear_yes_verifies_an_email(
    browser: Browser, issuer: Issuer, issuer_id: str, verified: object
) -> None:
    issuer.change = but(email_verified=verified)
    refused(await log_in(browser, issuer_id, "alice"), 403, "EMAIL_UNVERIFIED")


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": None},
        {"jwks_uri": "http://idp.example/jwks"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"token_endpoint": "https://user@idp.example/token"},
    ],
    ids=["issuer", "no endpoint", "plain http", "script", "userinfo"],
)
async def test_a_document_that_says_what_it_must_not_is_refused(
    browser: Browser, server: State, document: dict[str, Any]
) -> None:
    other = Issuer(document=document)
    async with site(other.app()) as url:
        other.url = url
        answer = await browser.get(f"/login/{server.provider('OIDC', url)}")
    refused(answer, 502, "PROVIDER_FAULTY")


async def test_an_issuer_that_says_it_names_itself_has_to(browser: Browser, server: State) -> None:
    other = Issuer(people={"alice": {"email": "alice@example.com", "email_verified": True}})
    other.document = {"authorization_response_iss_parameter_supported": True}
    async with site(other.app()) as url:
        other.url = url
        provider_id = server.provider("OIDC", url)
        refused(await log_in(browser, provider_id, "alice"), 502, "PROVIDER_FAULTY")
        other.response = {"iss": url}
        assert (await log_in(browser, provider_id, "alice")).status_code == 303
