"""Pages as a browser asks for them, without one: what they say, what they change, what they refuse."""

import hashlib
import html
import io
import json
import re
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import dredge.api.signal_fits
from dredge.api.services import Services
from dredge.config import Settings
from dredge.errors import MissingExtraError
from dredge.insights.store import Store
from dredge.server import create_app

ACCEPT = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
ODD = "<script>alert(1)</script> & \"q\" 'a' {{ 7*7 }} \u202eabc 👩‍👩‍👧‍👦 \x01\x1b[31m"
BURST = [(n / 10, 2 * np.exp(-((n / 10 - 4) ** 2)) * np.cos(6 * n / 10)) for n in range(80)]


@pytest.fixture
def app(store: Store) -> Flask:
    limits = {"fit_seconds": 5.0, "signal_points": 2000, "text_bytes": 100_000, "body_bytes": 200_000}
    return create_app(Settings(log={"level": "ERROR"}, limits=limits), store)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def own(client: FlaskClient) -> Services:
    return client.application.extensions["dredge"]


def get(client: FlaskClient, path: str, status: int = 200) -> str:
    answer = client.get(path, headers=ACCEPT)
    assert answer.status_code == status, answer.text[-500:]
    return page_of(answer)


def page_of(answer: TestResponse) -> str:
    """The page, which must be one that the service's policy and a screen reader can live with."""
    assert answer.mimetype == "text/html"
    assert answer.headers["Cache-Control"] == "no-store"
    text = answer.text
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", re.sub(r">[^<]*<", "><", text))
    assert re.findall(r"<script[^>]*>", text) == ['<script src="/static/dredge.js" defer>']
    assert not re.search(r'(?:src|href|action)="(?:https?:)?//', text)
    assert text.count("<h1") == text.count("<main") == 1
    identifiers = re.findall(r'\sid="([^"]+)"', text)
    assert len(identifiers) == len(set(identifiers))
    for named in re.findall(r'aria-(?:labelledby|describedby)="([^"]+)"', text):
        assert set(named.split()) <= set(identifiers)
    return text


def titles(page: str) -> list[str]:
    return [html.unescape(re.sub("<.*?>", "", one)) for one in re.findall(r'<p class="title".*?</p>', page, re.DOTALL)]


def ids_of(page: str) -> list[str]:
    return re.findall(r'<p class="title"[^>]*><a href="/notes/([0-9a-f]{64})"', page)


# --- texts ------------------------------------------------------------------------------------------------------------


def test_the_first_page_invites_and_lists_the_newest(client: FlaskClient, store: Store) -> None:
    empty = get(client, "/")
    assert "Nothing is kept yet." in empty
    assert empty == get(client, "/home")
    store.put_many([f"note {n}" for n in range(10)])
    page = get(client, "/")
    assert titles(page) == [f"note {n}" for n in range(9, 1, -1)]
    assert "Older ones" in page
    assert "Accept" in client.get("/", headers=ACCEPT).headers["Vary"]


@pytest.mark.parametrize("text", ["one line", "two\nlines\n", "\nfirst line empty", "tab\t and  blanks ", ODD])
def test_a_text_is_kept_as_it_was_typed(client: FlaskClient, store: Store, text: str) -> None:
    sent = text.replace("\n", "\r\n")
    answer = client.post("/notes", data={"text": sent})
    identifier = hashlib.sha256(text.encode()).hexdigest()
    assert (answer.status_code, answer.location) == (303, f"/notes/{identifier}?told=new")
    assert store.get(identifier).text == text
    assert "Kept." in get(client, answer.location)
    again = client.post("/notes", data={"text": sent})
    assert again.location == f"/notes/{identifier}?told=again"
    assert "counted once more" in get(client, again.location)
    assert "lifted 2 times" in get(client, "/notes")
    assert 'dredge_lifted_total{kind="text",outcome="repeat"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "can be seen"), (" \r\n\t", "can be seen"), ("\u200b", "can be seen"), ("a\x00b", "U+0000"),
     ("x" * 100_001, "at most 100000 bytes"), ("\n" + ODD + "\x00", "U+0000")],
)  # fmt: skip
def test_a_text_that_cannot_be_kept_comes_back(client: FlaskClient, store: Store, text: str, told: str) -> None:
    answer = client.post("/notes", data={"text": text})
    assert answer.status_code == 422
    page = page_of(answer)
    assert told in re.search(r'<p class="error" id="text-error" role="alert">(.*?)</p>', page, re.DOTALL)[1]
    assert re.search(r'<textarea id="text"[^>]*aria-invalid="true" aria-describedby="text-error"', page)
    # The first end of a line after the tag is no part of it.
    typed = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", page, re.DOTALL)[1]
    assert html.unescape(typed) == text.replace("\r\n", "\n")
    assert store.count() == 0


def test_a_form_without_the_field_or_of_another_type_keeps_nothing(client: FlaskClient, store: Store) -> None:
    assert client.post("/notes", data={}).status_code == 422
    assert client.post("/notes", json={"text": "x"}).status_code == 422
    assert client.post("/notes", data=b"\xff%FF%", content_type="multipart/form-data; boundary=x").status_code == 422
    assert (
        client.post("/notes", data=b"text=%ff%00", content_type="application/x-www-form-urlencoded").status_code == 422
    )
    assert store.count() == 0


def test_a_body_that_is_too_large_is_refused_as_a_page(client: FlaskClient) -> None:
    for data in ({"text": "x" * 250_000}, {"text": "x" * 250_000, "file": (io.BytesIO(b"1"), "a.csv")}):
        answer = client.post("/notes", data=data)
        assert answer.status_code == 413
        assert "at most 200000 bytes" in page_of(answer)


@pytest.mark.parametrize("path", ["/notes", "/signals", "/notes/{}/delete"])
@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}])
def test_forms_of_other_sites_change_nothing(
    client: FlaskClient, store: Store, path: str, headers: dict[str, str]
) -> None:
    kept = store.put("kept").insight.id
    answer = client.post(path.format(kept), data={"text": "x", "samples": "1 2\n2 3\n3 4\n4 5"}, headers=headers)
    assert answer.status_code == 403
    assert list(store.get_many([kept])) == [kept]
    assert store.count() == 1


# --- browsing and searching -------------------------------------------------------------------------------------------


def test_all_records_are_on_some_page_once(client: FlaskClient, store: Store) -> None:
    wanted = [one.insight.id for one in store.put_many([f"note {n}" for n in range(60)])][::-1]
    found, path, pages = [], "/notes", 0
    while path:
        page = get(client, path)
        found += ids_of(page)
        pages += 1
        following = re.search(r'<a href="([^"]+)" rel="next"', page)
        assert ("Newest</a>" in page) == (pages > 1)
        path = html.unescape(following[1]) if following else ""
    assert (found, pages) == (wanted, 3)


def test_kinds_are_told_apart(client: FlaskClient, store: Store) -> None:
    store.put("a text")
    store.put_signal("a" * 64, "a signal", {"packets": []})
    assert titles(get(client, "/notes")) == ["a signal", "a text"]
    assert titles(get(client, "/notes?kind=text")) == ["a text"]
    assert titles(get(client, "/notes?kind=signal")) == ["a signal"]
    assert titles(get(client, "/notes?kind=nonsense")) == ["a signal", "a text"]
    assert "a cursor" in get(client, "/notes?cursor=nonsense", 422).lower()


@pytest.mark.parametrize("mode", ["hybrid", "text", "vector"])
def test_a_search_shows_what_the_searcher_finds(client: FlaskClient, store: Store, mode: str) -> None:
    store.put_many([f"wave number {n} of {'shelf' if n % 2 else 'slope'}" for n in range(25)])
    hits = own(client).searcher.search("shelf wave", limit=25, mode=mode)
    found, scores, path, pages = [], [], f"/find?q=shelf+wave&mode={mode}", 0
    while path:
        page = get(client, path)
        found += ids_of(page)
        scores += re.findall(r"score (\d\.\d\d)", page)
        assert page.count("<mark>wave</mark>") == len(ids_of(page))
        assert re.search(rf'value="{mode}" form="search" checked', page)
        assert f'<ol class="records" start="{10 * pages + 1}">' in page
        pages += 1
        following = re.search(r'<a href="([^"]+)" rel="next"', page)
        path = html.unescape(following[1]) if following else ""
    assert len(found) == 25
    assert pages == 3
    # Beyond the first page another number of candidates is looked at: the same records, in nearly the same order.
    assert sorted(found) == sorted(hit.insight.id for hit in hits)
    assert found[:10] == [hit.insight.id for hit in hits[:10]]
    assert scores[:10] == [f"{hit.score:.2f}" for hit in hits[:10]]


def test_a_search_for_nothing_asks_and_one_in_vain_says_so(client: FlaskClient, store: Store) -> None:
    store.put("a note")
    assert "Type some words" in get(client, "/find")
    assert "Type some words" in get(client, "/find?q=+")
    assert "Nothing was found." in get(client, "/find?q=zzzz&mode=text")
    assert "no more" in get(client, "/find?q=note&mode=text&offset=500")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (f"q={'x' * 1001}", "at most 1000 characters"), ("q=x&mode=magic", "got &#39;magic&#39;"),
        ("q=x&offset=-1", "offset"), ("q=x&offset=1e3", "offset"), ("q=x&offset=99999999999999999999", "offset"),
        ("q=x&offset=991", "offset"), ("q=%C2%B2&offset=%C2%B2", "offset"), ("q=a%00b", "U+0000"),
    ],
)  # fmt: skip
def test_a_search_that_cannot_be_made_says_why(client: FlaskClient, store: Store, query: str, told: str) -> None:
    page = get(client, f"/find?{query}", 422)
    assert told in re.search(r'<p class="error" id="q-error" role="alert">(.*?)</p>', page)[1]
    assert re.search(r'<input id="q"[^>]*aria-invalid="true" aria-describedby="q-error"', page)


# --- a record ---------------------------------------------------------------------------------------------------------


def test_a_record_shows_all_that_is_known(client: FlaskClient, store: Store) -> None:
    text = "Gravity waves break at the shelf, at a depth of forty metres, where the slope is steepest"
    stored = store.put(text)
    near = store.put(text.upper()).insight.id
    like = store.put("Gravity waves are bent by the shelf").insight.id
    far = store.put("zzz qqq").insight.id
    page = get(client, f"/notes/{stored.insight.id}")
    assert f'<code id="id">{stored.insight.id}</code>' in page
    assert stored.insight.created.isoformat() in page
    assert stored.insight.encoder in page
    assert f'href="/insights/{stored.insight.id}"' in page
    duplicates, similar = page.split('id="same-title"')[1].split('id="alike-title"')
    assert ids_of(duplicates) == [near]
    assert ids_of(similar) == [like]
    assert far not in page
    alone = get(client, f"/notes/{far}")
    assert "Nothing here is like it." in alone
    assert "Near-duplicates" not in alone


def test_odd_characters_are_shown_and_do_nothing(client: FlaskClient, store: Store) -> None:
    identifier = store.put(ODD).insight.id
    for path in (f"/notes/{identifier}", f"/notes/{identifier}/delete", "/notes", "/", "/find?q=alert"):
        page = get(client, path)
        assert "<script>alert" not in page
        assert "{{ 7*7 }}" in page
        assert "\\x1b[31m" in page
        assert "\x1b" not in page
    assert '<div class="whole" dir="auto">&lt;script&gt;' in get(client, f"/notes/{identifier}")


def test_a_long_text_is_shown_in_part_until_all_is_asked_for(client: FlaskClient, store: Store) -> None:
    text = "".join(f"{n:06d}\n" for n in range(10_000))
    identifier = store.put(text).insight.id
    page = get(client, f"/notes/{identifier}")
    assert "first 20,000 of 70,000 characters" in page
    assert "009999" not in page
    assert len(page) < 30_000
    assert "009999" in get(client, f"/notes/{identifier}?whole=1")


def test_deleting_asks_first(client: FlaskClient, store: Store) -> None:
    identifier = store.put("a note").insight.id
    page = get(client, f"/notes/{identifier}/delete")
    assert "cannot be undone" in page
    assert store.count() == 1
    answer = client.post(f"/notes/{identifier}/delete")
    assert (answer.status_code, answer.location) == (303, "/notes?told=deleted")
    assert "Deleted." in get(client, answer.location)
    assert store.count() == 0
    for path in (f"/notes/{identifier}", f"/notes/{identifier}/delete"):
        get(client, path, 404)
    assert client.post(f"/notes/{identifier}/delete").status_code == 404


# --- errors -----------------------------------------------------------------------------------------------------------


def test_errors_of_pages_say_the_same_as_elsewhere(client: FlaskClient, store: Store) -> None:
    for name in ("nope", "f" * 64, "%00", "<b>"):
        page = get(client, f"/notes/{name}", 404)
        told = client.get(f"/insights/{name}").json
        assert html.escape(told["message"], quote=False).replace("'", "&#39;") in page
        assert told["code"] in page
    store.close()
    for path in ("/", "/home", "/notes", "/find?q=x", f"/notes/{'a' * 64}"):
        answer = client.get(path, headers=ACCEPT)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert answer.headers["X-Request-ID"] in page_of(answer)
        assert "notes.db" not in answer.text


def test_a_failure_that_nobody_foresaw_tells_nothing_of_the_inside(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("the secret")

    monkeypatch.setattr(Store, "page", fails)
    for path in ("/", "/home", "/notes"):
        assert "secret" not in get(client, path, 500)


def test_parts_of_pages_are_served_with_their_types_and_nothing_beside_them(client: FlaskClient) -> None:
    for name, kind in (("dredge.css", "text/css"), ("dredge.js", "javascript"), ("dredge.svg", "image/svg+xml")):
        with client.get(f"/static/{name}") as answer:
            assert answer.status_code == 200
            assert kind in answer.mimetype
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            tag = answer.headers["ETag"]
        # Asked for again, it is not sent again.
        with client.get(f"/static/{name}", headers={"If-None-Match": tag}) as answer:
            assert answer.status_code == 304
    for name in ("nothing.css", "../pages.py", "..%2fpages.py"):
        assert client.get(f"/static/{name}").status_code == 404


def test_pages_need_a_token_where_the_service_does(store: Store) -> None:
    token = "a-token-of-thirty-two-characters"
    client = create_app(Settings(log={"level": "ERROR"}, auth={"tokens": [token]}), store).test_client()
    for path in ("/", "/home", "/notes", "/find", "/signals"):
        answer = client.get(path, headers=ACCEPT)
        assert answer.status_code == 401
        assert "Basic" in answer.headers["WWW-Authenticate"]
        assert client.get(path, headers=ACCEPT, auth=("", token)).status_code == 200


# --- signals ----------------------------------------------------------------------------------------------------------


def columns(samples: list[tuple[float, float]], between: str = ", ") -> str:
    return "\r\n".join(f"{x}{between}{y}" for x, y in samples)


@pytest.fixture
def fitted(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was asked of each fit."""
    asked: list[dict[str, Any]] = []
    real = dredge.api.signal_fits.lift_signal

    def counted(*arguments: Any, **options: Any) -> Any:
        asked.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr(dredge.api.signal_fits, "lift_signal", counted)
    return asked


@pytest.mark.needs_extra("torch")
def test_a_pasted_signal_is_fitted_kept_and_drawn(client: FlaskClient, store: Store, fitted: list[Any]) -> None:
    answer = client.post("/signals", data={"samples": columns(BURST), "title": " A  burst ", "most": "3"})
    assert answer.status_code == 303
    page = get(client, answer.location)
    assert "Kept." in page
    assert re.search(r"<h1[^>]*>A burst</h1>", page)
    # The same as the interface for programs has it.
    told = client.get(answer.location.replace("/notes/", "/insights/").partition("?")[0]).json
    api = client.post("/lift/signal", json={"coords": [x for x, _ in BURST], "values": [float(y) for _, y in BURST]})
    assert api.json["id"] == told["id"]
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr><th scope=\"row\">.*?</tr>", page)]
    assert len(cells) == len(told["signal"]["packets"]) <= 3
    first = [float(cell.replace("−", "-")) for cell in cells[0]]
    packet = told["signal"]["packets"][0]
    wanted = [*packet["centre"], *packet["width"], *packet["cycles"], packet["amplitude"], packet["phase"]]
    assert first == pytest.approx(wanted, rel=6e-3, abs=1e-3)
    # exp(−(x − 4)²) has the width 1/√2, and cos 6x turns 6/2π times per unit.
    assert first[:3] == pytest.approx([4.0, 2**-0.5, 6 / (2 * np.pi)], rel=0.02)
    assert [page.count(f'id="drawing-{name}"') for name in ("fit", "packets", "residual")] == [1, 1, 1]
    assert page.count("<svg") == 6
    assert (fitted[0]["seconds"], fitted[0]["limits"].fit_seconds) == (None, 5.0)
    # Sent again, it is not fitted again.
    assert client.post("/signals", data={"samples": columns(BURST, "\t")}).location.endswith("told=again")
    assert len(fitted) == 1
    assert store.get(told["id"]).seen == 3


@pytest.mark.needs_extra("torch")
def test_a_signal_may_be_sent_as_a_file(client: FlaskClient) -> None:
    pasted = client.post("/signals", data={"samples": columns(BURST), "most": "1"}).location.partition("?")[0]
    buffer = io.BytesIO()
    np.save(buffer, np.array(BURST))
    for content, name in ((columns(BURST, ",").encode(), "a.csv"), (buffer.getvalue(), "a.npy")):
        answer = client.post("/signals", data={"samples": " ", "file": (io.BytesIO(content), name)})
        assert answer.location.partition("?")[0] == pasted


@pytest.mark.needs_extra("torch")
def test_signals_of_more_coordinates_have_maps_or_a_table(client: FlaskClient) -> None:
    generator = np.random.default_rng(0)
    for axes, drawings in ((2, 6), (3, 0)):
        x = generator.uniform(-2, 2, (150, axes))
        y = np.exp(-(x**2).sum(1)) * np.cos(3 * x[:, 0])
        lines = "\n".join(" ".join(map(str, row)) for row in np.column_stack([x, y]))
        page = get(client, client.post("/signals", data={"samples": lines, "most": "1"}).location)
        assert page.count("<svg") == drawings
        assert page.count("<ellipse") == (2 if axes == 2 else 0)
        assert len(re.findall(r"<td>[^<]*</td>", page)) == 5


@pytest.mark.needs_extra("torch")
def test_a_constant_signal_has_no_packets_and_is_drawn(client: FlaskClient) -> None:
    page = get(client, client.post("/signals", data={"samples": "3\n3\n3\n3\n3"}).location)
    assert "<table" not in page
    assert page.count("<svg") == 4


GOOD = "1 2\n2 3\n3 5\n4 1"


@pytest.mark.parametrize(
    ("given", "field", "told"),
    [
        ({"samples": ""}, "samples", "got none"),
        ({}, "samples", "got none"),
        ({"samples": "1 2\n2 x"}, "samples", "line 2"),
        ({"samples": "1 2\n2 3"}, "samples", "at least 4 samples"),
        ({"samples": "1 nan\n2 3\n3 4\n4 5"}, "samples", "finite"),
        ({"samples": "1 2\n1 3\n1 4\n1 5"}, "samples", "on axis 0 all are 1"),
        ({"samples": "\n".join(["1"] * 2001)}, "samples", "at most 2,000 samples"),
        ({"samples": GOOD, "title": "x" * 201}, "title", "at most 200 characters"),
        ({"samples": GOOD, "title": "a\x00b"}, "title", "U+0000"),
        ({"samples": GOOD, "title": "\u200b"}, "title", "can be seen"),
        ({"samples": GOOD, "most": "0"}, "most", "from 1 to 64"),
        ({"samples": GOOD, "most": "65"}, "most", "from 1 to 64"),
        ({"samples": GOOD, "most": "²"}, "most", "from 1 to 64"),
        ({"samples": GOOD, "most": "1e1"}, "most", "from 1 to 64"),
        ({"samples": GOOD, "file": (b"1,2", "a.csv")}, "file", "got both"),
        ({"file": (b"1,2", "a.exe")}, "file", "ends in"),
        ({"file": (b"1,2\n3", "a.csv")}, "file", "line 2"),
        ({"file": (b"\x93NUMPY", "a.npy")}, "file", "a.npy"),
    ],
)
@pytest.mark.needs_extra("torch")
def test_a_signal_that_cannot_be_fitted_comes_back(
    client: FlaskClient, store: Store, given: dict[str, Any], field: str, told: str
) -> None:
    data = {
        name: value if isinstance(value, str) else (io.BytesIO(value[0]), value[1]) for name, value in given.items()
    }
    answer = client.post("/signals", data=data, content_type="multipart/form-data")
    assert answer.status_code == 422
    page = page_of(answer)
    assert re.findall(r'<p class="error" id="(.*?)-error" role="alert">', page) == [field]
    assert told in html.unescape(re.search(r'-error" role="alert">(.*?)</p>', page, re.DOTALL)[1])
    assert re.search(
        rf'<(?:input|textarea) id="{field}"[^>]*aria-describedby="{field}-error[^>]*aria-invalid="true"', page
    )
    assert page.count("aria-invalid") == 1
    typed = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", page, re.DOTALL)[1]
    assert html.unescape(typed) == given.get("samples", "")
    if "most" in given:
        assert f'value="{given["most"]}"' in page
    assert store.count() == 0


def test_a_fit_that_is_not_to_be_had_keeps_what_was_typed(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dredge.api.signal_fits, "_PATIENCE", 0.01)
    with own(client).fits:
        answer = client.post("/signals", data={"samples": GOOD})
    assert answer.status_code == 429
    assert GOOD in page_of(answer)

    def missing(*_: Any, **__: Any) -> Any:
        raise MissingExtraError("lifting a signal needs torch, which the extra 'inr' installs. Add it.")

    monkeypatch.setattr(dredge.api.signal_fits, "lift_signal", missing)
    answer = client.post("/signals", data={"samples": GOOD})
    assert answer.status_code == 501
    assert "Lifting a signal needs torch" in page_of(answer)
    assert GOOD in answer.text
    # The next one is not kept waiting by the one that failed.
    assert own(client).fits.acquire(blocking=False)


def test_a_foreign_document_is_told_and_not_drawn(client: FlaskClient, store: Store) -> None:
    store.put_signal("a" * 64, "from elsewhere", {"packets": 5, "title": "<b>"})
    page = get(client, f"/notes/{'a' * 64}")
    assert "cannot be drawn" in page
    assert "<svg" not in page
    assert json.loads(client.get(f"/insights/{'a' * 64}").text)["signal"]["packets"] == 5


def test_the_title_of_a_foreign_document_is_shown_as_texts_are(client: FlaskClient, store: Store) -> None:
    whole = {"title": "red \x1b[31m" + "x" * 10_000, "dim": 1, "points": 1, "packets": [], "constant": 1.0,
             "samples": {"coords": [0.0], "values": [1.0]},
             "fit": {"coords": [0.0, 1.0], "values": [1.0, 1.0], "shape": [2], "packets": []},
             "residual": {"rms": 0.0, "largest": 0.0, "explained": 1.0, "values": [0.0]}}  # fmt: skip
    store.put_signal("a" * 64, "from elsewhere", whole)
    page = get(client, f"/notes/{'a' * 64}")
    assert html.unescape(re.search(r"<h1[^>]*>(.*?)</h1>", page)[1]) == "red \\x1b[31m" + "x" * 191
