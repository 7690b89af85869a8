"""The tests' S3 server: it counts what is asked, and spoils what it is told to."""

import http.client
import os
import subprocess
import sys

import pytest
from s3_server import ERRORS, SECRETS, Fault, S3Server


@pytest.fixture(scope="module")
def server():
    with S3Server(("bucket", "other")) as running:
        yield running


@pytest.fixture
def s3(server):
    server.clear()
    return server


def ask(s3, method, path, body=b"", **headers):
    """Status and body of an answer; a cut one raises."""
    host = s3.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=20)
    signed = {"Authorization": f"AWS4-HMAC-SHA256 Credential={SECRETS[0]}/20260101/us-east-1/s3"}
    try:
        connection.request(method, path, body, signed | headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_requests_are_written_down_by_kind_key_and_range(s3):
    assert ask(s3, "PUT", "/bucket/a/b%20c", b"0123456789")[0] == 200
    assert ask(s3, "GET", "/bucket/a/b%20c", Range="bytes=2-4") == (206, b"234")
    assert ask(s3, "HEAD", "/bucket/a/b%20c") == (200, b"")
    assert b"<Key>a/b c</Key>" in ask(s3, "GET", "/bucket?list-type=2&prefix=a%2F")[1]
    assert ask(s3, "DELETE", "/bucket/a/b%20c")[0] == 204
    assert s3.requests == [
        "put bucket/a/b c",
        "get bucket/a/b c bytes=2-4",
        "head bucket/a/b c",
        "list bucket/a/",
        "delete bucket/a/b c",
    ]
    assert s3.keys() == []


def test_what_is_done_past_the_proxy_is_not_counted(s3):
    s3.put("x/y", b"1", bucket="other")
    assert (s3.keys(bucket="other"), s3.get("x/y", bucket="other")) == (["x/y"], b"1")
    assert (s3.keys(), s3.uploads(), s3.requests) == ([], [], [])


def test_each_third_request_is_spoilt(s3):
    s3.put("k", b"data")
    s3.spoil(ERRORS["503"], every=3, times=None)
    assert [ask(s3, "GET", "/bucket/k")[0] for _ in range(7)] == [200, 200, 503, 200, 200, 503, 200]
    assert len(s3.requests) == 7
    assert s3.spoilt == ["get bucket/k"] * 2


def test_a_credential_expires_after_some_requests(s3):
    s3.put("k", b"data")
    s3.spoil(ERRORS["expired"], skip=2, times=None)
    answers = [ask(s3, "GET", "/bucket/k") for _ in range(4)]
    assert [status for status, _ in answers] == [200, 200, 403, 403]
    assert b"<Code>ExpiredToken</Code>" in answers[2][1]


def test_a_body_is_cut_and_an_answer_lost_after_the_server_has_done_it(s3):
    s3.put("k", bytes(1000))
    s3.spoil(Fault("cut", after=100), line="^get ")
    with pytest.raises(http.client.IncompleteRead):
        ask(s3, "GET", "/bucket/k")
    s3.spoil(ERRORS["drop"], line="^put ")
    s3.spoil(ERRORS["drop unasked"], line="^put ")
    for key in ("done", "undone"):
        with pytest.raises(http.client.RemoteDisconnected):
            ask(s3, "PUT", f"/bucket/{key}", b"1")
    assert s3.keys() == ["done", "k"]


def test_a_byte_is_flipped(s3):
    s3.put("k", b"data")
    s3.spoil(Fault("garble", after=1))
    assert ask(s3, "GET", "/bucket/k") == (200, b"d\x9eta")


def test_programs_are_pointed_at_it(s3):
    code = (
        "import obstore; from obstore.store import S3Store;"
        "obstore.put(S3Store('bucket', client_options={'allow_http': True}), 'a/b', b'x')"
    )
    env = {**os.environ, **s3.environment()}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert s3.requests == ["put bucket/a/b"]
    assert s3.get("a/b") == b"x"
