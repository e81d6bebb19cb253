"""What happened to a use case, as events of the configured Prefect server; automations and people's own hang on them.

`millrace.drift`, `.decision`, `.retrain`, `.trained` and `.failed`, each about the resource `millrace.use-case.NAME`.
What an event tells of stands in our database. Without a server there are no events, and none can fail a flow.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from millrace.errors import first_line

_log = logging.getLogger(__name__)
_PREFIX = "millrace."
_TIMEOUT_S = 10.0
RETRAIN = "retrain"
"""Asks for the retrain that a decision called for; the automation of `millrace deploy` starts it."""


def event_name(event: str) -> str:
    """Its name on the server."""
    return f"{_PREFIX}{event}"


def resource_of(use_case: str) -> str:
    """The id of a use case among Prefect's resources."""
    return f"millrace.use-case.{use_case}"


def emit(use_case: str, event: str, **payload: Any) -> bool:
    """Emit `millrace.<event>`; True once the server has it, False when none is configured or it cannot be reached.

    By HTTP, whose answer says that it arrived: Prefect's own `emit_event` leaves that open, and waits for ever at the
    end of a process when the server is gone.
    """
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.events import Event, Resource
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:
        return False
    about = {"prefect.resource.id": resource_of(use_case), "prefect.resource.name": use_case}
    try:
        happened = Event(event=event_name(event), resource=Resource(about), payload=_plain(payload))
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[happened.model_dump(mode="json")], timeout=_TIMEOUT_S)
    except Exception as error:  # the server is away; our database has what happened
        _log.warning("The event millrace.%s of %s was not sent: %s", event, use_case, first_line(error))
        return False
    return True


def _plain(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in payload.items()}
