from popsigner_server.domain.plans import SELF_HOSTED


def test_who_runs_a_pop_for_themselves_has_no_quotas_and_a_full_share() -> None:
    assert SELF_HOSTED.signatures_per_month is None
    assert SELF_HOSTED.keys is None
    assert SELF_HOSTED.weight >= 1
