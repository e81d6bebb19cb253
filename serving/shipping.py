"""A running server's prediction log on its way into the lake: now and then `millrace ship`, in a process of its own.

Not in the server's process: the lake's libraries and one 16 MB segment of rows would take 200 MB there, and the
conversion the interpreter, for half a second each. The child runs at the lowest priority, and what it is killed in the
middle of is shipped the next time, still once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from millrace.settings import Settings, child_environment

_logger = logging.getLogger(__name__)


async def keep_shipping(settings: Settings, use_cases: Sequence[str]) -> None:
    """Ship the logs of these use cases every `settings.ship_minutes`, for ever; 0 is never."""
    while settings.ship_minutes:
        await asyncio.sleep(settings.ship_minutes * 60)
        await ship_once(settings, use_cases)


async def ship_once(settings: Settings, use_cases: Sequence[str]) -> None:
    """Ship what is finished; a failure is logged and changes nothing: the segments stay for the next time."""
    command = (sys.executable, "-P", "-m", "millrace.cli", "ship", *use_cases)
    pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=nowhere, stdout=nowhere, stderr=pipe, env=child_environment(settings)
        )
    except OSError as error:
        _logger.error("the prediction log was not shipped: no process: %s", error.strerror)
        return
    try:
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, process.pid, 19)
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        _logger.error("the prediction log was not shipped: %s", said.decode(errors="replace").strip())
