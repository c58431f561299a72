"""docs/serving.md: its service answers, follows a refreshed model, and goes on where the new one is damaged."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pandas as pd
import pytest
from blend_tools import tiny_recommender
from docs_blocks import ROOT, blocks_of
from launching import launch

from macrec_hf import MacRecRecommender
from macrec_hf.cli import main

pytest.importorskip("fastapi", reason="the service needs FastAPI: pip install -e '.[app]'")
testclient = pytest.importorskip("fastapi.testclient", reason="the test's client needs httpx")

NUM_ITEMS = 12
SERVE, _, RECOMMEND_ALL = (
    block.code for block in blocks_of(ROOT / "docs" / "serving.md") if block.language == "python"
)
HISTORIES = [["i1", "i2"], ["i5"]]


def purchases(path, step):
    """Each of 40 customers buys five items, every `step`-th of a circle."""
    rows = [(user, f"i{(user + step * place) % NUM_ITEMS}", place) for user in range(40) for place in range(5)]
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    recommender = tiny_recommender(NUM_ITEMS)
    recommender.fit_blend(purchases(folder / "first.csv", 1))
    recommender.save_pretrained(folder / "model")
    return folder


@pytest.fixture
def folder(fitted, tmp_path, monkeypatch):
    shutil.copytree(fitted, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("MODEL", str(tmp_path / "model"))
    monkeypatch.setenv("LOOK_EVERY", "0.05")
    return tmp_path


def service():
    namespace = {"__name__": "serve"}
    exec(compile(SERVE, "docs/serving.md", "exec"), namespace)
    return testclient.TestClient(namespace["app"])


@pytest.fixture
def client(folder):
    with service() as client:
        yield client


def answer(client, **request):
    response = client.post("/recommend", json={"histories": HISTORIES, "top_k": 3} | request)
    assert response.status_code == 200, response.text
    return response.json()


def expected(folder, **arguments):
    recommender = MacRecRecommender.from_pretrained(folder / "model")
    arguments = {"histories": HISTORIES, "top_k": 3} | arguments
    lists = [[item.as_dict() for item in ranked] for ranked in recommender.recommend(**arguments)]
    return json.loads(json.dumps(lists))


def test_it_answers_as_the_recommender_does(client, folder, caplog):
    assert client.get("/health").json() == {"items": NUM_ITEMS}
    answers = answer(client)
    assert answers == expected(folder) and [len(ranked) for ranked in answers] == [3, 3]
    assert answers[0] != answers[1] and answers[0][0]["reasons"]
    stock = ["i3", "i4", "i8"]
    assert answer(client, in_stock=stock) == expected(folder, allowed_items=stock)
    with caplog.at_level("WARNING"):
        assert answer(client, in_stock=["gone"]) == [[], []]
    assert "Left out 1 unknown items of allowed_items, such as ['gone']. Nothing is left" in caplog.text
    assert answer(client, histories=[["gone", "i5"]]) == answer(client, histories=[["i5"]])


def refusal(client, **request):
    response = client.post("/recommend", json=request)
    assert response.status_code == 422
    return response.text


def test_what_it_cannot_read_it_refuses(client):
    assert "at least 1 item" in refusal(client, histories=[])
    assert "greater than or equal to 1" in refusal(client, histories=[["i1"]], top_k=0)


def test_a_customer_of_whom_a_model_without_counts_knows_nothing_is_refused(folder):
    shutil.rmtree(folder / "model")
    tiny_recommender(NUM_ITEMS).save_pretrained(folder / "model")
    with service() as client:
        assert "History 0" in refusal(client, histories=[["gone"]])
        assert len(answer(client)) == len(HISTORIES)


def test_it_follows_a_refreshed_model(client, folder):
    before = answer(client)
    assert main(["refresh", str(folder / "model"), "--interactions", str(purchases(folder / "later.csv", 5))]) == 0
    after = expected(folder)
    assert after != before
    wait_until(lambda: answer(client) == after)


def test_it_goes_on_with_the_old_model_where_the_new_one_is_damaged(client, folder, caplog):
    before = answer(client)
    with (folder / "model" / "purchase_counts.safetensors").open("ab") as file:
        file.write(b"more")
    sums = folder / "model" / "checksums.json"
    sums.write_text(sums.read_text() + "\n")
    wait_until(lambda: "goes on serving" in caplog.text)
    assert "purchase_counts.safetensors" in caplog.text
    assert answer(client) == before


def wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not so within {seconds} seconds"
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_answer_on_one_port(folder):
    (folder / "serve.py").write_text(SERVE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "uvicorn", "serve:app", "--port", address.split(":")[1], "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stderr=log)
    try:
        wait_until(lambda: (folder / "log").read_text().count("Application startup complete") == 2, 180)
        wanted = expected(folder)
        question = json.dumps({"histories": HISTORIES, "top_k": 3}).encode()
        for _ in range(8):
            request = urllib.request.Request(
                f"http://{address}/recommend", question, {"content-type": "application/json"}
            )
            assert json.load(urllib.request.urlopen(request, timeout=60)) == wanted
    finally:
        server.terminate()
        server.wait(60)


@pytest.mark.slow
def test_two_processes_make_the_lists_of_all_customers(folder):
    customers = [{"user_id": f"u{user}", "history": [f"i{user}", f"i{user + 2}"]} for user in range(7)]
    (folder / "customers.jsonl").write_text("".join(json.dumps(customer) + "\n" for customer in customers))
    (folder / "recommend_all.py").write_text(RECOMMEND_ALL)
    done = launch(str(folder / "recommend_all.py"), folder=folder)
    assert done.returncode == 0, done.stderr
    parts = [(folder / f"lists-{process}.jsonl").read_text().splitlines() for process in (0, 1)]
    assert [len(part) for part in parts] == [4, 3]
    wanted = expected(folder, histories=[customer["history"] for customer in customers], top_k=10)
    assert list(map(json.loads, parts[0] + parts[1])) == [
        {"user_id": customer["user_id"], "items": [item["item_id"] for item in ranked]}
        for customer, ranked in zip(customers, wanted, strict=True)
    ]
