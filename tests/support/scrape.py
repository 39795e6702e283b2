"""What a POP's servers say of themselves at their metrics addresses."""

import asyncio
from urllib.request import urlopen

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.support.load import PATIENCE
from tests.support.pop import Pop


async def metric(pop: Pop, name: str, **labels: str) -> float:
    """The sample of this name with these labels and no others, of all server processes together. Raises LookupError if
    one of them has none."""
    servers = [pid for part, pid in pop.processes.items() if part.startswith("server")]
    return sum([_sample(await _scraped(pid), name, labels) for pid in servers])


async def _scraped(pid: int) -> str:
    address = psutil.Process(pid).environ()["POPSIGNER_METRICS_LISTEN"]
    return await asyncio.to_thread(lambda: urlopen(f"http://{address}/metrics", timeout=PATIENCE).read().decode())


def _sample(text: str, name: str, labels: dict[str, str]) -> float:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if (sample.name, sample.labels) == (name, labels):
                return float(sample.value)
    raise LookupError(f"there is no metric {name} {labels}")
