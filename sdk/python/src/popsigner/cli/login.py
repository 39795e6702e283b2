"""popsigner login, popsigner logout, popsigner whoami"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .failures import ExitCode, explained, fail, printable
from .session import AsJson, CaFile, Insecure, Session, connected, quiet_grpc

if TYPE_CHECKING:
    from ..gen.popsigner.v1 import WhoamiResponse
    from ..oauth import Device, OAuth, Tokens
    from ..store import SessionFile, StoredSession

# RFC 8628 3.5: how much longer to wait after slow_down.
_SLOWER = 5.0
_LONGEST_PAUSE = 60.0


def wait_for_tokens(
    oauth: "OAuth",
    device: "Device",
    *,
    report: Callable[[float], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> "Tokens":
    """Ask at the pace that the POP wants until the person has decided (RFC 8628 3.5). A POP that is away meanwhile is
    asked again, at half the pace each time. `report` hears the seconds that are left.

    Raises NotPermitted when the person says no, NotAuthenticated when the code is over, and what makes asking again
    useless.
    """
    from ..errors import NotAuthenticated, RateLimited, Unavailable
    from ..oauth import PendingError

    deadline = clock() + device.expires_in
    interval = device.interval
    pause = interval
    while (left := deadline - clock()) > 0:
        report(left)
        sleep(min(pause, left))
        try:
            return oauth.poll(device)
        except PendingError as pending:
            interval += _SLOWER if pending.slower else 0.0
            pause = interval
        except RateLimited as busy:
            pause = max(interval, busy.retry_after or 0.0)
        except Unavailable:
            pause = min(max(pause, 0.1) * 2, _LONGEST_PAUSE)
    raise NotAuthenticated("the code is over; begin again with `popsigner login`")


def _ask(device: "Device", *, no_browser: bool) -> None:
    """Tell the person what to do; on stderr, since stdout is for the result."""
    typer.echo(f"Open {device.verification_uri}", err=True)
    typer.echo(f"and type the code {device.user_code}", err=True)
    shown = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform == "darwin"
    if not no_browser and shown and sys.stderr.isatty():
        import webbrowser

        if webbrowser.open(device.verification_uri_complete or device.verification_uri):
            typer.echo("A browser is opening; compare the code before you confirm it.", err=True)


def _countdown(left: float) -> None:
    if sys.stderr.isatty():
        minutes, seconds = divmod(int(left), 60)
        # Over itself, and to be written over by what comes next.
        typer.echo(f"\rwaiting for you, {minutes}:{seconds:02d} left ", err=True, nl=False)


def _end_of_countdown() -> None:
    if sys.stderr.isatty():
        typer.echo("\r\x1b[K", err=True, nl=False)


def _stored(file: "SessionFile") -> "StoredSession | None":
    """The session before; one that cannot be used is replaced like none."""
    from ..errors import ConfigurationError

    try:
        return file.read()
    except ConfigurationError:
        return None


def _keep(file: "SessionFile", oauth: "OAuth", endpoint: str, tokens: "Tokens") -> None:
    from ..credential import session_of
    from ..errors import PopsignerError

    with file.locked():
        before = _stored(file)
        file.write(session_of(tokens, endpoint=endpoint, now=time.time()))
    if before is not None and before.endpoint == endpoint:
        try:
            # Nobody can use it any more; so nobody should be able to.
            oauth.revoke(before.refresh_token)
        except PopsignerError:
            return


def _show(me: "WhoamiResponse") -> None:
    from .output import text

    typer.echo(f"id: {me.id}")
    for label, value in (("email", me.email), ("name", me.name), ("session_id", me.session_id)):
        if value:
            typer.echo(f"{label}: {text(value)}")
    if me.organization is not None:
        typer.echo(f"organization: {text(me.organization.name)} ({me.organization.slug})")
    if me.role:
        typer.echo(f"role: {me.role.name}")
    if me.scopes:
        typer.echo(f"scopes: {text(me.scopes)}")
    for each in me.memberships:
        if each.organization is not None:
            typer.echo(f"member of: {text(each.organization.name)} ({each.organization.slug}), {each.role.name or '-'}")


def _announce(me: "WhoamiResponse", *, as_json: bool) -> None:
    """What an owner should know; in JSON it is part of who they are."""
    for sentence in () if as_json else me.announcements:
        typer.echo(f"NOTE: {printable(sentence)}", err=True)


def login(
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="https://host or host:port; default: $POPSIGNER_ENDPOINT, the POP of the last login, 127.0.0.1:8080.",
            metavar="ADDRESS",
        ),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Open no browser.")] = False,
    ca_file: CaFile = None,
    insecure: Insecure = False,
    as_json: AsJson = False,
) -> None:
    """Log in as a person: confirm a code in a browser, on this machine or another one.

    The session is kept in $XDG_CONFIG_HOME/popsigner/session.json, for you alone, and goes on for 30 days at most.

    \b
    Examples:
      popsigner login --endpoint https://pop.example.com
      popsigner login --no-browser
    """
    with explained(as_json=as_json):
        quiet_grpc()
        from ..client import Client
        from ..credential import Credential
        from ..endpoint import Connection, place
        from ..oauth import OAuth
        from ..store import SessionFile, default_path
        from .output import print_json

        file = SessionFile(default_path(os.environ))
        file.prepare()
        with file.locked():
            # A place that cannot be written to is told before the person goes to the browser.
            before = _stored(file)
        if not endpoint and not os.environ.get("POPSIGNER_ENDPOINT") and before is not None:
            endpoint = before.endpoint
        pop = place(endpoint=endpoint, credential=None, insecure=insecure, environment=os.environ)
        oauth = OAuth(Connection(endpoint=pop, ca_file=ca_file))
        try:
            device = oauth.start_device()
            _ask(device, no_browser=no_browser)
            try:
                tokens = wait_for_tokens(oauth, device, report=_countdown)
            finally:
                _end_of_countdown()
        except KeyboardInterrupt:
            fail("the log-in was cancelled; nothing was stored", code=ExitCode.REFUSED, as_json=as_json)
        _keep(file, oauth, pop.http, tokens)
        with Client(credential=Credential(), endpoint=pop.http, ca_file=ca_file, insecure=insecure) as client:
            me = client.whoami()
        if as_json:
            print_json(me)
        else:
            typer.echo(f"Logged in to {pop.http} as {printable(me.email or me.id)}.", err=True)
            _show(me)
        _announce(me, as_json=as_json)


def logout(
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="End all your sessions, on every machine and in every browser.")
    ] = False,
    ca_file: CaFile = None,
    insecure: Insecure = False,
    as_json: AsJson = False,
) -> None:
    """End the session of `popsigner login`, at the POP and here.

    \b
    Examples:
      popsigner logout
      popsigner logout --everywhere
    """
    with explained(as_json=as_json):
        quiet_grpc()
        from .output import print_json

        ended = _ended(everywhere=everywhere, ca_file=ca_file, insecure=insecure)
        if as_json:
            print_json({"ended": ended})
        else:
            typer.echo("logged out" if ended else "nobody was logged in")


def _ended(*, everywhere: bool, ca_file: Path | None, insecure: bool) -> int:
    """How many sessions ended. The file goes last: while the POP cannot be reached, it is what a second try needs."""
    from ..client import Client
    from ..credential import Credential
    from ..endpoint import Connection, place
    from ..oauth import OAuth
    from ..store import SessionFile, default_path

    if not SessionFile(default_path(os.environ)).exists():
        return 0
    credential = Credential()
    file = credential.file
    # The session says where it is from: an endpoint from the environment has no say here.
    pop = place(endpoint=None, credential=credential, insecure=insecure, environment={})
    ended = 1
    if everywhere:
        with Client(
            credential=credential, endpoint=pop.http, organization="", ca_file=ca_file, insecure=insecure
        ) as client:
            ended = client.sessions.revoke_all()
    with file.locked():
        if not everywhere:
            OAuth(Connection(endpoint=pop, ca_file=ca_file)).revoke(file.read().refresh_token)
        file.remove()
    return ended


@connected
def whoami(session: Session) -> None:
    """Show who you are: a person or an API key, where, and with which rights.

    \b
    Examples:
      popsigner whoami
      popsigner whoami --json | jq -r .organization.slug
    """
    from .output import print_json

    me = session.client.whoami()
    if session.as_json:
        print_json(me)
    else:
        _show(me)
    _announce(me, as_json=session.as_json)
