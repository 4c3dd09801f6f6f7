"""The status page in a real browser: at every width all of it can be read, with long names and many rows."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from backend.status import page as status_page

LONG = "small-20261130-a-version-with-a-long-name-p12-34"
ERROR = (
    "The clip https://storage.example.com/bucket/2026/11/30/a-very-long-path/that-never-ends/clip.mp4?signature="
    + "0123456789abcdef" * 12
    + " cannot be fetched: it answers 403 Forbidden"
)
NOW = "2026-11-30T12:00:00+00:00"
LINK = "http://127.0.0.1:8080/projects/1/data?task=2"

# Whatever is cut off, and every word of at most 24 characters that is broken. A longer one has to be, somewhere.
FAULTS = """() => {
    const faults = [], width = document.documentElement.clientWidth;
    const page = document.documentElement.scrollWidth;
    if (page > width) faults.push(`the page is ${page} wide`);
    for (const cell of document.querySelectorAll("td, th, dd, dt, p, h2")) {
        const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
            const node = walker.currentNode;
            for (const word of node.data.matchAll(/\\S+/g)) {
                const range = document.createRange();
                range.setStart(node, word.index);
                range.setEnd(node, word.index + word[0].length);
                const boxes = [...range.getClientRects()].filter(box => box.width > 0);
                const lines = new Set(boxes.map(box => box.top)).size;
                if (word[0].length <= 24 && lines > 1) faults.push(`broken: ${word[0]}`);
                if (boxes.some(box => box.right > width + 1)) faults.push(`cut off: ${word[0]}`);
            }
        }
    }
    return faults;
}"""


def job(number: int, **values: Any) -> dict[str, Any]:
    id = f"preannotate-{number}-{number}-{LONG}"
    return {"id": id, "task": number, "project": 12, "link": LINK, "model_version": LONG, **values}


def state(rows: int) -> dict[str, Any]:
    running = {"done": 3, "total": 100, "started_at": NOW, "worker": "worker-of-a-machine-with-a-name-1"}
    done = {"outcome": "predicted", "keyframes": 100, "seconds": 12.5, "finished_at": NOW, "sheet": True}
    training = {"project": 12, "link": LINK, "state": "running", "total": 90, "done": 3, "version": LONG, "job": "t-1"}
    times = {"ended_at": None, "started_at": NOW, "enqueued_at": NOW}
    worker = {
        "name": "2f1e9c0c5b1e4b0f9d",
        "host": "gpu-machine-17.internal.example.com",
        "pid": 12345,
        "state": "busy",
    }
    counts = {"succeeded": 12345, "failed": 3, "last_seen": NOW}
    versions = [{"name": f"{LONG}{n}", "sentence": "It may be better, but the clips are too few."} for n in range(3)]
    project = {"id": 12, "link": LINK, "model_version": LONG, "error": None, "pinned": True, "earlier": True}
    return {
        "model_version": LONG,
        "queued": 98765,
        "finished": 12345,
        "failed": rows,
        "exposure": "anybody who reaches this port may queue tasks",
        "redis": {"full": True, "used": 99_000_000, "most": 100_000_000},
        "store": {"url": "s3://bucket", "away_since": NOW, "error": ERROR},
        "running": [job(n, **running) for n in range(3)],
        "trainings": [{**training, "told": "epoch 3 of 90, 2 minutes left", **times}],
        "retried": [job(n, error=ERROR, seconds=169) for n in range(2)],
        "failures": [job(n, error=ERROR, failed_at=NOW) for n in range(rows)],
        "done": [job(n, remarks=["The sound ends 3.2 s before the picture."], **done) for n in range(20)],
        "workers": [worker | counts],
        "trainers": [worker | counts],
        "projects": [{**project, "outdated": True, "versions": versions}],
        "damaged_projects": ["1", "2"],
        "damaged_versions": [ERROR],
        "remarks": [{"time": NOW, "sentence": ERROR}],
    }


@pytest.mark.parametrize("width", [390, 768, 1300, 1920])
def test_all_of_it_can_be_read(chromium: Browser, screenshots: Path, width: int) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 900})
    page.set_content(status_page(state(rows=200)))
    assert page.evaluate(FAULTS) == []
    page.set_content(status_page(state(rows=3)))
    page.screenshot(path=screenshots / f"status-page-{width}.png", full_page=True)
    page.close()
