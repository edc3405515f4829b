"""Downloads against a server on this machine: cut, resumed, changed, refused."""

import hashlib
import re
import resource
import socket
import sys

import pytest

from file_server import serving
from ssd4rec.datasets import download as download_module
from ssd4rec.datasets.download import discard, download
from ssd4rec.errors import DataError

CONTENT = bytes(range(256)) * 1000  # 256,000 bytes
MD5 = f"md5:{hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}"
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("checksum", [None, MD5, SHA256])
def test_a_file_arrives_whole_and_its_progress_is_told(tmp_path, checksum):
    seen = []
    with serving({"a.zip": CONTENT}) as server:
        download(f"{server.address}/a.zip", tmp_path / "new" / "a.zip", checksum, lambda *progress: seen.append(progress))
    assert (tmp_path / "new" / "a.zip").read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["a.zip", "a.zip.origin"]
    assert (seen[0], seen[-1]) == ((0, 256_000), (256_000, 256_000))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_cut_download_goes_on_where_it_was_cut(tmp_path):
    """Three bring something, three nothing: those end it, what came stays, and the next call asks for the rest only."""
    seen = []
    with serving({"a.zip": CONTENT}, cuts=[100, 1, 50_000, 0, 0, 0]) as server:
        message = r"the connection ended after 50,101 of 256,000 bytes; 50,101 bytes are kept in .*a\.zip\.part: run it again"
        with pytest.raises(DataError, match=message):
            download(f"{server.address}/a.zip", tmp_path / "a.zip", MD5)
        assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:50_101]
        assert not (tmp_path / "a.zip").exists()
        download(f"{server.address}/a.zip", tmp_path / "a.zip", MD5, lambda *progress: seen.append(progress))
    assert [request.get("range") for request in server.requests] == [None, "bytes=100-", "bytes=101-", *4 * ["bytes=50101-"]]
    assert [request.get("if-range") for request in server.requests] == [None, *6 * ['"one"']]
    assert seen[0] == (50_101, 256_000)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    discard(tmp_path / "a.zip")
    assert names(tmp_path) == []


def test_lost_connections_that_brought_something_do_not_end_it(tmp_path):
    with serving({"a.zip": CONTENT}, cuts=[1000, 0, 0, 1000, 0, 0, 1000]) as server:
        download(f"{server.address}/a.zip", tmp_path / "a.zip", MD5)
    assert len(server.requests) == 8
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(("total", "requests"), [(None, 4), ("*", 5)])
def test_an_answer_that_holds_less_than_was_asked_for_is_not_the_end(tmp_path, total, requests):
    """100,000 bytes at most, after the first 1,000: asked again; of how many, if that is not said, the last answer tells."""
    seen = []
    with serving({"a.zip": CONTENT}, cuts=[1000], largest=100_000, total=total) as server:
        download(f"{server.address}/a.zip", tmp_path / "a.zip", None, lambda *progress: seen.append(progress))
    ranges = [None, "bytes=1000-", "bytes=101000-", "bytes=201000-", "bytes=256000-"]
    assert [request.get("range") for request in server.requests] == ranges[:requests]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert seen[-1] == (256_000, None if total else 256_000)


def test_an_answer_that_is_another_part_is_not_used(tmp_path):
    """The kept bytes are dropped, and the whole file is asked for."""
    with serving({"a.zip": CONTENT}, cuts=[1000], total="?") as server:
        download(f"{server.address}/a.zip", tmp_path / "a.zip", MD5)
    assert [request.get("range") for request in server.requests] == [None, "bytes=1000-", None]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_begun_again(tmp_path):
    """No checksum is known: the ETag alone tells the two apart."""
    with serving({"a.csv": b"old" * 1000}, cuts=[10, 10, 10, 0, 0, 0]) as server:
        with pytest.raises(DataError, match="are kept in"):
            download(f"{server.address}/a.csv", tmp_path / "a.csv")
        server.files["a.csv"], server.etag = b"new" * 500, '"two"'
        download(f"{server.address}/a.csv", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == b"new" * 500


def test_a_server_without_ranges_sends_the_whole_file_again(tmp_path):
    with serving({"a.zip": CONTENT}, ranges=False, cuts=[1000, 2000]) as server:
        download(f"{server.address}/a.zip", tmp_path / "a.zip")
    assert len(server.requests) == 3
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_without_etag_and_checksum_nothing_is_pieced_together(tmp_path):
    """The kept bytes could be of another copy; with a checksum a wrong piece would be found out, so they are used."""
    for checksum, ranges in ((None, [None, None]), (MD5, [None, "bytes=1000-"])):
        with serving({"a.zip": CONTENT}, etag="", cuts=[1000]) as server:
            download(f"{server.address}/a.zip", tmp_path / f"{checksum}.zip", checksum)
        assert [request.get("range") for request in server.requests] == ranges
        assert (tmp_path / f"{checksum}.zip").read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_taken(tmp_path):
    """Killed after the last byte: the server answers that there is nothing after it."""
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    with serving({"a.zip": CONTENT}) as server:
        download(f"{server.address}/a.zip", tmp_path / "a.zip", MD5)
    assert [request.get("range") for request in server.requests] == ["bytes=256000-"]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert not (tmp_path / "a.zip.part").exists()


def test_a_part_that_is_longer_than_the_file_is_begun_again(tmp_path):
    (tmp_path / "a.zip.part").write_bytes(CONTENT + b"more")
    with serving({"a.zip": CONTENT}) as server:
        download(f"{server.address}/a.zip", tmp_path / "a.zip", MD5)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_file_of_another_checksum_is_removed(tmp_path):
    with (
        serving({"a.zip": CONTENT[:-1] + b"!"}) as server,
        pytest.raises(
            DataError, match=rf"a\.zip: the file has md5:\w+, its publisher states {MD5}; it was removed: run it again"
        ),
    ):
        download(f"{server.address}/a.zip", tmp_path / "a.zip", MD5)
    assert names(tmp_path) == []


def test_a_file_that_is_here_is_not_asked_for(tmp_path):
    """With the right checksum; another one is downloaded again."""
    (tmp_path / "a.zip").write_bytes(CONTENT)
    with serving({"a.zip": CONTENT}) as server:
        download(f"{server.address}/a.zip", tmp_path / "a.zip", MD5)
        assert server.requests == []
        (tmp_path / "a.zip").write_bytes(b"other")
        download(f"{server.address}/a.zip", tmp_path / "a.zip", MD5)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_file_of_another_address_is_not_taken_for_this_one(tmp_path):
    """No checksum: the address alone tells; one that is not known is another."""
    with serving({"a.zip": CONTENT}) as server, serving({}) as other:
        for address in (f"{server.address}/b/a.zip", f"{server.address}/a.zip"):
            download(address, tmp_path / "a.zip")
            download(address, tmp_path / "a.zip")
        assert len(server.requests) == 2
        with pytest.raises(DataError, match="answered 404"):
            download(f"{other.address}/a.zip", tmp_path / "a.zip")
        assert names(tmp_path) == []
        (tmp_path / "a.zip").write_bytes(CONTENT)
        download(f"{server.address}/a.zip", tmp_path / "a.zip")
        assert len(server.requests) == 3


def test_a_part_of_another_address_is_begun_again(tmp_path):
    """The same ETag at two addresses; with a checksum a wrong piece would be found out, so it is used."""
    for checksum, ranges in ((None, [None]), (MD5, ["bytes=1000-"])):
        target = tmp_path / f"{checksum}.zip"
        with serving({"a.zip": CONTENT}, cuts=[1000, 0, 0, 0]) as server, pytest.raises(DataError, match="are kept"):
            download(f"{server.address}/a.zip", target, checksum)
        with serving({"a.zip": CONTENT[::-1] if checksum is None else CONTENT}) as server:
            download(f"{server.address}/a.zip", target, checksum)
        assert [request.get("range") for request in server.requests] == ranges
        assert target.read_bytes() == (CONTENT[::-1] if checksum is None else CONTENT)


def test_a_missing_file_is_named(tmp_path):
    with (
        serving({}) as server,
        pytest.raises(DataError, match=r"http://.*/a\.zip answered 404 Not Found; try later, or give the file.*--from"),
    ):
        download(f"{server.address}/a.zip", tmp_path / "a.zip")
    assert names(tmp_path) == []


@pytest.mark.parametrize("length", ["abc", "256000, 256000", "-5", "1, 2", "9" * 5000])
def test_a_length_that_cannot_be_read_is_not_needed(tmp_path, length):
    """One that a proxy doubled is the length; of any other all that comes is taken."""
    seen = []
    with serving({"a.zip": CONTENT}, length=length) as server:
        download(f"{server.address}/a.zip", tmp_path / "a.zip", MD5, lambda *progress: seen.append(progress))
    assert seen[-1] == (256_000, 256_000 if "256000" in length else None)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_an_empty_file_is_refused(tmp_path):
    with serving({"a.zip": b""}) as server, pytest.raises(DataError, match=r"a\.zip answered with an empty file; try later"):
        download(f"{server.address}/a.zip", tmp_path / "a.zip")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("moved", "message"),
    [
        ("/a.zip", "answered 302 The HTTP server returned a redirect error that would lead to an infinite loop"),
        ("file:///etc/hosts", "answered 302 .*is not allowed"),
    ],
)
def test_an_answer_that_leads_nowhere_is_one_line(tmp_path, moved, message):
    with serving({}, moved=moved) as server, pytest.raises(DataError, match=message) as caught:
        download(f"{server.address}/a.zip", tmp_path / "a.zip")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError("Invalid IPv6 URL"), OverflowError("port must be 0-65535"), OSError("two\nlines")])
def test_an_answer_that_leads_to_no_address_is_one_line(tmp_path, monkeypatch, error):
    """What urllib raises when it is sent on to http://[::1/a.zip, and leaves the first connection open."""

    def sent_on(*_, **__):
        raise error

    monkeypatch.setattr(download_module, "urlopen", sent_on)
    message = f"no answer from http://a.org/a.zip ({' '.join(str(error).split())}); check the network"
    with pytest.raises(DataError, match=re.escape(message)):
        download("http://a.org/a.zip", tmp_path / "a.zip")


def test_letters_that_http_lacks_are_quoted(tmp_path):
    with serving({"%C3%A4.zip": CONTENT}) as server:
        download(f"{server.address}/\u00e4.zip", tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_no_answer_is_said(tmp_path):
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/a.zip"
        with pytest.raises(DataError, match=rf"no answer from {address} \(.*refused\); check the network and run it again"):
            download(address, tmp_path / "a.zip")
    assert names(tmp_path) == []


def test_only_http_is_asked(tmp_path):
    with pytest.raises(DataError, match="file:///etc/hosts is no http or https address"):
        download("file:///etc/hosts", tmp_path / "hosts")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    """A file where the folder should be: refused even to root."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*/file/a\.zip\.part: .*; set XDG_CACHE_HOME"):
        download("http://127.0.0.1:9/a.zip", tmp_path / "file" / "a.zip")


@pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of a file are POSIX's")
def test_a_full_disk_keeps_what_came(tmp_path):
    """The limit on the size of a file stands in for the disk: 100,000 bytes go, the rest does not, and later it goes on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serving({"a.zip": CONTENT}) as server:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(DataError, match=r"cannot write .*a\.zip\.part: .*; 100,000 bytes are kept: make room"):
                download(f"{server.address}/a.zip", tmp_path / "a.zip", MD5)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        download(f"{server.address}/a.zip", tmp_path / "a.zip", MD5)
    assert server.requests[-1]["range"] == "bytes=100000-"
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.skipif(sys.platform == "win32", reason="file locks are POSIX's")
def test_two_downloads_do_not_write_one_file(tmp_path):
    """The second is refused while the first is in the middle of it."""

    def second(done, _total):
        if done:
            with pytest.raises(DataError, match=r"a\.zip\.part is being downloaded by another process; wait for it"):
                download(f"{server.address}/a.zip", tmp_path / "a.zip", MD5)
            tried.append(done)

    tried = []
    with serving({"a.zip": CONTENT}) as server:
        download(f"{server.address}/a.zip", tmp_path / "a.zip", MD5, second)
    assert tried
    assert len(server.requests) == 1
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.skipif(sys.platform == "win32", reason="file locks are POSIX's")
def test_the_file_is_ours_until_it_has_its_name(tmp_path, monkeypatch):
    """While one checks what it received, another is told to wait."""
    told, real = [], download_module.hash_of

    def checking(path, kind):
        with pytest.raises(DataError, match=r"a\.zip\.part is being downloaded by another process; wait for it"):
            download(f"{server.address}/a.zip", tmp_path / "a.zip", MD5)
        told.append(path.name)
        return real(path, kind)

    monkeypatch.setattr(download_module, "hash_of", checking)
    with serving({"a.zip": CONTENT}) as server:
        download(f"{server.address}/a.zip", tmp_path / "a.zip", MD5)
    assert told == ["a.zip.part"]
    assert names(tmp_path) == ["a.zip", "a.zip.origin"]
