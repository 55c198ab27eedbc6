"""``fastmux serve``: a real server, and what its command line says."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from serving.processes import process

from fastmux.cli.main import main


def ask(address: str, inputs) -> tuple[int, dict]:
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("POST", "/predict", json.dumps({"inputs": inputs}))
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def waiting(address: str) -> float:
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("fastmux_queued_rows "))


def until_waiting(address: str, rows: int) -> None:
    for _ in range(400):
        if waiting(address) == rows:
            return
        time.sleep(0.02)
    raise AssertionError(f"{waiting(address)} rows wait, expected {rows}")


def test_clients_that_hang_up_and_an_end_that_loses_nothing(folders, texts):
    # Rows wait for a full group of four, for a minute: all that happens meanwhile is for another reason.
    with process(folders["tmux"], "--max_wait_ms", "60000") as server:
        address = urlsplit(server.url()).netloc
        host, port = address.split(":")
        body = json.dumps({"inputs": texts[0]}).encode()
        with socket.create_connection((host, int(port))) as client:
            head = f"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            until_waiting(address, 1)
        until_waiting(address, 0)  # it hung up

        with ThreadPoolExecutor(3) as pool:
            taken = [pool.submit(ask, address, text) for text in texts[1:4]]
            until_waiting(address, 3)
            server.popen.send_signal(signal.SIGTERM)
            answers = [one.result() for one in taken]
        assert [status for status, _ in answers] == [200] * 3 and all("label" in answer for _, answer in answers)
        assert server.end() == 0
    lines = server.lines()
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    said = [line["status"] for line in lines if line["message"] == "predict"]
    assert sorted(said) == [200, 200, 200, 499]
    with pytest.raises(ConnectionRefusedError):
        ask(address, texts[0])


def test_the_help_teaches(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for word in ("curl", "X-Tenant", "--max_concurrent_requests", "429", "/health", "fastmux-transformers[serve]"):
        assert word in said


def test_a_model_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(tmp_path / "nowhere"), "--port", "0"])
    assert ended.value.code.startswith("fastmux serve: ") and "cannot be loaded" in ended.value.code
    assert "\n" not in ended.value.code


WITHOUT = """
import sys
sys.modules["uvicorn"] = None
from fastmux.cli.main import main
main(["serve", "nowhere"])
"""


def test_without_the_extra_it_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.strip() == (
        "fastmux serve: uvicorn is not installed; pip install 'fastmux-transformers[serve]' adds what serve needs"
    )
