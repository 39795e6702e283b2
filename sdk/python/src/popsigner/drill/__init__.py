"""The exit drill: does the organization really get every private key out, and do they sign without the POP?

    with place.prepared(None, state_folder()) as room:
        report = Drill(client, room, identity=identity).run()

`run` walks the way, `place` keeps the copies meanwhile and destroys them, `report` is what an auditor reads and checks
without the POP. It needs the extra: pip install 'popsigner[keyfiles]'.
"""

from .report import Report, check
from .run import Drill

__all__ = ["Drill", "Report", "check"]
