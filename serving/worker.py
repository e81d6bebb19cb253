"""One worker of several: `python -m serving.worker PART`, started by `serving.supervisor` and by nobody else.

It listens on the shared port with a socket of its own, tells its parent when it is ready or why it cannot be, and when
the parent is gone it drains and ends. Its settings come from its environment, which the parent has made.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import warnings
from pathlib import Path

import msgspec

from millrace.errors import MillraceError
from millrace.settings import quiet_vendors, read_settings
from serving.supervisor import Part, Report


def main(argument: str) -> None:
    """Serve this part of the server until told to end."""
    part = msgspec.json.decode(argument, type=Part)
    with socket.socket(fileno=part.parent) as parent:
        try:
            _serve(part, parent)
        except MillraceError as error:
            _tell(parent, Report(False, error.what, error.looked, error.todo, error.exit_code))
            raise SystemExit(error.exit_code) from None
        except KeyboardInterrupt:  # the parent says what there is to say
            raise SystemExit(0) from None


def _serve(part: Part, parent: socket.socket) -> None:
    from millrace.loader import load_use_case
    from millrace.logging import configure_logging
    from serving.app import create_app
    from serving.listening import bind
    from serving.run import Server
    from serving.siblings import Siblings

    settings = read_settings()
    configure_logging(settings)
    siblings = Siblings(part.number, part.workers, Path(part.folder))
    app = create_app(settings, [load_use_case(name, settings) for name in part.use_cases], siblings=siblings)

    def started() -> None:
        asyncio.get_running_loop().add_reader(parent, orphaned)
        _tell(parent, Report(ready=True))

    def orphaned() -> None:
        asyncio.get_running_loop().remove_reader(parent)
        if not app.state.draining:
            server.handle_exit(signal.SIGTERM, None)

    server = Server(app, started=started, leave=settings.leave_seconds)
    with bind(settings, shared=True) as listener:
        server.run(sockets=[listener])
    if not server.started:
        raise MillraceError("A worker did not start.", looked="The log says why.")


def _tell(parent: socket.socket, report: Report) -> None:
    try:
        parent.sendall(msgspec.json.encode(report) + b"\n")
    except OSError:  # it is gone
        return


if __name__ == "__main__":
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    quiet_vendors()
    main(sys.argv[1])
