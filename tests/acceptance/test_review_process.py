"""The review app as a process: which addresses it accepts, what it logs, and how it runs inside `up`."""

import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from support.certificates import make_key_pair
from support.programs import COMMAND, RunningCommand, environment, run

ENV = environment(settle_seconds=0.5, batch_size=4, decoders=2)
PASSWORD = "a sentence of some words"


def review_url(part: RunningCommand) -> str:
    said = part.wait_until(lambda: re.search(r"Review: (https?://\S+)", part.said()))
    return str(said[1])


def browser(url: str, **headers: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=60, trust_env=False, verify=False, headers=headers)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a ledger, and a reader."""
    folder = tmp_path_factory.mktemp("review")
    assert run("db", "upgrade", cwd=folder).code == 0
    made = subprocess.run([*COMMAND, "users", "add", "rita"], cwd=folder, env=environment(), input=PASSWORD, text=True)
    assert made.returncode == 0
    return folder


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--host", "0.0.0.0"), "would be sent unencrypted"),
        (("--host", "::"), "would be sent unencrypted"),
        (("--tls-cert", "review.pem"), "go together"),
        (("--tls-cert", "none.pem", "--tls-key", "none.key"), "certificate or its key cannot be used"),
        (("--host", "192.0.2.1", "--behind-proxy"), "cannot listen on 192.0.2.1"),
    ],
)
def test_where_it_will_not_listen(data: Path, words: tuple[str, ...], sentence: str) -> None:
    ended = run("review", "--port", "0", *words, cwd=data)
    assert ended.code == 1
    assert sentence in ended.err
    assert "Traceback" not in ended.err


def test_without_a_ledger_it_says_how_one_is_made(tmp_path: Path) -> None:
    ended = run("review", cwd=tmp_path)
    assert ended.code == 1
    assert "There is no ledger" in ended.err


def test_its_log_knows_routes_and_not_what_was_asked_for(data: Path) -> None:
    with RunningCommand(("review", "--port", "0"), data, data / "log", environment(log_format="json")) as part:
        url = review_url(part)
        with browser(url) as visitor:
            visitor.get("/sign-in?next=/images/DOE_JOHN.dcm&key=secret")
            visitor.get("/DOE_JOHN.dcm")
            visitor.post("/sign-in", data={"name": "rita", "password": PASSWORD})
            assert visitor.get("/models/DOE_JOHN").status_code == 404
            visitor.post("/sign-in", data={"name": "DOE_JOHN", "password": "a secret"})
            part.wait_until_said("/models/{version}")
            part.wait_until(lambda: part.said().count('"route": "/sign-in"') == 3)
            assert part.terminate() == 0, "with a connection that is still open"
    assert "DOE" not in part.said()
    assert "secret" not in part.said()


def test_by_tls(data: Path, tmp_path: Path) -> None:
    certificate, key = make_key_pair(tmp_path)
    words = ("review", "--port", "0", "--tls-cert", certificate, "--tls-key", key)
    with RunningCommand(words, data, data / "log-tls") as part:
        url = review_url(part)
        assert url.startswith("https://")
        with browser(url) as visitor:
            answer = visitor.post("/sign-in", data={"name": "rita", "password": PASSWORD})
            assert answer.status_code == 303
            assert "max-age=" in answer.headers["strict-transport-security"]
            cookies = answer.headers.get_list("set-cookie")
            assert any(cookie.startswith("__Host-pneumowatch=") for cookie in cookies)
            assert all("Secure" in cookie for cookie in cookies)
            assert visitor.get("/account").status_code == 200
        with httpx.Client(timeout=60, trust_env=False) as strict, pytest.raises(httpx.ConnectError):
            strict.get(url)
        assert part.interrupt() == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path


@pytest.mark.slow
def test_inside_up(folder: Path, phantoms: Path) -> None:
    """The link signs in once, while the model is still being loaded; and `up` drains with a reader signed in."""
    with RunningCommand(("up",), folder, folder / "log", ENV) as part:
        link = httpx.URL(review_url(part))
        assert link.host == "127.0.0.1"
        with browser(f"http://{link.netloc.decode()}") as admin:
            assert admin.get(link.raw_path.decode()).status_code == 303
            page = admin.get("/account").text
            assert "local" in page
            assert admin.get(link.raw_path.decode()).status_code == 403

            part.wait_until_said("model ready")
            assert "compact-" in admin.get("/models").text
            shutil.copy(sorted(phantoms.iterdir())[0], folder / "inbox" / "image.png")
            part.wait_until(lambda: "Of the newest 1 images" in admin.get("/models").text)
            assert admin.get("/readyz").status_code == 200

            second = Path(folder, "second")
            (second / "inbox").mkdir(parents=True)
            taken = environment(review_port=link.port)
            with RunningCommand(("up",), second, second / "log", taken) as other:
                assert httpx.URL(review_url(other)).port != link.port, "it takes a free one"
            key = link.params["key"]
            log = part.said().replace(str(link), "")
            assert key not in log, "it is printed, and stands nowhere else"
            assert part.terminate() == 0, part.said()


def test_up_without_the_review_app(folder: Path) -> None:
    with RunningCommand(("up", "--no-review"), folder, folder / "log", ENV) as part:
        part.wait_until_said("Watching")
        part.wait_until_said("Ctrl-C ends it")
        assert "Review:" not in part.said()
    ended = run("up", "--once", cwd=folder, env=ENV)
    assert ended.code == 0
    assert "Review:" not in ended.out
