"""Where a server listens: what is wrong with host or port is one sentence, before a model is loaded."""

import errno
import http.client
import signal
import socket
import subprocess
import sys
import time

import pytest
from thoroughness import on_request

from fastmux.cli.main import main
from fastmux.serving.sockets import bind, problem


@pytest.fixture
def taken():
    """A port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one.getsockname()[1]


def refused(*options: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "nowhere/no-model", *options])  # which would be said, if it were looked for
    assert "\n" not in ended.value.code
    return ended.value.code


def test_a_port_in_use(taken):
    said = refused("--port", str(taken))
    assert said.startswith(f"fastmux serve: --port is {taken}, on which another program listens at 127.0.0.1")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a b", "x" * 70, "1.2.3.4.5"])
def test_a_host_that_nobody_knows(host):
    assert refused("--host", host) == f"fastmux serve: --host is {host!r}, for which no address is known"


def test_another_machines_address():
    said = refused("--host", "192.0.2.1")  # of documentation
    assert said.startswith("fastmux serve: --host is '192.0.2.1', which is no address of this machine; 127.0.0.1")


def test_a_reserved_port(monkeypatch):
    def bind(self, address):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    assert refused("--port", "80").startswith("fastmux serve: --port is 80, which this process may not use")


def test_other_errors_stay_what_they_are():
    error = OSError(errno.EMFILE, "Too many open files")
    assert problem(error, "localhost", 80) is error


def test_every_address_of_a_host_has_the_same_port():
    bound = bind("localhost", 0)
    assert len({one.getsockname()[1] for one in bound}) == 1
    for one in bound:
        with pytest.raises(ConnectionRefusedError):  # held, and nobody is kept waiting
            socket.create_connection(one.getsockname()[:2], timeout=5)
        one.close()


@on_request
@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_an_address_of_ipv6(folders):
    try:
        bind("::1", 0)[0].close()
    except ValueError:
        pytest.skip("no address of IPv6 here")
    command = [sys.executable, "-m", "fastmux", "serve", str(folders["plain"]), "--host", "::1", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        said = next(line for line in running.stderr if "running on" in line)
        port = int(said.partition("http://[::1]:")[2].partition('"')[0])
        connection = http.client.HTTPConnection("::1", port, timeout=20)
        connection.request("GET", "/health")
        assert connection.getresponse().status in (200, 503)
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0


LOADING = """
import time
from fastmux.cli.main import main
from fastmux.serving import app
app.create_app = lambda *model, **options: (print("loading", flush=True), time.sleep(60))
main(["serve", "model", "--port", "0"])
"""


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGTERM, 143, "told to end before the model was loaded"), (signal.SIGINT, 130, "interrupted")],
)
def test_told_to_end_while_the_model_is_loaded(number, code, said):
    with subprocess.Popen([sys.executable, "-c", LOADING], stdout=-1, stderr=-1, text=True) as running:
        assert running.stdout.readline() == "loading\n"
        time.sleep(0.2)
        running.send_signal(number)
        _, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (code, f"fastmux serve: {said}\n")
