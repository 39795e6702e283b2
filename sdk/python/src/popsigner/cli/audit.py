"""popsigner audit …, popsigner usage"""

from itertools import islice
from typing import Annotated

import typer

from .session import Session, connected
from .values import moment

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
@connected
def list_logs(
    session: Session,
    event: Annotated[str, typer.Option(help="Only this event, e.g. key.signed.")] = "",
    key: Annotated[str, typer.Option(help="Only this key, by id or namespace/name.")] = "",
    since: Annotated[str, typer.Option(help="From this time on (ISO 8601; UTC without an offset).")] = "",
    until: Annotated[str, typer.Option(help="Before this time.")] = "",
    limit: Annotated[int, typer.Option(help="At most this many.", min=1)] = 50,
) -> None:
    """List the audit trail, newest first.

    \b
    Examples:
      popsigner audit list
      popsigner audit list --event key.signed --key production/sequencer --since 2026-01-01 --limit 1000 --json
    """
    from .output import print_json, print_table

    logs = session.client.audit.list(
        event_type=event,
        key=key,
        start_time=moment(since, "--since", as_json=session.as_json),
        end_time=moment(until, "--until", as_json=session.as_json),
        page_size=min(limit, 1000),
    )
    found = list(islice(logs, limit))
    if session.as_json:
        print_json({"logs": found})
    else:
        columns = ("sequence", "timestamp", "event", "key_id", "actor", "metadata")
        print_table(columns, ([getattr(log, column) for column in columns] for log in found))


@connected
def usage(
    session: Session, month: Annotated[str, typer.Option(help="YYYY-MM in UTC; by default this month.")] = ""
) -> None:
    """Show what was used in a month.

    \b
    Examples:
      popsigner usage
      popsigner usage --month 2026-01 --json
    """
    from .output import print_json, print_table

    used = session.client.usage(month=month)
    if session.as_json:
        print_json(used)
    else:
        print_table(("metric", "value", "quota"), ((each.metric, each.value, each.quota) for each in used.usage))
