"""What the server stands on, without the server: a bare ASGI callable and an empty FastAPI route that answer a
constant, under uvicorn with the flags of `serving.run`.

`python -m benchmarks.serving_floor asgi|fastapi PORT` serves until it is ended.
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI

BODY = b'{"use_case":"flight_delay","version":1,"predictions":[{"id":"0","score":0.5,"flags":[]}]}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]


async def bare(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Reads nothing, answers the constant."""
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


def empty_fastapi() -> FastAPI:
    """One route that parses nothing and returns a constant."""
    app = FastAPI()

    @app.post("/predict")
    async def predict() -> dict[str, float]:
        return {"score": 0.5}

    return app


def main(kind: str, port: int) -> None:
    """Serve one of the two."""
    app: Any = bare if kind == "asgi" else empty_fastapi()
    uvicorn.run(
        app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", ws="none", lifespan="off",
        access_log=False, log_config=None, server_header=False, date_header=False, timeout_keep_alive=75,
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
