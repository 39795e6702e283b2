"""The plan catalogue that comes with the server, and quotas by it."""

from importlib.resources import files

from popsigner_server.domain.plans import Plans, read_plans
from popsigner_server.ledger.quotas import Quotas


def packaged_plans() -> Plans:
    return read_plans(files("popsigner_server").joinpath("plans.toml").read_text())


def packaged_quotas() -> Quotas:
    return Quotas(packaged_plans())
