"""Imported by Python itself at the start of every process that inherits `blocked_sockets.environment()`."""

import os
from pathlib import Path

import blocked_sockets

if blocked_sockets.LOG_VARIABLE in os.environ:
    blocked_sockets.install(Path(os.environ[blocked_sockets.LOG_VARIABLE]))
