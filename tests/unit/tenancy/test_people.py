"""Names, slugs and addresses."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popsigner_server.domain.people import another_slug, check_name, check_slug, fold_email, slug_of


@given(st.text(max_size=300))
def test_whatever_the_name_its_slug_may_stand_in_an_address(name: str) -> None:
    check_slug(slug_of(name))
    check_slug(another_slug(slug_of(name)))


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("My Rollup", "my-rollup"),
        ("  --Éclair & Söhne--  ", "eclair-sohne"),
        ("名前", "organization"),
        ("", "organization"),
        ("a" * 62 + " b", "a" * 62),
    ],
)
def test_a_slug_reads_like_its_name(name: str, slug: str) -> None:
    assert slug_of(name) == slug


def test_an_ending_makes_another_slug_of_the_longest_one() -> None:
    assert re.fullmatch(r"a{54}-[0-9a-f]{8}", another_slug("a" * 63))
    assert another_slug("a") != another_slug("a")


@pytest.mark.parametrize("slug", ["", "-a", "a-", "A", "a_b", "a" * 64, "a\n"])
def test_what_cannot_stand_in_an_address_is_no_slug(slug: str) -> None:
    with pytest.raises(ValueError, match="lower-case"):
        check_slug(slug)


@pytest.mark.parametrize("name", ["", " a", "a ", "a\nb", "a\x00", "a" * 101])
def test_a_name_is_printable_and_of_some_length(name: str) -> None:
    with pytest.raises(ValueError, match="printable"):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "Ünïcödé 名前", "a" * 100])
def test_names_are_of_all_scripts(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Mary.Smith+Pop@Example.COM", "mary.smith+pop@example.com"),
        ("a@b", "a@b"),
        ("o'neill@xn--mnchen-3ya.de", "o'neill@xn--mnchen-3ya.de"),
    ],
)
def test_addresses_compare_in_lower_case(text: str, folded: str) -> None:
    assert fold_email(text) == folded


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "@b", "a@", "a@b@c", "a b@c", "a@b c", "a@b\n", "<a@b>", "a@b,c@d", '"a"@b', "a\\@b",
        "a" * 252 + "@bc",
        # Their lower case is somebody else's address.
        "\u212aate@example.com", "kate@example.\u212aom", "\u0130@example.com",
    ],
)  # fmt: skip
def test_what_is_not_one_plain_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="e-mail"):
        fold_email(text)
