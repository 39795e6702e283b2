"""The plan catalogue: the one that comes with the server, and the mistakes of one that somebody wrote."""

import re

import pytest

from popsigner_server.domain.plans import FREE, SELF_HOSTED, read_plans
from tests.support.plans import packaged_plans

NEEDED = "[free]\nkeys = 3\n[self-hosted]\n"


def test_the_packaged_catalogue_has_the_quotas_of_the_product() -> None:
    plans = packaged_plans()
    assert plans.names == ["free", "pro", "enterprise", "priority", "dedicated", "self-hosted"]
    figures = {
        name: (plan.keys, plan.signatures_per_month, plan.namespaces, plan.members, plan.audit_retention_days)
        for name, plan in ((name, plans.of(name)) for name in plans.names)
    }
    assert figures == {
        "free": (3, 10_000, 1, 1, 7),
        "pro": (25, 500_000, 5, 10, 90),
        "enterprise": (None, None, None, None, 365),
        "priority": (None, None, None, None, 365),
        "dedicated": (None, None, None, None, None),
        "self-hosted": (None, None, None, None, None),
    }
    assert [plans.of(name).requests_per_second for name in plans.names] == [1_000, 1_000, 1_000, None, None, None]
    assert [plans.of(name).weight for name in plans.names] == [1, 2, 4, 8, 16, 1]
    assert [name for name in plans.names if plans.of(name).priority] == ["priority", "dedicated"]


def test_a_figure_that_is_left_out_is_no_limit() -> None:
    plan = read_plans(NEEDED).of(FREE)
    assert (plan.name, plan.keys, plan.members, plan.requests_per_second, plan.weight) == ("free", 3, None, None, 1)


def test_a_plan_that_is_not_in_the_catalogue_is_the_free_one() -> None:
    assert read_plans(NEEDED).of("forgotten").name == FREE


def test_nothing_may_be_allowed_but_no_plan_keeps_its_audit_trail_for_no_time() -> None:
    assert read_plans("[free]\nkeys = 0\nsignatures_per_month = 0\n[self-hosted]").of(FREE).keys == 0
    with pytest.raises(ValueError, match="audit_retention_days must be a whole number of at least 1"):
        read_plans("[free]\naudit_retention_days = 0\n[self-hosted]")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[free", "the plan catalogue is no TOML: "),
        (NEEDED + "[Team]\nkeys = 1", "the plan catalogue holds 'Team', which is no plan: [name] begins one."),
        ("keys = 1\n" + NEEDED, "the plan catalogue holds 'keys', which is no plan: [name] begins one."),
        (NEEDED + "[team]\nseats = 1", "plan team has seats, which is none of audit_retention_days, keys, members, "),
        (NEEDED + "[team]\nname = 'x'", "plan team has name, which is none of "),
        (NEEDED + "[team]\npriority = 1", "plan team: priority must be true or false."),
        (NEEDED + "[team]\nkeys = -1", "plan team: keys must be a whole number of at least 0."),
        (NEEDED + "[team]\nkeys = true", "plan team: keys must be a whole number of at least 0."),
        (NEEDED + "[team]\nkeys = '3'", "plan team: keys must be a whole number of at least 0."),
        (NEEDED + "[team]\nweight = 0", "plan team: weight must be a whole number of at least 1."),
        (NEEDED + "[team]\nrequests_per_second = 0", "plan team: requests_per_second must be a whole number of at"),
        ("[free]\n", f"the plan catalogue lacks the plan {SELF_HOSTED}."),
        ("[self-hosted]\n", f"the plan catalogue lacks the plan {FREE}."),
    ],
)
def test_a_mistake_is_one_sentence_that_names_its_place(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        read_plans(text)
