"""Paths that are URLs: looked at, read, written, refused, and told of without a secret."""

import errno
import logging
import os
import pickle
import re
import subprocess
import sys
import traceback
import uuid
from pathlib import Path, PurePosixPath

import pytest
from flaky_hub import MISANSWERS, FlakyHub
from hub_server import TOKEN, HubServer
from s3_server import ACCESS_KEY, ERRORS, SECRETS, Fault, S3Server

from spikedata.errors import SpikeDataError
from spikedata.remote import RemotePath, asking, buckets, is_remote, place, without_secrets, writing

MIB = 1 << 20


@pytest.fixture(scope="module")
def server():
    with S3Server() as running:
        yield running


@pytest.fixture
def s3(server, monkeypatch):
    server.clear()
    server.use(monkeypatch)
    yield server
    server.heal()


@pytest.fixture
def hasty(monkeypatch):
    """What is asked again is asked at once, by the client twice; and parts are small."""
    for module in (asking, buckets):
        monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
        monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(buckets, "TRIES", 2)
    monkeypatch.setattr(buckets, "PART_BYTES", 5 * MIB)  # the least that S3 takes
    monkeypatch.setattr(writing, "HELD_BYTES", 7 * MIB)
    buckets._client.cache_clear()
    yield
    buckets._client.cache_clear()


@pytest.fixture(params=["memory", "s3"])
def folder(request):
    """An empty folder of each kind of storage."""
    if request.param == "memory":
        return place(f"memory://{uuid.uuid4().hex}/folder")
    request.getfixturevalue("s3")
    return place("s3://bucket/folder")


# --- names --------------------------------------------------------------------------------------


def test_a_url_is_a_path_and_a_path_is_left_alone():
    path = place("s3://bucket/a/b.npy")
    assert isinstance(path, RemotePath)
    assert (path.scheme, path.key, path.name, path.suffix) == ("s3", "a/b.npy", "b.npy", ".npy")
    assert str(path) == "s3://bucket/a/b.npy"
    assert repr(path) == "RemotePath('s3://bucket/a/b.npy')"
    assert place("a/b") == Path("a/b")
    assert not is_remote("a/b")
    assert place(path) is path
    assert is_remote("gs://b/x")
    assert is_remote(Path("s3://b/x"))
    assert place("S3://bucket/x") == Path("S3:/bucket/x")  # a folder here may be called so


@pytest.mark.parametrize(
    "given",
    ["s3://bucket/a/b", "s3:/bucket/a/b", "s3://bucket//a/b/", Path("s3://bucket/a/b")],
    ids=repr,
)
def test_a_url_survives_being_written_in_other_ways(given):
    assert place(given) == place("s3://bucket/a/b")
    assert hash(place(given)) == hash(place("s3://bucket/a/b"))


def test_pure_operations_stay_urls():
    path = place("s3://bucket/a") / "b" / "c.txt"
    for made, text in (
        (path, "s3://bucket/a/b/c.txt"),
        (path.parent, "s3://bucket/a/b"),
        (path.parents[1], "s3://bucket/a"),
        (path.with_name("d"), "s3://bucket/a/b/d"),
        (path.with_suffix(".bin"), "s3://bucket/a/b/c.bin"),
        (path.joinpath("x", "y"), "s3://bucket/a/b/c.txt/x/y"),
        (path.parent.parent.parent, "s3://bucket"),
        (path.resolve(), "s3://bucket/a/b/c.txt"),
        (path.absolute(), "s3://bucket/a/b/c.txt"),
        (pickle.loads(pickle.dumps(path)), "s3://bucket/a/b/c.txt"),
    ):
        assert isinstance(made, RemotePath)
        assert str(made) == text
        assert os.fspath(made) == text
    assert PurePosixPath(*path.relative_to(place("s3://bucket/a")).parts) == PurePosixPath(
        "b/c.txt"
    )
    assert path.is_relative_to(place("s3://bucket/a"))
    assert path != Path("s3:/bucket/a/b/c.txt")
    assert Path("s3:/bucket/a/b/c.txt") != path
    assert sorted([path, place("s3://bucket/a")])[0] == place("s3://bucket/a")
    assert path.suffix == ".txt"
    assert path.stem == "c"
    assert f"{path}" == "s3://bucket/a/b/c.txt"


def test_what_is_no_path_in_a_bucket_is_refused():
    with pytest.raises(
        SpikeDataError, match=r"^s3://: names no bucket; expected s3://bucket/path$"
    ):
        place("s3://")
    with pytest.raises(ValueError, match=r"^/etc/passwd: no path in a bucket"):
        (place("s3://bucket/a") / "/etc/passwd").read_bytes()
    with pytest.raises(OSError, match="Could not parse path") as caught:
        place("memory://bucket/../x").read_bytes()
    assert caught.value.filename == "memory://bucket/../x"


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAEXAMPLE000000001:sec%2Fret@bucket/x",
        "s3://user:pass/word@bucket/x",
        "gs://token@bucket/x",
        "hf://user:hf_abcdefghijklmnop1@datasets/x",
        "memory://a:b@c",
    ],
)
def test_a_url_that_holds_keys_is_refused_without_an_echo(url):
    with pytest.raises(SpikeDataError, match="a URL is no place for keys") as caught:
        place(url)
    assert str(caught.value).startswith(f"{url.partition(':')[0]}://***: ")
    for part in ("AKIA", "sec", "user", "pass", "token", "hf_abc"):
        assert part not in str(caught.value).partition(". Set")[0]


# --- looking ------------------------------------------------------------------------------------


def fill(folder):
    for name in ("b.txt", "a/2.bin", "a/1.bin", "c/d/e.txt", "a-b", "C.TXT", "ü %25?#.txt"):
        (folder / name).write_bytes(name.encode())


def test_a_folder_is_looked_at_in_order(folder):
    fill(folder)
    names = ["C.TXT", "a", "a-b", "b.txt", "c", "ü %25?#.txt"]
    assert [path.name for path in folder.iterdir()] == names
    below = ["C.TXT", "a-b", "a/1.bin", "a/2.bin", "b.txt", "c/d/e.txt", "ü %25?#.txt"]
    assert list(folder.names_below()) == below
    walked = list(folder.walk_files())
    assert [path for path, _size, _tag in walked] == [folder / name for name in below]
    assert [size for _path, size, _tag in walked] == [len(name.encode()) for name in below]
    assert [path.read_text() for path, _size, _tag in walked] == below
    assert [path.name for path in folder.rglob("*.txt")] == ["b.txt", "e.txt", "ü %25?#.txt"]
    assert list(folder.glob("a/*.bin")) == [folder / "a/1.bin", folder / "a/2.bin"]
    assert list(folder.glob("none/*")) == []


def test_files_and_folders_are_told_apart(folder):
    fill(folder)
    told = {
        name: ((folder / name).is_file(), (folder / name).is_dir(), (folder / name).exists())
        for name in ("b.txt", "a", "c/d", "b", "none")
    }
    assert told == {
        "b.txt": (True, False, True),
        "a": (False, True, True),
        "c/d": (False, True, True),
        "b": (False, False, False),
        "none": (False, False, False),
    }
    assert folder.parent.is_dir()
    assert not folder.is_symlink()
    assert (folder / "b.txt").stat().st_size == 5
    with pytest.raises(FileNotFoundError) as caught:
        list((folder / "none").iterdir())
    assert caught.value.filename == f"{folder}/none"


def test_a_tag_changes_with_the_file(folder):
    def tag():
        ((_path, _size, tag),) = folder.walk_files()
        return tag

    (folder / "x").write_bytes(b"1")
    first = tag()
    assert first is not None
    assert tag() == first
    (folder / "x").write_bytes(b"2")
    assert tag() != first


@pytest.fixture
def tens(monkeypatch):
    """A server that lists ten objects at a time, and 25 of them."""
    with S3Server(keys_per_page=10) as running:
        running.use(monkeypatch)
        monkeypatch.setattr(buckets, "PAGE_KEYS", 10)
        for number in range(25):
            running.put(f"many/{number:02}", b"")
        yield running


def test_a_listing_of_many_is_read_page_by_page(tens):
    assert list(place("s3://bucket/many").names_below()) == [f"{n:02}" for n in range(25)]
    assert tens.requests == ["list bucket/many/"] * 3
    walk = place("s3://bucket/many").names_below()
    tens.requests.clear()
    assert (next(walk), len(tens.requests) < 3) == ("00", True)


def test_objects_that_stand_for_folders_are_no_files(s3):
    for key in ("top/", "top/sub/", "top/sub/file", "top/empty"):
        s3.put(key, b"")
    assert list(place("s3://bucket/top").names_below()) == ["empty", "sub/file"]
    assert [path.name for path in place("s3://bucket/top").iterdir()] == ["empty", "sub"]
    assert list(place("s3://bucket").names_below()) == ["top/empty", "top/sub/file"]
    assert [str(path) for path in place("s3://bucket").iterdir()] == ["s3://bucket/top"]


@pytest.mark.parametrize("key", ["a//b", "../x", "a/../c", "a/./b", "x\x01y"])
def test_a_name_that_is_no_path_is_told(s3, key):
    s3.put(key, b"1")
    with pytest.raises(OSError, match="holds an object whose name is no path") as caught:
        list(place("s3://bucket").walk_files())
    assert caught.value.errno == errno.EINVAL
    assert caught.value.strerror.endswith("; rename it")
    assert "\x01" not in caught.value.strerror


# --- reading ------------------------------------------------------------------------------------


def test_a_file_is_read_whole_in_ranges_and_from_its_end(folder):
    file, empty = folder / "digits", folder / "empty"
    file.write_bytes(b"0123456789")
    empty.write_bytes(b"")
    assert file.read_bytes() == b"0123456789"
    assert file.read_text() == "0123456789"
    assert file.read_range(2, 3) == b"234"
    assert file.read_range(8, 100) == b"89"
    assert file.read_range(10, 5) == file.read_range(100, 5) == file.read_range(3, 0) == b""
    assert file.read_tail(3) == (b"789", 10)
    assert file.read_tail(100) == (b"0123456789", 10)
    assert empty.read_bytes() == empty.read_range(0, 3) == b""
    assert empty.read_tail(3) == (b"", 0)


def test_each_way_to_read_is_one_request(s3):
    s3.put("k", b"0123456789")
    file = place("s3://bucket/k")
    file.read_bytes(), file.read_range(2, 3), file.read_tail(3), file.stat()
    assert s3.requests == [
        "get bucket/k",
        "get bucket/k bytes=2-4",
        "get bucket/k bytes=-3",
        "head bucket/k",
    ]


def test_an_open_file_reads_and_seeks_as_one_on_disk(folder, tmp_path):
    data = os.urandom(3 * MIB + 17)
    (folder / "x").write_bytes(data)
    (tmp_path / "x").write_bytes(data)
    with (folder / "x").open("rb") as far, (tmp_path / "x").open("rb") as near:
        for whence, offset, length in (
            (0, 5, 10),
            (1, MIB, 3),
            (2, -9, 100),
            (0, 0, -1),
            (0, 1, 7),
        ):
            assert far.seek(offset, whence) == near.seek(offset, whence)
            assert far.read(length) == near.read(length)
            assert far.tell() == near.tell()
    (folder / "text").write_bytes("é\nzwei\n".encode())
    with (folder / "text").open(encoding="utf-8") as lines:
        assert lines.read().splitlines() == ["é", "zwei"]
    with pytest.raises(OSError, match="written whole or not at all"):
        (folder / "x").open("wb")


# --- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_is_written_is_read(folder, kind):
    data = os.urandom(1000)
    assert (folder / "x").write_bytes(kind(data)) == 1000
    assert (folder / "x").read_bytes() == data


def test_parts_are_written_as_one_file(s3):
    big = [os.urandom(10 * MIB) for _ in range(4)]
    place("s3://bucket/big").write_bytes(iter(big))
    assert s3.get("big") == b"".join(big)
    assert [line.split()[0] for line in s3.requests] == ["begin", *["part"] * 5, "finish"]
    assert s3.uploads() == []
    s3.heal()
    place("s3://bucket/small").write_bytes(iter([b"ab", b"", b"c"]))
    place("s3://bucket/none").write_bytes(iter([]))
    assert s3.requests == ["put bucket/small", "put bucket/none"]
    assert (s3.get("small"), s3.get("none")) == (b"abc", b"")


@pytest.mark.parametrize("after", [0, 1, 5])
@pytest.mark.parametrize("failure", [ValueError("mine"), SpikeDataError("mine"), OSError(28, "x")])
def test_a_source_that_fails_leaves_nothing_and_is_told_as_it_is(s3, after, failure):
    def parts():
        for _ in range(after):
            yield bytes(10 * MIB)
        raise failure

    with pytest.raises(type(failure)) as caught:
        place("s3://bucket/x").write_bytes(parts())
    assert caught.value is failure
    assert (s3.keys(), s3.uploads()) == ([], [])


def test_a_write_on_a_condition_is_refused_if_it_is_not_met(folder):
    file = folder / "lock"
    first = file.write_version(b"1", only_new=True)
    with pytest.raises(FileExistsError) as caught:
        file.write_version(b"1", only_new=True)
    assert caught.value.filename == str(file)
    second = file.write_version(b"2", expected=first)
    with pytest.raises(FileExistsError):
        file.write_version(b"3", expected=first)
    data, version = file.read_version()
    assert (data, version.tag) == (b"2", second.tag)
    assert buckets.Version.from_text(version.as_text()) == version
    file.write_version(iter([b"4", b"4"]), expected=version)
    assert file.read_bytes() == b"44"


def test_removing_twice_is_as_good_as_once(folder):
    (folder / "x").write_bytes(b"1")
    (folder / "x").unlink()
    (folder / "x").unlink()
    (folder / "x").unlink(missing_ok=True)
    assert not (folder / "x").exists()


def test_what_object_storage_cannot_do_is_refused(folder):
    (folder / "x").write_bytes(b"1")
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    with pytest.raises(OSError, match="cannot be renamed in object storage"):
        (folder / "x").rename(folder / "y")
    with pytest.raises(OSError, match="cannot be renamed in object storage"):
        (folder / "x").replace(folder / "y")


# --- failures that pass ---------------------------------------------------------------------------

HELD = bytes(6 * MIB)  # in two parts, but little enough to be held, if one is hasty
STREAM = 2 * [bytes(6 * MIB)]  # more than is held


def requests_of_all_kinds(folder):
    """Each way to ask, by name, with the lines of its requests and what it gives."""
    file = folder / "digits"
    return {
        "head": (["head"], lambda: file.stat().st_size, 10),
        "get": (["get"], file.read_bytes, b"0123456789"),
        "range": (["get"], lambda: file.read_range(2, 3), b"234"),
        "tail": (["get"], lambda: file.read_tail(3), (b"789", 10)),
        "list": (["list"], lambda: list(folder.names_below()), ["digits"]),
        "look": (["list"], lambda: list(folder.iterdir()), [file]),
        "put": (["put"], lambda: (folder / "new").write_bytes(b"12"), 2),
        "held": (["begin", "part", "finish"], lambda: (folder / "h").write_bytes(HELD), len(HELD)),
        "stream": (["part", "finish"], lambda: (folder / "s").write_bytes(iter(STREAM)), 0),
        "delete": (["delete"], lambda: file.unlink(), None),
    }


PASSING = {
    "500": ERRORS["500"],
    "503": ERRORS["503"],
    "lost answer": ERRORS["drop"],
    "lost request": ERRORS["drop unasked"],
    "cut": Fault("cut", after=1),
    "cut head": Fault("cut", after=0),
    "noise": Fault("noise"),
}


KINDS = list(requests_of_all_kinds(place("s3://bucket/folder")))


@pytest.mark.parametrize(
    ("kind", "fault"),
    # The client does not ask again after what is no HTTP, and a stream cannot be given again.
    [(k, f) for k in KINDS for f in PASSING if (k, f) != ("stream", "noise")],
)
def test_a_failure_that_passes_is_survived(s3, hasty, kind, fault):
    s3.put("folder/digits", b"0123456789")
    lines, call, want = requests_of_all_kinds(place("s3://bucket/folder"))[kind]
    for line in lines:
        s3.spoil(PASSING[fault], line=f"^{line}")
    assert call() == want
    assert [line.partition(" ")[0].partition("-")[0] for line in s3.spoilt] == lines
    for name, data in (("h", HELD), ("s", b"".join(STREAM)), ("new", b"12")):
        assert f"folder/{name}" not in set(s3.keys()) or s3.get(f"folder/{name}") == data


def test_a_lost_answer_to_a_write_on_a_condition_is_found_out(s3, hasty):
    file = place("s3://bucket/lock")
    s3.spoil(ERRORS["drop"], line="^put")
    first = file.write_version(b"mine", only_new=True)
    assert s3.requests == ["put bucket/lock", "put bucket/lock", "get bucket/lock"]
    s3.spoil(ERRORS["drop"], line="^put")
    second = file.write_version(b"mine again", expected=first)
    assert s3.get("lock") == b"mine again"
    assert file.read_version()[1].tag == second.tag
    s3.spoil(ERRORS["drop unasked"], line="^put")
    s3.put("lock", b"of another")
    with pytest.raises(FileExistsError):
        file.write_version(b"mine", only_new=True)
    assert s3.get("lock") == b"of another"


def test_a_listing_that_breaks_off_goes_on_behind_what_it_gave(tens, hasty):
    tens.spoil(Fault("cut", after=1000), line="^list", skip=1)
    assert list(place("s3://bucket/many").names_below()) == [f"{n:02}" for n in range(25)]
    assert len(tens.requests) == 4


def test_a_server_that_falls_silent_is_asked_again(s3, hasty, monkeypatch):
    monkeypatch.setattr(buckets, "SILENCE_S", 0.3)
    buckets._client.cache_clear()
    s3.put("k", b"0123456789")
    s3.spoil(Fault("trickle", seconds=1.0))
    assert place("s3://bucket/k").read_bytes() == b"0123456789"
    s3.spoil(Fault("trickle", seconds=1.0), line="^list")
    assert list(place("s3://bucket").names_below()) == ["k"]


# --- failures that do not -------------------------------------------------------------------------


def failure_of(call):
    with pytest.raises(OSError, match="Errno") as caught:
        call()
    error = caught.value
    assert error.strerror
    assert "\n" not in str(error)
    assert error.filename.startswith("s3://bucket/")
    return error


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        *[(kind, fault) for kind in KINDS for fault in ("500", "503", "lost answer")],
        # The answers to the other kinds have no body that is read.
        *[(kind, "cut head") for kind in KINDS if kind not in ("head", "put", "stream")],
    ],
)
def test_a_failure_that_stays_is_told_in_the_end(s3, hasty, kind, fault):
    s3.put("folder/digits", b"0123456789")
    lines, call, _want = requests_of_all_kinds(place("s3://bucket/folder"))[kind]
    s3.spoil(PASSING[fault], line=f"^({'|'.join(lines)})", times=None)
    failure_of(call)
    assert len(s3.spoilt) <= 30
    s3.heal()
    if fault in ("500", "503"):  # else the server has done it, and only never says so
        assert s3.keys() in (["folder/digits"], ["folder/digits", "folder/h"])


@pytest.mark.parametrize(
    ("fault", "want"),
    [
        ("expired", r"403 Forbidden: ExpiredToken: .*\. The credentials have run out: renew them"),
        ("denied", r"403 Forbidden: AccessDenied: .*\. Check the credentials \(AWS_ACCESS_KEY_ID"),
        ("signature", r"403 Forbidden: SignatureDoesNotMatch: .*\. Check the credentials"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_is_told_at_once_with_what_to_do(s3, hasty, kind, fault, want):
    s3.put("folder/digits", b"0123456789")
    lines, call, _want = requests_of_all_kinds(place("s3://bucket/folder"))[kind]
    s3.spoil(ERRORS[fault], line=f"^({'|'.join(lines)})", times=None)
    error = failure_of(call)
    assert isinstance(error, PermissionError)
    assert re.search("403 Forbidden. Check the credentials" if kind == "head" else want, str(error))
    assert len(s3.spoilt) <= (len(STREAM) + 2 if kind == "stream" else 2)
    assert (s3.uploads(), "folder/h" in set(s3.keys())) == ([], False)


def test_credentials_may_run_out_with_another_status(s3):
    told = ERRORS["expired"]
    s3.spoil(Fault("answer", status=400, body=told.body, headers=told.headers))
    with pytest.raises(PermissionError, match="The credentials have run out: renew them"):
        place("s3://bucket/k").read_bytes()


def test_what_is_not_there_is_told(s3):
    with pytest.raises(FileNotFoundError, match=r"no such file: 's3://bucket/x'$"):
        place("s3://bucket/x").read_bytes()
    for call in (
        lambda: place("s3://nowhere/x").read_bytes(),
        lambda: place("s3://nowhere/x").write_bytes(b"1"),
        lambda: list(place("s3://nowhere/x").walk_files()),
    ):
        with pytest.raises(OSError, match="there is no such bucket: 's3://nowhere/x'") as caught:
            call()
        assert caught.value.errno == errno.ENXIO  # so that it is not taken for a missing file


def test_no_credentials_are_told_as_such():
    error = asking.as_os_error(
        "s3://b/x",
        Exception("Error performing PUT http://169.254.169.254/latest/api/token in 1s: 403"),
    )
    assert isinstance(error, PermissionError)
    assert error.strerror.startswith("no credentials were found. Set AWS_ACCESS_KEY_ID, AWS_")


# --- secrets ------------------------------------------------------------------------------------


def all_that_hangs_on(error):
    """Text of an error and of every other that can be reached from it."""
    texts, open_, seen = [], [error], set()
    while open_:
        one = open_.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        texts += [str(one), repr(one), repr(one.args), repr(vars(one))]
        texts += traceback.format_exception(one)
        open_ += [one.__cause__, one.__context__]
    return "\n".join(texts)


FAILURES = {
    **{name: ERRORS[name] for name in ("500", "expired", "denied", "signature", "drop")},
    "cut": Fault("cut", after=1),
    "html": Fault("answer", status=400, body=f"<p>{ACCESS_KEY}</p>".encode(), asked=False),
    "quoting": Fault(
        "answer",
        status=400,
        body=f"<Error><Code>{SECRETS[1]}</Code><Message>?X-Amz-Signature=abc0123&amp;"
        f"X-Amz-Credential={ACCESS_KEY}%2Fus, Bearer abc0123</Message></Error>".encode(),
        asked=False,
    ),
}


@pytest.mark.parametrize("fault", FAILURES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_is_in_an_error_or_a_log(s3, hasty, caplog, kind, fault):
    caplog.set_level(logging.DEBUG)
    s3.put("folder/digits", b"0123456789")
    caplog.clear()  # boto3, which the tests use, says much
    lines, call, _want = requests_of_all_kinds(place("s3://bucket/folder"))[kind]
    s3.spoil(FAILURES[fault], line=f"^({'|'.join(lines)})", times=None)
    try:
        try:
            call()
        except OSError as error:
            failure = error
        else:
            assert fault == "cut"
            return
    finally:
        s3.heal()
    assert failure.__context__ is None
    assert failure.__cause__ is None
    text = all_that_hangs_on(failure) + caplog.text
    for secret in (*SECRETS, "abc0123"):
        assert secret not in text


def test_an_error_within_the_handling_of_another_still_quotes_no_request(s3):
    s3.spoil(ERRORS["signature"])

    def asked_in_a_handler():
        try:
            raise KeyError("of the caller")
        except KeyError:
            place("s3://bucket/k").read_bytes()

    with pytest.raises(PermissionError) as caught:
        asked_in_a_handler()
    assert isinstance(caught.value.__context__, KeyError)
    assert not any(secret in all_that_hangs_on(caught.value) for secret in SECRETS)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("GET http://user:pass@host/x", "GET http://***@host/x"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("?X-Amz-Signature=0f0f&X-Amz-Date=1", "?X-Amz-Signature=***&X-Amz-Date=1"),
        ("X-Amz-Credential=AB%2Fc&x", "X-Amz-Credential=***&x"),
        ("X-Amz-Security-Token=abc&x", "X-Amz-Security-Token=***&x"),
        ("?sv=1&sig=abc%3D&se=2", "?sv=1&sig=***&se=2"),
        ("key AKIAIOSFODNN7EXAMPLE.", "key ***."),
        ("token hf_abcdefghijklmnopqrst", "token ***"),
        ("my s3cr3tvalue here", "my *** here"),
        ("region us-east-1 is kept", "region us-east-1 is kept"),
    ],
)
def test_what_looks_secret_is_taken_out(monkeypatch, text, want):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3tvalue")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert without_secrets(text) == want


# --- processes ------------------------------------------------------------------------------------

_PROCESSES = """
import multiprocessing, os, signal, sys
from spikedata.remote import place

def look(url):
    signal.alarm(20)
    try:
        print(place(url).read_bytes().decode(), flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)

def child(way, url):
    process = multiprocessing.get_context(way).Process(target=look, args=(url,))
    process.start()
    process.join()
    assert process.exitcode == 0, process.exitcode

if __name__ == "__main__":
    used, *ways = sys.argv[1:]
    if used == "used":
        look("s3://bucket/k")
    for way in ways:
        child(way, "s3://bucket/k")
    look("s3://bucket/k")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows")
@pytest.mark.parametrize(
    ("used", "ways", "want"),
    [
        ("unused", ["fork", "fork"], ["data", "data", "data"]),
        ("used", ["fork"], ["data", "SpikeDataError", "data"]),
        ("used", ["spawn"], ["data", "data", "data"]),
        ("used", ["forkserver"], ["data", "data", "data"]),
    ],
)
def test_a_forked_process_reads_or_says_that_it_cannot(s3, tmp_path, used, ways, want):
    s3.put("k", b"data")
    script = tmp_path / "processes.py"
    script.write_text(_PROCESSES)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), used, *ways],
        env={**os.environ, **s3.environment(), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == want
    for line in lines:
        assert line == "data" or 'multiprocessing_context="spawn"' in line


# --- the Hub ------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A repository that all may read and one that is private, each of two commits."""
    with HubServer(tmp_path / "hub") as server, FlakyHub(server.url) as flaky:
        for name, value in server.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HF_ENDPOINT", flaky.url)
        flaky.commits = [fill_hub(server.repositories, name) for name in ("open", "shut")][0]
        forget_hub()
        yield flaky


def fill_hub(repositories, name):
    repo = f"tester/{name}"
    repositories.create(repo, private=name == "shut")
    commits = []
    for text in (b"first", b"second"):
        files = {"a.txt": text, "sub/b c.txt": b"0123456789"}
        state = repositories.load(repo)
        entries = {k: {"oid": repositories.put(v), "size": len(v)} for k, v in files.items()}
        commits.append(f"{len(commits) + 1:040x}")
        state["commits"].append({"id": commits[-1], "files": entries})
        repositories._save(repo, state)
    return commits


def forget_hub():
    from huggingface_hub import HfFileSystem

    HfFileSystem.clear_instance_cache()


def test_the_hub_is_looked_at_and_read(hub):
    folder = place("hf://datasets/tester/open")
    assert list(folder.names_below()) == ["a.txt", "sub/b c.txt"]
    assert [path.name for path in folder.iterdir()] == ["a.txt", "sub"]
    assert [path.name for path in (folder / "sub").iterdir()] == ["b c.txt"]
    file = folder / "sub" / "b c.txt"
    assert (file.stat().st_size, file.is_file(), file.is_dir()) == (10, True, False)
    assert ((folder / "sub").is_file(), (folder / "sub").is_dir()) == (False, True)
    assert file.read_bytes() == b"0123456789"
    hub.requests.clear()
    assert file.read_range(2, 3) == b"234"
    assert hub.requests == ["GET /datasets/tester/open/resolve/main/sub/b c.txt part"]
    assert file.read_range(8, 100) == b"89"
    assert file.read_tail(3) == (b"789", 10)
    assert place("hf://datasets/tester/shut/a.txt").read_bytes() == b"second"


def test_a_revision_of_the_hub_is_kept_in_every_path(hub):
    folder = place(f"hf://datasets/tester/open@{hub.commits[0]}")
    assert (folder / "a.txt").read_bytes() == b"first"
    assert [str(path) for path, _, _ in folder.walk_files()] == [
        f"{folder}/a.txt",
        f"{folder}/sub/b c.txt",
    ]
    assert list(folder.iterdir()) == [folder / "a.txt", folder / "sub"]


@pytest.mark.parametrize("path", ["open/none.txt", "none/a.txt", f"open@{'0' * 40}/a.txt"])
def test_what_the_hub_does_not_have_is_told(hub, path):
    with pytest.raises(FileNotFoundError, match="no such file, or it is private and HF_TOKEN"):
        place(f"hf://datasets/tester/{path}").read_bytes()


@pytest.mark.parametrize("token", [None, "hf_of_somebody_else_12345"])
def test_what_is_private_is_told_in_one_line(hub, monkeypatch, token):
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    for call in (
        lambda: place("hf://datasets/tester/shut/a.txt").read_bytes(),
        lambda: list(place("hf://datasets/tester/shut").iterdir()),
    ):
        with pytest.raises(
            PermissionError, match=r"401 .*Check the credentials \(HF_TOKEN"
        ) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert caught.value.__context__ is None
        assert (token or "no token") not in all_that_hangs_on(caught.value)


def test_the_hub_is_not_written(hub):
    file = place("hf://datasets/tester/open/new")
    for call in (
        lambda: file.write_bytes(b"1"),
        lambda: file.write_version(b"1", only_new=True),
        lambda: file.unlink(),
    ):
        with pytest.raises(SpikeDataError, match="published to with `spikedata push-hub`"):
            call()


@pytest.mark.parametrize("fault", ["500", "503", "drop", "cut"])
def test_a_failure_of_the_hub_that_passes_is_survived(hub, hasty, fault):
    folder = place("hf://datasets/tester/open")
    hub.spoil(MISANSWERS[fault], line="/api/datasets/tester/open$")
    hub.spoil(MISANSWERS[fault], line="/tree/")
    assert list(folder.names_below()) == ["a.txt", "sub/b c.txt"]
    assert len(hub.spoilt) == 2


@pytest.mark.parametrize("fault", ["500", "403", "429", "html", "noise", "null", "wrong types"])
def test_a_failure_of_the_hub_that_stays_is_told_in_the_end(hub, hasty, caplog, fault):
    caplog.set_level(logging.DEBUG)
    hub.spoil(MISANSWERS[fault], times=None)
    with pytest.raises(OSError, match="Errno") as caught:
        list(place("hf://datasets/tester/open").iterdir())
    assert caught.value.strerror
    assert "\n" not in str(caught.value)
    assert TOKEN not in all_that_hangs_on(caught.value) + caplog.text
    assert len(hub.requests) <= 10


def test_the_hub_cannot_have_us_wait_for_a_day(hub, hasty):
    hub.spoil(MISANSWERS["429"], line="/tree/", times=None)
    with pytest.raises(OSError, match="answered 429: come again in 86400 s"):
        list(place("hf://datasets/tester/open").names_below())


def test_a_hub_that_falls_silent_is_asked_again(hub, hasty, monkeypatch):
    monkeypatch.setattr(buckets, "SILENCE_S", 0.3)
    hub.spoil(Fault("trickle", seconds=1.0), line="/tree/")
    assert list(place("hf://datasets/tester/open").names_below()) == ["a.txt", "sub/b c.txt"]
