"""Pages for people: lift a text or a signal, browse, search, look at a record, delete it.

All that changes something is a form that is sent here by POST and answered with a redirection; pages of other sites
cannot send one, as `dredge.api.auth` says. Everything works without scripts; the one script makes some of it quicker.
"""

from datetime import UTC, datetime
from typing import Any, get_args

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for
from markupsafe import Markup

from dredge.api import drawing
from dredge.api.errors import RefusedError, answer_error, refusal_of
from dredge.api.excerpts import Excerpt, excerpt, visible
from dredge.api.services import services
from dredge.api.signal_documents import SignalDocument, read_document
from dredge.api.signal_fits import kept_signal
from dredge.api.signal_forms import ACCEPTED, pasted_samples, uploaded_samples
from dredge.errors import DredgeError, InsightError, MissingExtraError, QueryError, SignalError
from dredge.insights.fusion import asked_words
from dredge.insights.ids import check_text
from dredge.insights.records import Hit, Insight, Kind, Stored
from dredge.insights.search import MAX_RESULTS, Mode, check_query
from dredge.signals import TITLE_CHARACTERS, check_title

__all__ = ["pages"]

pages = Blueprint("pages", __name__, template_folder="templates", static_folder="static", static_url_path="/static")

_NEWEST, _PAGE, _FOUND, _ALIKE = 8, 25, 10, 8
_SHOWN = 20_000
"""Characters of a text that are shown before the rest is asked for."""
_WIDE, _HALF, _NARROW = 760, 420, 350
"""Widths that a drawing is made for: of a desk, of half a desk, and of a phone."""
_LIKE = 0.2
"""Score from which records are called similar; below it they share common words and endings alone."""
_FIELDS = 20
_KEPT = {"new": "Kept.", "again": "It was kept before, and is counted once more.", "deleted": "Deleted."}


@pages.before_request
def count_fields() -> None:
    """Refuses a form of more fields than any here has, before it is taken apart."""
    if request.mimetype == "application/x-www-form-urlencoded" and request.get_data().count(b"&") >= _FIELDS:
        raise RefusedError(422, "too_many_fields", f"A form has at most {_FIELDS} fields; got more. Send those.")


@pages.get("/home")
def home() -> Response:
    """The first page; also at `/` for those who prefer HTML."""
    try:
        return _home()
    except Exception as error:  # noqa: BLE001
        # At `/` it is a view of another blueprint that failed, whose errors are JSON.
        return failed(error)


@pages.get("/notes")
def browse() -> str:
    """Records, the newest first, page by page."""
    kind: Kind | None = next((one for one in get_args(Kind) if one == request.args.get("kind")), None)
    page = services().store.page(limit=_at_most(_PAGE), cursor=request.args.get("cursor"), kind=kind, documents=False)
    return _page("browse", page=page, kind=kind, first="cursor" not in request.args, told=_told())


@pages.post("/notes")
def lift() -> Response:
    """Keeps a text; where it cannot be kept, shows it again with the reason."""
    # A browser sends the ends of lines as CR LF, whatever was typed; the id is that of the text as it was typed.
    text = request.form.get("text", "").replace("\r\n", "\n")
    own = services()
    try:
        check_text(text, own.settings.limits.text_bytes)
    except InsightError as error:
        return _home(text=text, error=_message(error))
    stored = own.store.put(text)
    own.metrics.lifted("text", created=stored.created)
    return _to_record(stored)


@pages.get("/notes/<insight_id>")
def record(insight_id: str) -> str:
    """One record, and those like it; a signal with its drawings."""
    own = services()
    insight = own.store.get(insight_id)
    whole = "whole" in request.args or len(insight.text) <= _SHOWN
    same = own.searcher.near_duplicates(insight.id, limit=_ALIKE)
    known = {hit.insight.id for hit in same}
    near = own.searcher.similar(insight.id, limit=2 * _ALIKE)
    alike = [hit for hit in near if hit.score >= _LIKE and hit.insight.id not in known]
    document = read_document(insight.signal) if insight.signal is not None else None
    title = document.title[:TITLE_CHARACTERS] if document is not None else ""
    return _page(
        "record",
        insight=insight,
        title=visible(title) if title.strip() else excerpt(insight.text).title,
        text=visible(insight.text if whole else insight.text[:_SHOWN]),
        whole=whole,
        same=_shown_hits(same),
        alike=_shown_hits(alike[:_ALIKE]),
        document=document,
        drawings=_drawings(document) if document is not None else [],
        packets=_packet_cells(document) if document is not None else [],
        told=_told(),
    )


@pages.get("/notes/<insight_id>/delete")
def confirm(insight_id: str) -> str:
    """Asks before a record is deleted."""
    insight = services().store.get(insight_id)
    return _page("delete", insight=insight, excerpt=excerpt(insight.text))


@pages.post("/notes/<insight_id>/delete")
def delete(insight_id: str) -> Any:
    """Deletes a record."""
    services().store.delete(insight_id)
    return redirect(url_for("pages.browse", told="deleted"), 303)


@pages.get("/find")
def find() -> tuple[str, int]:
    """Records for a query, the best first."""
    own = services()
    asked, mode = request.args.get("q", ""), request.args.get("mode", "hybrid")
    hits: list[Hit] = []
    error, offset, limit = "", 0, _at_most(_FOUND)
    if asked.strip():
        try:
            offset = _offset(request.args.get("offset", "0"), MAX_RESULTS - limit)
            check_query(asked, own.settings.limits.query_chars)
            chosen: Mode = next((one for one in get_args(Mode) if one == mode), "hybrid")
            if chosen != mode:
                raise QueryError(f"a search is by {', '.join(get_args(Mode))}; got {mode[:40]!r}. Choose one.")
            more = min(limit + 1, MAX_RESULTS - offset)
            hits = own.searcher.search(asked, limit=more, offset=offset, mode=chosen)
        except QueryError as refused:
            error = _message(refused)
    shown = _page(
        "find",
        asked=asked,
        mode=mode,
        error=error,
        hits=_shown_hits(hits[:limit], asked_words(asked)),
        offset=offset,
        before=offset - limit if offset >= limit else 0,
        after=offset + limit if len(hits) > limit and offset + 2 * limit <= MAX_RESULTS else None,
    )
    return shown, 422 if error else 200


@pages.get("/signals")
def ask_for_signal() -> str:
    """A form for a signal."""
    return _signal_form()


@pages.post("/signals")
def lift_signals() -> Any:
    """Fits a signal and keeps it; where it cannot be, shows the form again with the reason."""
    given = {name: request.form.get(name, "") for name in ("title", "samples", "most")}
    field = "title"
    try:
        title = _title(given["title"])
        field = "most"
        most = _packets(given["most"])
        field = "samples"
        file = request.files.get("file")
        if file is not None and file.filename:
            field = "file"
            if given["samples"].strip():
                raise SignalError("a signal is pasted, or sent as a file; got both. Leave one out.")
            coords, values = uploaded_samples(file)
        else:
            coords, values = pasted_samples(given["samples"], services().settings.limits.signal_points)
        stored = kept_signal(services(), coords, values, title=title, max_packets=most, seconds=None)
    except (SignalError, InsightError, MissingExtraError, RefusedError) as error:
        refusal = refusal_of(error)
        assert refusal is not None  # each of these has one
        return _signal_form(given, field, refusal.message), refusal.status
    services().metrics.lifted("signal", created=stored.created)
    return _to_record(stored)


@pages.errorhandler(Exception)
def failed(error: Exception) -> Response:
    """The answer to any exception of a page: the same status, headers and words as elsewhere, as a page."""
    plain = answer_error(error)
    if request.endpoint == "pages.static":
        return plain
    answer = make_response(_page("error", status=plain.status_code, **plain.get_json()), plain.status_code)
    for name in ("Allow", "Retry-After"):
        if name in plain.headers:
            answer.headers[name] = plain.headers[name]
    return answer


@pages.app_template_filter("when")
def when(time: datetime) -> str:
    """A time as people write it.

    >>> when(datetime(2024, 2, 29, 8, 5, tzinfo=UTC))
    '29 February 2024, 08:05 UTC'
    """
    time = time.astimezone(UTC)
    return f"{time.day} {time:%B %Y, %H:%M} UTC"


pages.add_app_template_filter(excerpt)
pages.add_app_template_filter(drawing.number, "number")


def _page(name: str, **values: Any) -> str:
    return render_template(f"{name}.html", here=name, **values)


def _home(text: str = "", error: str = "") -> Response:
    store = services().store
    newest = store.page(limit=_at_most(_NEWEST), documents=False)
    answer = make_response(
        _page("home", newest=newest, count=store.count(), text=text, error=error), 422 if error else 200
    )
    answer.vary.add("Accept")
    return answer


def _signal_form(given: dict[str, str] | None = None, field: str = "", error: str = "") -> str:
    limits = services().settings.limits
    return _page("signal", given=given or {}, field=field, error=error, limits=limits, accepted=",".join(ACCEPTED))


def _to_record(stored: Stored) -> Response:
    told = "new" if stored.created else "again"
    return make_response(redirect(url_for("pages.record", insight_id=stored.insight.id, told=told), 303))


def _drawings(document: SignalDocument) -> list[tuple[str, str, list[Markup]]]:
    """Name, caption and drawings for a desk and a phone."""
    kept = f"{len(document.samples.values):,} of {document.points:,}" if document.samples.thinned else "All"
    rms = drawing.number(document.residual.rms, 3)
    if document.dim == 1:
        found = [("fit", f"{kept} samples as dots, the sum of the packets as a line.", drawing.draw_samples)]
        if document.packets:
            caption = "Each packet by itself, on one scale; a row marked ×10 is drawn ten times larger."
            found.append(("packets", caption, drawing.draw_packets))
        found.append(("residual", f"Samples less packets; the band is their rms, {rms}.", drawing.draw_residual))
    elif document.dim == 2:
        found = [
            ("fit", "The sum of the packets; an ellipse is one width around a packet's centre.", drawing.draw_fit_map),
            ("samples", f"{kept} samples, in the same colours.", drawing.draw_sample_map),
            ("residual", f"Samples less packets, of rms {rms}, on a scale of their own.", drawing.draw_residual_map),
        ]
    else:
        found = []
    # Two maps stand side by side on a desk.
    widths = (_WIDE if document.dim == 1 else _HALF, _NARROW)
    return [(name, caption, [draw(document, width) for width in widths]) for name, caption, draw in found]


def _packet_cells(document: SignalDocument) -> list[list[str]]:
    """Rows of the table: centres to a thousandth of the width, frequencies to a thousandth of what it resolves."""
    found = []
    for packet in document.packets:
        places = list(zip(packet.centre, packet.width, packet.cycles, strict=True))
        cells = (
            [drawing.rounded(centre, width / 1000) for centre, width, _ in places],
            packet.width,
            [drawing.rounded(cycles, 0.001 / width) for _, width, cycles in places],
        )
        strength = [drawing.number(value, 3) for value in (packet.amplitude, packet.phase)]
        found.append([*(", ".join(drawing.number(value) for value in cell) for cell in cells), *strength])
    return found


def _shown_hits(hits: list[Hit], asked: list[str] | None = None) -> list[tuple[Insight, Excerpt, Hit]]:
    return [(hit.insight, excerpt(hit.insight.text, asked or ()), hit) for hit in hits]


def _at_most(wanted: int) -> int:
    return min(wanted, services().settings.limits.page_items)


def _offset(given: str, most: int) -> int:
    if not (given.isascii() and given.isdigit() and len(given) < 9 and int(given) <= most):
        raise QueryError(f"an offset is a whole number from 0 to {most}; got {given[:20]!r}. Leave it out.")
    return int(given)


def _packets(given: str) -> int | None:
    given = given.strip()
    if not given:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 3 and 1 <= int(given) <= 64):
        raise SignalError(f"packets are a whole number from 1 to 64; got {given[:20]!r}. Leave it empty for 12.")
    return int(given)


def _title(given: str) -> str:
    title = " ".join(given.split())
    check_title(title)
    return title


def _told() -> str:
    return _KEPT.get(request.args.get("told", ""), "")


def _message(error: DredgeError) -> str:
    refusal = refusal_of(error)
    return refusal.message if refusal is not None else str(error)
