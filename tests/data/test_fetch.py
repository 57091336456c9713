"""Downloads against a server on this machine that can be made to fail in every way."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from energynets.data.fetch import RemoteFile, fetch
from energynets.errors import DataError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = (hashlib.sha256(CONTENT).hexdigest(),)


class Server(ThreadingHTTPServer):
    """Serves one content; what it does wrong is set by attributes, what it was asked is kept."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag: str | None = '"one"'
        self.last_modified: str | None = None
        self.ranges = True
        self.drop_after: list[int] = []  # bytes of the body sent before the connection drops, per request
        self.statuses: list[int] = []  # answers before the first good one
        self.send_length = True
        self.wrong_start = False
        self.requests: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.bin"

    def handle_error(self, request, client_address) -> None:
        pass  # clients that hang up are part of the tests


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(dict(self.headers))
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", server.url)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        begin = 0
        asked = self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, server.etag or server.last_modified)
        if asked and server.ranges and same:
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            begin -= int(server.wrong_start)
            self.send_header("Content-Range", f"bytes {begin}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        body = server.content[begin:]
        if server.send_length:
            self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.last_modified:
            self.send_header("Last-Modified", server.last_modified)
        self.end_headers()
        if server.drop_after:
            self.wfile.write(body[: server.drop_after.pop(0)])
            self.wfile.flush()
            self.connection.close()
            return
        self.wfile.write(body)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def get(server, folder, sha256=SHA256, urls=None, **options):
    options = {"wait": 0.0, "timeout": 5.0, **options}
    return fetch([RemoteFile("sub/file.bin", urls or (server.url,), sha256)], folder, **options)[0]


def names(folder):
    return sorted(path.name for path in (folder / "sub").iterdir())


def ranges(server):
    return [request.get("Range") for request in server.requests]


@pytest.mark.parametrize("sha256", [SHA256, ()])
def test_download(server, tmp_path, sha256):
    calls = []
    path = get(server, tmp_path, sha256, progress=lambda done, total: calls.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["file.bin"]
    assert calls[0] == (0, len(CONTENT))
    assert calls[-1] == (len(CONTENT), len(CONTENT))
    assert calls == sorted(calls)


def test_a_file_that_is_there_is_not_fetched_again(server, tmp_path):
    get(server, tmp_path)
    get(server, tmp_path)
    assert len(server.requests) == 1
    (tmp_path / "sub/file.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match="another checksum"):
        get(server, tmp_path)
    assert (tmp_path / "sub/file.bin").read_bytes() == b"mine"


def test_redirects_are_followed(server, tmp_path):
    assert get(server, tmp_path, urls=(server.url.replace("/file", "/moved"),)).read_bytes() == CONTENT


@pytest.mark.parametrize("sha256", [SHA256, ()])
def test_dropped_connections_are_resumed(server, tmp_path, sha256):
    server.drop_after = [100_000, 50_000]
    assert get(server, tmp_path, sha256).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-", "bytes=150000-"]
    assert server.requests[1]["If-Range"] == '"one"'


def test_last_modified_holds_the_server_to_the_same_file(server, tmp_path):
    server.etag, server.last_modified = None, "Tue, 01 Jul 2025 10:00:00 GMT"
    server.drop_after = [100_000]
    assert get(server, tmp_path, ()).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-"]
    assert server.requests[1]["If-Range"] == server.last_modified


def test_weak_validators_are_not_trusted(server, tmp_path):
    server.etag = 'W/"weak"'
    server.drop_after = [100_000]
    assert get(server, tmp_path, ()).read_bytes() == CONTENT
    assert ranges(server) == [None, None]


def test_server_without_ranges(server, tmp_path):
    server.ranges = False
    server.drop_after = [100_000]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-"]


def test_server_without_lengths(server, tmp_path):
    server.send_length = False
    assert get(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("sha256", ["new", ()])
@pytest.mark.parametrize("etag", ['"two"', '"one"', None])
def test_a_changed_file_is_never_glued_to_the_old_part(server, tmp_path, sha256, etag):
    server.etag = etag and '"one"'
    server.drop_after = [100_000]
    with pytest.raises(DataError, match="gave up after 1 attempts"):
        get(server, tmp_path, (), retries=0)
    assert names(tmp_path) == ["file.bin.part", "file.bin.part.json"]
    server.content, server.etag = CONTENT[::-1] + b"longer", etag
    sha256 = (hashlib.sha256(server.content).hexdigest(),) if sha256 else ()
    assert get(server, tmp_path, sha256).read_bytes() == server.content


def test_a_changed_file_of_equal_length_is_noticed_by_its_checksum(server, tmp_path):
    server.drop_after = [100_000]
    with pytest.raises(DataError, match="100000 bytes are kept"):
        get(server, tmp_path, retries=0)
    server.content = CONTENT[::-1]
    sha256 = (hashlib.sha256(server.content).hexdigest(),)
    assert get(server, tmp_path, sha256).read_bytes() == server.content
    assert ranges(server) == [None, "bytes=100000-", None]


def test_wrong_range_is_not_glued(server, tmp_path):
    server.drop_after = [100_000]
    server.wrong_start = True
    assert get(server, tmp_path, ()).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-", None]


def test_part_of_unknown_origin_is_thrown_away(server, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/file.bin.part").write_bytes(b"something")
    assert get(server, tmp_path, ()).read_bytes() == CONTENT
    assert ranges(server) == [None]


def test_ctrl_c_keeps_the_part(server, tmp_path):
    def interrupt(done: int, total: int) -> None:
        if done > 150_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path, progress=interrupt)
    assert names(tmp_path) == ["file.bin.part", "file.bin.part.json"]
    kept = (tmp_path / "sub/file.bin.part").stat().st_size
    assert kept > 150_000
    calls = []
    assert get(server, tmp_path, progress=lambda done, total: calls.append(done)).read_bytes() == CONTENT
    assert ranges(server) == [None, f"bytes={kept}-"]
    assert calls[0] == kept


def test_complete_part_is_only_renamed(server, tmp_path):
    def interrupt(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path, (), progress=interrupt)
    assert get(server, tmp_path, ()).read_bytes() == CONTENT
    assert ranges(server) == [None, f"bytes={len(CONTENT)}-"]


def test_checksum_mismatch(server, tmp_path):
    with pytest.raises(DataError, match=f"checksum mismatch: expected sha256 {'0' * 64}, got {SHA256[0]}"):
        get(server, tmp_path, ("0" * 64,))
    assert names(tmp_path) == []


def test_missing_page(server, tmp_path):
    server.statuses = [404]
    with pytest.raises(DataError, match=r"file.bin: HTTP status 404 Not Found"):
        get(server, tmp_path)
    assert len(server.requests) == 1
    assert names(tmp_path) == []


def test_busy_server_is_asked_again_but_not_for_ever(server, tmp_path):
    server.statuses = [503, 429]
    assert get(server, tmp_path).read_bytes() == CONTENT
    (tmp_path / "sub/file.bin").unlink()
    server.statuses = [503] * 10
    with pytest.raises(DataError, match="gave up after 3 attempts: HTTP status 503"):
        get(server, tmp_path, retries=2)


def test_drops_are_bounded(server, tmp_path):
    server.drop_after = [10] * 10
    with pytest.raises(DataError, match=r"gave up after 3 attempts: .*; 30 bytes are kept"):
        get(server, tmp_path, retries=2)


def test_the_second_address_is_tried(server, tmp_path):
    server.statuses = [404]
    assert get(server, tmp_path, urls=(server.url + "?mirror=1", server.url)).read_bytes() == CONTENT


def test_silent_server_times_out(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        with pytest.raises(DataError, match="gave up after 1 attempts: no answer in time"):
            get(None, tmp_path, urls=(url,), timeout=0.2, retries=0)


def test_nobody_listens(tmp_path):
    with pytest.raises(DataError, match=r"gave up after 2 attempts: .*refused"):
        get(None, tmp_path, urls=("http://127.0.0.1:9/x",), retries=1)


def test_unknown_host(tmp_path):
    with pytest.raises(DataError, match=r"cannot find the host 'nowhere\.invalid'"):
        get(None, tmp_path, urls=("http://nowhere.invalid/x",))


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x"])
def test_other_schemes_are_refused(tmp_path, url):
    with pytest.raises(DataError, match="expected an http or https address"):
        get(None, tmp_path, urls=(url,))


def test_paths_stay_in_the_folder(tmp_path):
    with pytest.raises(DataError, match="inside the data folder"):
        fetch([RemoteFile("../x", ("http://127.0.0.1:9/x",))], tmp_path)


def test_full_disk(server, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/file.bin.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match="the disk is full"):
        get(server, tmp_path, ())
    assert not (tmp_path / "sub/file.bin").exists()


def test_unwritable_folder(server, tmp_path):
    (tmp_path / "sub").write_text("a file where a folder is wanted")
    with pytest.raises(DataError, match="cannot make the folder"):
        get(server, tmp_path)
