"""A browser, and a server with records for it."""

import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dredge.insights.store import Store

AUDIT = Path(__file__).with_name("audit.js").read_text(encoding="utf-8").partition("\n")[2]
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
TEXTS = {
    "plain": "Gravity waves break at the shelf, where the slope is steepest.\nMeasured twice, in June and in July.",
    "near": "gravity waves break at the shelf, where the slope is steepest. Measured twice, in June and in July.",
    "like": "Gravity waves are bent by the slope of the shelf.",
    "arabic": "\u202eمرحبا بالعالم، هذه ملاحظة طويلة باللغة العربية mixed with English 123",
    "odd": "👩‍👩‍👧‍👦 🏳️‍🌈 Z̷̛̤͓͙̞͍̪̊́̾͗̔̆a̴̘̿l̸̡̛̥͊̈́g̷̰̈́ọ̸̌ \x01\x1b[31m <script>document.title='owned'</script>",
    "word": "A" * 5000,
    "megabyte": "0123456789" * 104_857,
}


def document(title: str, rows: list[dict[str, Any]], places: np.ndarray, grid: np.ndarray, sides: list[int]) -> Any:
    """What is kept of a signal that is the sum of some packets and an error of a hundredth."""

    def wave(row: dict[str, Any], at: np.ndarray) -> np.ndarray:
        moved = at - np.array(row["centre"])
        phase = moved @ (math.tau * np.array(row["cycles"])) + row["phase"]
        return row["amplitude"] * np.exp(-((moved / row["width"]) ** 2).sum(1) / 2) * np.cos(phase)

    def listed(at: np.ndarray) -> Any:
        return at[:, 0].tolist() if at.shape[1] == 1 else at.tolist()

    curves = np.array([wave(row, grid) for row in rows])
    left = 0.01 * np.cos(np.arange(len(places)))
    values = sum(wave(row, places) for row in rows) + left + 0.25
    return {
        "title": title, "dim": places.shape[1], "points": len(places),
        "samples": {"coords": listed(places), "values": values.tolist()},
        "fit": {"coords": listed(grid), "values": (curves.sum(0) + 0.25).tolist(), "shape": sides,
                "packets": curves.tolist() if places.shape[1] == 1 else []},
        "packets": rows, "constant": 0.25,
        "residual": {"rms": 0.0071, "largest": 0.01, "explained": 0.9987, "values": left.tolist()},
    }  # fmt: skip


def bursts(*numbers: tuple[list[float], list[float], list[float], float]) -> list[dict[str, Any]]:
    names = ("centre", "width", "cycles", "amplitude")
    return [dict(zip(names, row, strict=True)) | {"phase": 0.5, "frequency": []} for row in numbers]


def line() -> Any:
    rows = bursts(([-2.0], [1.5], [0.4], 2.0), ([3.0], [0.8], [1.1], 0.9), ([0.5], [3.0], [0.8], 0.05))
    places, grid = (np.linspace(-10, 10, n)[:, None] for n in (400, 512))
    return document("Line", rows, places, grid, [512])


def plate() -> Any:
    rows = bursts(([0.5, -0.5], [0.4, 0.8], [0.8, 0.3], 1.0), ([-1.0, 1.2], [0.5, 0.3], [0.0, 0.9], 0.6))
    grid = np.stack(np.meshgrid(*[np.linspace(-2, 2, 64)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    return document("Plate", rows, np.random.default_rng(0).uniform(-2, 2, (500, 2)), grid, [64, 64])


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's program."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    return found or pytest.skip("no chromium is on PATH, and CHROMIUM names none")


# Not for longer than a module: other tests run an event loop of their own, which no other may be alive beside.
@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


class Site:
    """A server with records, and the paths of its pages."""

    def __init__(self, folder: Path, serve: Callable[..., Any]) -> None:
        with Store.open(folder / "notes.db") as store:
            kept = store.put_many([*TEXTS.values()])
            self.ids = {name: one.insight.id for name, one in zip(TEXTS, kept, strict=True)}
            for name, drawn in (("line", line()), ("plate", plate())):
                self.ids[name] = hashlib.sha256(name.encode()).hexdigest()
                store.put_signal(self.ids[name], f"{drawn['title']}: packets", drawn)
        self.served = serve(folder=folder)
        self.address = f"http://127.0.0.1:{self.served.port}"
        self.paths = {"home": "/", "browse": "/notes", "find": "/find?q=gravity+shelf", "empty": "/find",
                      "form": "/signals", "vain": "/find?q=zzzz&mode=text"}  # fmt: skip
        self.paths |= {name: f"/notes/{identifier}" for name, identifier in self.ids.items()}
        self.paths["delete"] = f"/notes/{self.ids['plain']}/delete"


@pytest.fixture(scope="session")
def site(chromium: str, serve_for_all: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"), serve_for_all)


class Visit:
    """A tab, and everything that went wrong or over the wire while it was open."""

    def __init__(self, browser: Any, address: str, *, width: int = 1280, script: bool = True, **options: Any) -> None:
        self.address = address
        self.context = browser.new_context(
            viewport={"width": width, "height": 844}, java_script_enabled=script, **options
        )
        self.context.set_default_timeout(60_000)
        self.page = self.context.new_page()
        self.troubles: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.troubles.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def open(self, path: str) -> int:
        """Goes to a path; the status."""
        return int(self.page.goto(self.address + path).status)

    def until(self, expression: str, seconds: float = 60.0) -> None:
        """Waits until a condition holds. The browser's own waiting is code in a string, which the page forbids."""
        last = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < last, f"never came true: {expression}"
            self.page.wait_for_timeout(20)

    def follow(self, target: Any) -> None:
        """Clicks what leads to another page, and waits until that is there, its style too."""
        with self.page.expect_navigation(wait_until="load"):
            target.click()

    def path(self) -> str:
        """Where the tab is."""
        return str(self.page.url).removeprefix(self.address)

    def audit(self) -> list[str]:
        """What keeps somebody from reading or using the page."""
        return list(self.page.evaluate(AUDIT))

    def calm(self) -> None:
        """Nothing went wrong, and nothing left the host."""
        assert self.troubles == []
        assert all(url.startswith((f"{self.address}/", "data:")) for url in self.requests), self.requests


@pytest.fixture
def visiting(browser: Any) -> Callable[..., Visit]:
    """Opens a tab: `with visiting(address, width=390, script=False) as visit`."""
    return partial(Visit, browser)
