"""Bodies and rates: what is too much is refused, in a time that is linear in what came."""

import io
import json
from contextlib import suppress

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from dredge.api import bodies
from dredge.api.bodies import measure, parse_json
from dredge.api.errors import RefusedError
from dredge.api.limits import RateLimiter
from dredge.config import LimitSettings, Settings
from dredge.insights.store import Store
from dredge.server import create_app

LIMITS = LimitSettings(json_depth=4, json_digits=6)


def client_of(store: Store, **limits: int) -> FlaskClient:
    return create_app(Settings(log={"level": "ERROR"}, limits=limits), store).test_client()


def test_a_body_has_a_length(store: Store) -> None:
    client = client_of(store, body_bytes=100)
    body = json.dumps({"insight_text": "x" * 78}).encode()
    assert len(body) == 98
    fits, over = body.ljust(100), body.ljust(101)
    for data, status in ((fits, 200), (over, 413)):
        assert client.post("/lift", data=data, content_type="application/json").status_code == status


def test_a_body_without_a_length_is_counted_as_it_comes(store: Store) -> None:
    client = client_of(store, body_bytes=100)
    for count, status in ((50, 200), (200, 413)):
        answer = client.post(
            "/lift",
            input_stream=io.BytesIO(json.dumps({"insight_text": "x" * count}).encode()),
            headers={"Transfer-Encoding": "chunked"},
            content_type="application/json",
            environ_overrides={"wsgi.input_terminated": True},
        )
        assert answer.status_code == status


@pytest.mark.parametrize("length", ["9" * 5000, "99999999999", "101"])
def test_a_length_that_is_too_large_is_not_read(store: Store, length: str) -> None:
    answer = client_of(store, body_bytes=100).post(
        "/lift", data=b"{}", content_type="application/json", environ_overrides={"CONTENT_LENGTH": length}
    )
    assert answer.status_code == 413


def test_a_text_has_a_length_in_bytes(store: Store) -> None:
    client = client_of(store, text_bytes=6)
    assert client.post("/lift", json={"insight_text": "ab€c"}).status_code == 200
    assert client.post("/lift", json={"insight_text": "ab€cd"}).status_code == 422
    results = client.post("/lift/batch", json={"insight_texts": ["abcdef", "abcdefg"]}).json["results"]
    assert [result["lifted"] for result in results] == [True, False]


@pytest.mark.parametrize("path", ["/insights?limit=%s", "/search?q=x&limit=%s"])
def test_a_page_has_a_length(store: Store, path: str) -> None:
    client = client_of(store, page_items=5)
    assert client.get(path % 5).status_code == 200
    for limit in ("6", "0", "-1", "+1", "1.0", "1e1", "٣", " 1", "", "9" * 30, "x"):
        answer = client.get(path % limit)
        assert (answer.status_code, answer.json["code"]) == (422, "wrong_field"), limit


def test_a_query_has_a_length(store: Store) -> None:
    client = client_of(store, query_chars=10)
    assert client.get("/search?q=" + "x" * 10).status_code == 200
    assert client.get("/search?q=" + "x" * 11).status_code == 422


def test_a_form_has_few_fields(store: Store) -> None:
    client = client_of(store)
    for fields, status, kept in ((20, 422, 0), (19, 303, 1)):
        answer = client.post(
            "/notes", data=b"a&" * fields + b"text=x", content_type="application/x-www-form-urlencoded"
        )
        assert (answer.status_code, store.count()) == (status, kept)


# --- depth and digits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        (b"[[[[1]]]]", True),
        (b"[[[[[1]]]]]", False),
        (b'{"a":{"b":{"c":{"d":1}}}}', True),
        (b'{"a":{"b":{"c":{"d":{}}}}}', False),
        (b"[" * 5, False),
        (b"[[],[],[],[],[],[],[[[]]]]", True),
        (b'"[[[[[[[[[["', True),
        (rb'["\"[[[[[[", 1]', True),
        (rb'["\\",[[[[1]]]]]', False),
        (rb'["\\\"[[[[[[", 1]', True),
        (b'"[[[[[[[', True),
        (b"]]]][[[[]]]]", True),
        (b"123456", True),
        (b"1234567", False),
        (b"[1,1234567]", False),
        (b"-1234567", False),
        (b"0.1234567", False),
        (b"1e1234567", False),
        (b'"1234567"', True),
        (b'{"1234567":123456}', True),
        (b'"\\u1234567"', True),
    ],
)
def test_depth_and_digits_are_measured_outside_strings(body: bytes, fits: bool) -> None:
    if fits:
        measure(body, LIMITS)
    else:
        with pytest.raises(RefusedError) as refused:
            measure(body, LIMITS)
        assert refused.value.status == 400


def test_a_signal_of_many_axes_fits_and_a_million_arrays_do_not() -> None:
    rows = [[0.5, 1.5]] * 20_000
    assert parse_json(json.dumps(rows).encode(), LimitSettings()) == rows
    measure(b'"' + b"[]" * 100_000 + b'"', LimitSettings())
    with pytest.raises(RefusedError, match="100001 arrays and objects"):
        measure(b"[" + b"[]," * 99_999 + b"{}]", LimitSettings())


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


def digits_of(value: object) -> int:
    if isinstance(value, dict):
        return max(map(digits_of, value.values()), default=0)
    if isinstance(value, list):
        return max(map(digits_of, value), default=0)
    return len(str(abs(value))) if isinstance(value, int) else 0


VALUES = st.recursive(
    st.one_of(st.text(), st.text(alphabet='[]{}"\\0123456789', max_size=12), st.integers(-(10**8), 10**8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(alphabet='[{"\\9'), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(VALUES, st.booleans(), st.sampled_from([None, 2]))
def test_measuring_agrees_with_walking_what_was_parsed(value: object, ascii_only: bool, indent: int | None) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    if depth_of(value) <= LIMITS.json_depth and digits_of(value) <= LIMITS.json_digits:
        assert parse_json(body, LIMITS) == value
    else:
        with pytest.raises(RefusedError):
            parse_json(body, LIMITS)


@given(st.binary(max_size=200), st.sampled_from([b"", b"[" * 10, b'"', b"\\", b"7" * 20]))
def test_bytes_are_json_or_refused(start: bytes, end: bytes) -> None:
    # Any other exception fails; what is taken is what JSON says.
    with suppress(RefusedError):
        assert parse_json(start + end, LIMITS) == json.loads(start + end)


@pytest.mark.parametrize("body", [b'"' * (1 << 22), b'"' + b'\\"' * (1 << 21), b"\\" * (1 << 22),
                                  b'["' + b"a" * (1 << 22),
                                  b'"a",' * (1 << 20), b"[" * (1 << 22), (b"1" * 400 + b",") * 10_000])  # fmt: skip
def test_the_worst_bodies_take_no_time_that_grows_with_their_square(body: bytes) -> None:
    # A square of four million steps would be past the time limit of any test.
    with pytest.raises(RefusedError):
        parse_json(body, LimitSettings())


def test_a_limit_above_the_interpreter_s_own_is_still_an_answer() -> None:
    wide = LimitSettings(json_depth=10**6, json_digits=10**5)
    for body in (b"[" * 100_000 + b"]" * 100_000, b"9" * 5000):
        with pytest.raises(RefusedError) as refused:
            parse_json(body, wide)
        assert refused.value.status == 400


def test_lines_too_short_to_break_a_limit_are_not_measured(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[bytes] = []
    monkeypatch.setattr(bodies, "measure", lambda line, limits: measured.append(line))
    client = client_of(store, json_depth=4, json_digits=6)
    for line in (b"", b"1", b"[[[["):
        answer = client.post("/import", data=(line + b"\n") * 1000 + b"[[[[[", content_type="application/x-ndjson")
        assert answer.status_code == 422
    assert measured == [b"[[[[["] * 3


# --- rates -----------------------------------------------------------------------------------------------------------


def test_tokens_come_back_at_a_steady_rate() -> None:
    now = [0.0]
    limiter = RateLimiter(per_minute=30, burst=3, clock=lambda: now[0])
    assert [limiter.wait("a") for _ in range(4)] == [0, 0, 0, 2.0]
    assert limiter.wait("b") == 0
    now[0] = 1.0
    assert limiter.wait("a") == pytest.approx(1.0)
    now[0] = 2.0
    assert limiter.wait("a") == 0
    now[0] = 1000.0
    assert [limiter.wait("a") for _ in range(4)] == [0, 0, 0, 2.0]


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 200), st.integers(1, 10))
def test_no_window_has_more_than_burst_and_rate(gaps: list[float], per_minute: int, burst: int) -> None:
    now = [0.0]
    limiter = RateLimiter(per_minute, burst, clock=lambda: now[0])
    let_in: list[float] = []
    for gap in gaps:
        now[0] += gap
        if limiter.wait("a") == 0:
            let_in.append(now[0])
    for first in range(len(let_in)):
        for last in range(first, len(let_in)):
            window = let_in[last] - let_in[first]
            assert last - first + 1 <= burst + window * per_minute / 60 + 1e-6


def test_the_table_of_clients_is_bounded() -> None:
    limiter = RateLimiter(per_minute=1, burst=1, clients=3, clock=lambda: 0.0)
    for client in "abcab":
        limiter.wait(client)
    for client in "defgh":
        limiter.wait(client)
    assert len(limiter) == 3
    assert limiter.wait("h") > 0
    assert limiter.wait("a") == 0


def test_too_many_requests_are_429_and_health_is_not_counted(store: Store) -> None:
    client = client_of(store, rate_per_minute=1, rate_burst=2)
    assert [client.get("/insights").status_code for _ in range(3)] == [200, 200, 429]
    refused = client.get("/insights")
    assert refused.json["code"] == "too_many_requests"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert client.get("/health").status_code == 200
    other = client.get("/insights", environ_overrides={"REMOTE_ADDR": "10.0.0.2"})
    assert other.status_code == 200


def test_a_client_does_not_choose_who_it_is(store: Store) -> None:
    client = client_of(store, rate_per_minute=1, rate_burst=1)
    statuses = [client.get("/insights", headers={"X-Forwarded-For": f"10.0.0.{n}"}).status_code for n in range(3)]
    assert statuses == [200, 429, 429]
