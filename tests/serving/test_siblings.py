"""Workers ask each other over Unix sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path

from serving.siblings import Siblings


def worker(number: int, folder: Path | None, workers: int = 3) -> Siblings:
    siblings = Siblings(number, workers, folder)

    async def greet(name: str) -> bytes:
        if name == "nobody":
            raise ValueError(name)
        return f"{number} greets {name}".encode()

    siblings.answer("greet", greet)
    return siblings


def test_one_without_others_answers_itself() -> None:
    alone = worker(0, None, workers=1)

    async def ask() -> dict[int, bytes]:
        async with alone.listening():
            return await alone.ask("greet you", seconds=1)

    assert alone.alone
    assert asyncio.run(ask()) == {0: b"0 greets you"}


def test_each_answers_and_one_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    first, second = worker(0, tmp_path), worker(1, tmp_path)

    async def ask() -> dict[int, bytes]:
        async with first.listening(), second.listening():
            return await second.ask("greet you", seconds=30)

    assert asyncio.run(ask()) == {0: b"0 greets you", 1: b"1 greets you"}


def test_one_that_cannot_answer_or_takes_too_long_is_left_out(tmp_path: Path) -> None:
    first, second = worker(0, tmp_path, 2), worker(1, tmp_path, 2)

    async def hang(_: str) -> bytes:
        await asyncio.sleep(5)
        return b"late"

    async def at_once(_: str) -> bytes:
        return b"now"

    first.answer("slow", hang)
    second.answer("slow", at_once)
    second.answer("greet", at_once)

    async def ask() -> list[dict[int, bytes]]:
        async with first.listening(), second.listening():
            return [await second.ask("greet nobody", seconds=30), await second.ask("slow", seconds=0.05)]

    assert asyncio.run(ask()) == [{1: b"now"}, {1: b"now"}]


def test_one_that_is_started_again_takes_the_place_of_the_one_that_died(tmp_path: Path) -> None:
    (tmp_path / "0.sock").touch()
    first, second = worker(0, tmp_path, 2), worker(1, tmp_path, 2)

    async def ask() -> dict[int, bytes]:
        async with first.listening():
            return await second.ask("greet you", seconds=30)

    assert set(asyncio.run(ask())) == {0, 1}
