"""Laws of asking a server: what may leave, what is taken of an answer, and what becomes of bad ones."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import stat
from pathlib import Path

import pytest
from stub_server import Reply, row, says, stub, written

from ecgecho.notes import current
from ecgecho.notes_server import PIECE, Answers, Server, ask, is_local
from ecgecho.types import ItemError, UsageError, UserError

NOTE = (
    "Pertinent Results:\nTTE ___: LVEF 30-35%, moderate\nmitral regurgitation. Septal wall 1.4 cm.\n"
    "Family History:\nFather: EF 20%."
)
GOOD = (
    row("lvef", "LVEF 30-35%", "range", 30, 35),
    row("mr", "moderate mitral regurgitation", "grade", 2, 2),
    row("wall_mm", "Septal wall 1.4 cm", "exact", 1.4, 1.4, unit="cm"),
)


def server(url: str, **more: object) -> Server:
    return Server(**({"url": url, "model": "m", "timeout_s": 5.0, "pause_s": 0.0} | more))  # type: ignore[arg-type]


def taken(*rows: dict, note: str = NOTE):
    with stub(lambda text, number: says(*rows)) as told:
        return ask(server(told.url), note)


def test_an_answer_becomes_findings_with_places_and_units() -> None:
    answer = taken(*GOOD)
    assert answer.refused == {}
    found = current(answer.findings)
    assert {name: (f.low, f.high) for name, f in found.items()} == {"lvef": (30, 35), "mr": (2, 2), "wall_mm": (14, 14)}
    start, end = found["mr"].span
    assert NOTE[start:end] == "moderate\nmitral regurgitation"
    assert found["lvef"].section == "results"


def test_a_question_is_asked_with_schema_seed_and_no_heat() -> None:
    with stub(lambda text, number: says()) as told:
        ask(server(told.url, key="secret"), NOTE)
    (question,) = told.asked
    assert told.paths == ["/v1/chat/completions"]
    assert (question["temperature"], question["seed"], question["model"]) == (0, 0, "m")
    assert question["response_format"]["type"] == "json_schema"
    assert question["response_format"]["json_schema"]["strict"] is True
    assert question["messages"][1]["content"] == NOTE
    assert told.headers[0]["Authorization"] == "Bearer secret"


REFUSED = [
    (row("lvef", "LVEF 30-35%", "exact", 32, 32), "number_invented"),
    (row("lvef", "LVEF 30-35%", "range", 30, 40), "number_invented"),
    (row("lvef", "LVEF 55%", "exact", 55, 55), "quote_not_in_text"),
    (row("lvef", "", "exact", 30, 30), "quote_not_in_text"),
    (row("lvef", "LVEF 30-35%", "range", 35, 30), "contradiction"),
    (row("lvef", "LVEF 30-35%", "above", 30, 35), "contradiction"),
    (row("lvef", "LVEF 30-35%", "grade", 30, 35), "contradiction"),
    (row("lvef", "LVEF 30-35%", "range", 30, 35, unit="mm"), "contradiction"),
    (row("wall_mm", "Septal wall 1.4 cm", "exact", 1.4, 1.4), "number_unbelievable"),
    (row("mr", "mitral regurgitation", "grade", 2, 2), "grade_invented"),
    (row("mr", "moderate mitral regurgitation", "grade", 2, 5), "contradiction"),
    (row("mr", "moderate mitral regurgitation", "exact", 2, 2), "contradiction"),
]


@pytest.mark.parametrize(("entry", "code"), REFUSED)
def test_what_does_not_stand_in_the_text_or_contradicts_itself_is_refused_and_the_rest_taken(entry: dict, code: str) -> None:
    answer = taken(entry, GOOD[1])
    assert answer.refused == {code: 1}
    assert [finding.name for finding in answer.findings] == ["mr"]


def test_what_stands_under_family_history_is_of_the_family_whatever_the_model_says() -> None:
    (finding,) = taken(row("lvef", "EF 20%", "exact", 20, 20)).findings
    assert finding.when == "family"


BAD: list[tuple[Reply, str]] = [
    (written("no JSON at all"), "answer_unreadable"),
    (written("[" * 100_000), "answer_unreadable"),
    (written(None), "answer_unreadable"),
    ((200, "{", {}), "answer_unreadable"),
    ((200, {"choices": []}, {}), "answer_unreadable"),
    (written(json.dumps({"findings": {}})), "answer_not_of_schema"),
    (written(json.dumps({"findings": [], "more": 1})), "answer_not_of_schema"),
    (written(json.dumps({"findings": [GOOD[0] | {"name": "weight"}]})), "answer_not_of_schema"),
    (written(json.dumps({"findings": [GOOD[0] | {"low": True}]})), "answer_not_of_schema"),
    (written(json.dumps({"findings": [{"name": "lvef"}]})), "answer_not_of_schema"),
    (written('{"findings": [' + json.dumps(GOOD[0]).replace("30,", "NaN,", 1) + "]}"), "answer_not_of_schema"),
    (says(*GOOD, reason="length"), "answer_cut"),
    ((500, "oops", {}), "server_error"),
    ((429, "slow down", {}), "server_error"),
]


@pytest.mark.parametrize(("reply", "code"), BAD)
def test_a_bad_answer_is_asked_for_again_and_then_costs_one_note(reply: Reply, code: str) -> None:
    with stub(lambda text, number: reply) as told, pytest.raises(ItemError) as failure:
        ask(server(told.url, attempts=2), NOTE)
    assert failure.value.code == code
    assert [question["seed"] for question in told.asked] == [0, 1]
    assert "LVEF" not in str(failure.value)


def test_a_server_that_comes_to_its_senses_is_believed() -> None:
    with stub(lambda text, number: (503, "", {}) if number < 2 else says(*GOOD)) as told:
        assert len(ask(server(told.url, attempts=3), NOTE).findings) == 3


def test_a_note_that_the_server_refuses_is_not_sent_again() -> None:
    with stub(lambda text, number: (400, "the note was: LVEF", {})) as told, pytest.raises(ItemError) as failure:
        ask(server(told.url), NOTE)
    assert (failure.value.code, len(told.asked)) == ("server_refused", 1)


@pytest.mark.parametrize(("status", "advice"), [(401, "key"), (404, "--model"), (302, "another address")])
def test_what_is_wrong_for_every_note_ends_the_job(status: int, advice: str) -> None:
    with (
        stub(lambda text, number: (status, "", {"Location": "http://example.org/"})) as told,
        pytest.raises(UserError, match=advice),
    ):
        ask(server(told.url), NOTE)
    assert len(told.asked) == 1


def test_a_redirect_is_not_followed_even_to_this_machine() -> None:
    with stub(lambda text, number: says()) as other:
        with (
            stub(lambda text, number: (307, "", {"Location": other.url + "/chat/completions"})) as told,
            pytest.raises(UserError),
        ):
            ask(server(told.url), NOTE)
        assert other.asked == []


def test_a_server_that_sends_a_byte_now_and_then_is_left() -> None:
    with stub(lambda text, number: says(*GOOD), drip_s=0.05) as told, pytest.raises(ItemError) as failure:
        ask(server(told.url, timeout_s=0.4, attempts=1), NOTE)
    assert failure.value.code == "server_slow"


def test_a_server_that_is_not_there_is_said_so() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ItemError) as failure:
        ask(server(f"http://127.0.0.1:{port}/v1", attempts=1), NOTE)
    assert failure.value.code == "server_unreachable"


def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    with stub(lambda text, number: (200, b" " * (5 << 20), {})) as told, pytest.raises(ItemError) as failure:
        ask(server(told.url, attempts=1), NOTE)
    assert failure.value.code == "answer_unreadable"


def test_no_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    assert len(taken(*GOOD).findings) == 3


LOCAL = [
    "http://127.0.0.1:8000/v1",
    "http://[::1]:8000/v1",
    "http://10.1.2.3/v1",
    "http://192.168.0.7:1/v1",
    "https://172.31.0.1/v1",
]
FAR = [
    "http://8.8.8.8/v1",
    "http://172.32.0.1/v1",
    "http://169.254.169.254/v1",
    "http://[2001:4860:4860::8888]/v1",
    "http://0.0.0.0/v1",
]


@pytest.mark.parametrize("url", LOCAL)
def test_this_machine_and_private_networks_are_local(url: str) -> None:
    assert is_local(server(url))


@pytest.mark.parametrize("url", FAR)
def test_any_other_address_is_refused_before_a_byte_is_sent(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("a connection was made"))
    assert not is_local(server(url))
    with pytest.raises(UserError, match="--allow-remote"):
        ask(server(url), NOTE)


def test_a_name_is_as_local_as_the_worst_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(*_: object, **__: object) -> list:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("127.0.0.1", "8.8.8.8")]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    assert not is_local(server("http://llm.example/v1"))


def test_a_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that means another machine a moment later changes nothing."""
    with stub(lambda text, number: says()) as told:
        port = int(told.url.rsplit(":", 1)[1].split("/")[0])
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        )
        real, used = socket.create_connection, []

        def connect(address: tuple[str, int], *more: object) -> socket.socket:
            used.append(address)
            sock = socket.socket()
            sock.connect(address)
            return sock

        monkeypatch.setattr(socket, "create_connection", connect)
        ask(server(f"http://llm.example:{port}/v1"), NOTE)
        assert used == [("127.0.0.1", port)]
        assert real is not connect


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://127.0.0.1/", "http://", "http://user:word@127.0.0.1/", "http://h:99999/", "file:///x"]
)
def test_an_address_that_is_none_is_wrong_usage(url: str) -> None:
    with pytest.raises(UsageError):
        server(url)


def test_a_long_note_is_asked_for_in_pieces_and_its_places_are_those_of_the_whole() -> None:
    line = "Nothing of note was found on examination of this person.\n"
    note = line * (PIECE // len(line) + 40) + "TTE: LVEF 35%\n"
    with stub(lambda text, number: says(row("lvef", "LVEF 35%", "exact", 35, 35)) if "LVEF" in text else says()) as told:
        (finding,) = ask(server(told.url), note).findings
    assert "".join(question["messages"][1]["content"] for question in told.asked) == note
    assert len(told.asked) == 2
    assert note[slice(*finding.span)] == "LVEF 35%"


def test_an_answer_that_is_kept_is_only_for_its_owner_and_has_no_word_of_the_note(tmp_path: Path) -> None:
    answer = taken(*GOOD, row("lvef", "LVEF 99%", "exact", 99, 99))
    kept = Answers(tmp_path / "kept")
    here = server("http://127.0.0.1/v1")
    name = kept.name(here, NOTE)
    assert kept.get(name) is None
    kept.put(name, answer)
    assert kept.get(name) == answer
    assert kept.name(here, NOTE + " ") != name
    assert kept.name(dataclasses.replace(here, model="other"), NOTE) != name
    (file,) = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (tmp_path / "kept", file.parent, file)]
    assert modes == [0o700, 0o700, 0o600]
    whole = file.read_text()
    for word in ("LVEF", "moderate", "Septal", "cm"):
        assert word not in whole
    file.write_text(whole[: len(whole) // 2])
    assert kept.get(name) is None
