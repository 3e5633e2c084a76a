"""Run by itself, from any directory, against the installed wheel: a note is kept, found despite misspelling, served."""

import tempfile
from pathlib import Path

from dredge.config import Settings
from dredge.insights.search import Searcher
from dredge.insights.store import Store
from dredge.server import create_app

with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "notes.db") as store:
    kept = store.put("waves bend at the edge of the shelf").insight
    store.put("a list of tuples is sorted")
    found = Searcher(store).search("wafes bent at the egde", limit=1)[0].insight
    if found.id != kept.id:
        raise SystemExit(f"a misspelt query finds its note; found {found.text!r}")
    client = create_app(Settings(), store).test_client()
    answer = client.post("/lift", json={"insight_text": kept.text})
    if answer.status_code != 200 or answer.get_json()["seen"] != 2:
        raise SystemExit(f"the same text is counted; got {answer.status_code} {answer.get_json()}")
    page = client.get("/", headers={"Accept": "text/html"})
    if page.status_code != 200:
        raise SystemExit(f"the root answers; got {page.status_code}")
print("dredge: keeps a note, finds it misspelt, and serves it")
