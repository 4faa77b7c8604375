"""The page of one scan: its picture, verdicts by plain forms, and withdrawing them."""

import hashlib
import io
import re

import httpx
import numpy as np
from PIL import Image
from support.ledger_driver import LedgerDriver, file_version
from support.review_server import ReviewServer

from db.maintenance import erasure
from db.worklist import audit, verdicts
from pneumowatch.imaging import image_store
from pneumowatch.imaging.phantom import draw_phantom
from pneumowatch.settings import Settings

IMAGE = draw_phantom(1, pneumonia=True, width=300, height=240)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def lay(
    settings: Settings, ledger: LedgerDriver, name: str = "DOE_JANE.png", probability: float = 0.9, seed: int = 1
) -> int:
    """Add a classified scan whose file is in its inbox."""
    data = png(draw_phantom(seed, pneumonia=True, width=300, height=240))
    folder = settings.inboxes["inbox"]
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    ids = ledger.classify(
        file_version(name, len(data)), sha256=hashlib.sha256(data).hexdigest(), probability=probability
    )
    return ids[0]


def judge(client: httpx.Client, scan_id: int, verdict: str = "pneumonia", **more: object) -> str:
    answer = client.post(f"/scans/{scan_id}/verdict", data={"verdict": verdict, **more})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def said(ledger: LedgerDriver, scan_id: int) -> list[tuple[str, str, bool]]:
    history = ledger.database.read(lambda c: verdicts.review_history(c, scan_id))
    return [(one["reviewer"], one["verdict"], one["retracted_at"] is None) for one in history]


def acts(ledger: LedgerDriver, scan_id: int) -> list[tuple[str, str, str | None]]:
    rows = ledger.database.read(lambda c: audit.list_actions(c, 50, scan_id))
    return [(row["who"], row["what"], row["detail"]) for row in rows]


def test_the_image_is_shown_from_its_file(
    review_server: ReviewServer, ledger: LedgerDriver, settings: Settings
) -> None:
    scan_id = lay(settings, ledger)
    answer = review_server.reader().get(f"/images/{scan_id}.png")
    assert (answer.status_code, answer.headers["x-image-source"]) == (200, "file")
    assert "no-store" in answer.headers["cache-control"]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), IMAGE)
    assert acts(ledger, scan_id) == [("rita", "image_opened", "picture")]


def test_where_the_file_is_gone_the_kept_image_is_shown_and_said_to_be(
    review_server: ReviewServer, ledger: LedgerDriver, settings: Settings
) -> None:
    scan_id = lay(settings, ledger)
    (settings.inboxes["inbox"] / "DOE_JANE.png").unlink()
    reader = review_server.reader()
    gone = reader.get(f"/images/{scan_id}.png", headers={"Accept": "image/png, application/json"})
    assert gone.status_code == 404
    assert "no longer where it was" in gone.json()["detail"]
    small = IMAGE[:224, :224]
    image_store.store_image(settings.data_dir, ledger.row(scan_id)["sha256"], small, np.zeros((7, 7)))
    answer = reader.get(f"/images/{scan_id}.png")
    assert (answer.status_code, answer.headers["x-image-source"]) == (200, "kept")
    with Image.open(io.BytesIO(answer.content)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), small)
        assert picture.info == {}  # not the map, which may be hidden until the verdict


def test_a_picture_made_ahead_is_nobodys_image_opened(
    review_server: ReviewServer, ledger: LedgerDriver, settings: Settings
) -> None:
    scan_id = lay(settings, ledger)
    answer = review_server.reader().head(f"/images/{scan_id}.png")
    assert (answer.status_code, answer.content) == (204, b"")
    assert acts(ledger, scan_id) == []
    (settings.inboxes["inbox"] / "DOE_JANE.png").unlink()
    assert review_server.reader().get(f"/images/{scan_id}.png").headers["x-image-source"] == "file"
    assert (
        review_server.reader().head("/images/99.png").status_code == 204
    )  # nobody looks yet: it is said when somebody does


def test_an_image_that_cannot_be_shown_is_a_sentence(
    review_server: ReviewServer, ledger: LedgerDriver, settings: Settings
) -> None:
    folder = settings.inboxes["inbox"]
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no image at all")
    scan_id = ledger.reject(file_version("a.png"))
    ledger.set(scan_id, sha256=hashlib.sha256(b"no image at all").hexdigest())
    reader = review_server.reader()
    answer = reader.get(f"/images/{scan_id}.png", headers={"Accept": "application/json"})
    assert answer.status_code == 422
    assert "not an image of a supported format" in answer.json()["detail"]
    assert reader.get(f"/scans/{scan_id}").status_code == 200


def test_nobody_sees_an_image_without_signing_in(
    review_server: ReviewServer, ledger: LedgerDriver, settings: Settings
) -> None:
    scan_id = lay(settings, ledger)
    visitor = review_server.visitor()
    for path in (f"/images/{scan_id}.png", f"/images/{scan_id}/map.png", f"/scans/{scan_id}"):
        assert visitor.get(path, headers={"Accept": "text/html"}).status_code in (303, 401)
    assert visitor.post(f"/scans/{scan_id}/verdict", data={"verdict": "unsure"}).status_code in (303, 401)
    assert acts(ledger, scan_id) == []
    assert said(ledger, scan_id) == []


def test_what_is_no_scan_is_not_found(review_server: ReviewServer) -> None:
    reader = review_server.reader()
    for scan_id in ("99", "0", "-1", str(2**63), "9" * 40, "1e3", "%2e%2e", "..%2f1", "a"):
        for path in ("/images/{}.png", "/images/{}/map.png", "/scans/{}"):
            assert reader.get(path.format(scan_id)).status_code in (404, 422), (path, scan_id)


def test_a_map_is_shown_where_one_was_kept(
    review_server: ReviewServer, ledger: LedgerDriver, settings: Settings
) -> None:
    scan_id = lay(settings, ledger)
    reader = review_server.reader()
    assert reader.get(f"/images/{scan_id}/map.png").status_code == 404
    assert "No map was kept" in reader.get(f"/scans/{scan_id}").text
    image_store.store_image(settings.data_dir, ledger.row(scan_id)["sha256"], IMAGE[:224, :224], np.zeros((7, 7)))
    answer = reader.get(f"/images/{scan_id}/map.png")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), np.full((7, 7), 128))
    assert acts(ledger, scan_id)[0] == ("rita", "image_opened", "map")
    assert f'data-map="/images/{scan_id}/map.png"' in reader.get(f"/scans/{scan_id}").text


def test_an_image_that_is_read_blind_tells_nothing_until_the_verdict(
    review_server: ReviewServer, ledger: LedgerDriver, settings: Settings
) -> None:
    scan_id = lay(settings, ledger, probability=0.7654)
    ledger.set(scan_id, hidden_until_verdict=True)
    image_store.store_image(settings.data_dir, ledger.row(scan_id)["sha256"], IMAGE[:224, :224], np.zeros((7, 7)))
    reader = review_server.reader()
    page = reader.get(f"/scans/{scan_id}").text
    assert "76.5" not in page
    assert "mark flagged" not in page
    assert "data-map" not in page
    assert reader.get(f"/images/{scan_id}/map.png").status_code == 403
    judge(reader, scan_id)
    page = reader.get(f"/scans/{scan_id}").text
    assert "76.5" in page
    assert reader.get(f"/images/{scan_id}/map.png").status_code == 200


def test_the_page_tells_what_is_known(review_server: ReviewServer, ledger: LedgerDriver, settings: Settings) -> None:
    scan_id, other = lay(settings, ledger), lay(settings, ledger, "other.png", seed=2)
    for one in (scan_id, other):
        ledger.set(one, study_uid="1.2.3", accession_number="A-1", age_years=4.5, caution="age")
    page = review_server.reader().get(f"/scans/{scan_id}").text
    for words in ("90.0 %", "threshold 50.0 %", "flagged", "model-1", "DOE_JANE.png", "A-1", "4.5 years", "Caution",
                  f'href="/scans/{other}"', "no medical device", "classified"):  # fmt: skip
        assert words in page
    assert "cleared." in page  # only in the notice: what is not flagged is not cleared
    assert page.count("cleared") == 1
    assert acts(ledger, scan_id) == [("rita", "image_opened", "page")]


def test_a_link_leads_to_the_departments_viewer(ledger: LedgerDriver, settings: Settings) -> None:
    scan_id = lay(settings, ledger)
    ledger.set(scan_id, study_uid="1.2.3")
    linked = settings.model_copy(update={"viewer_url": "https://viewer.example/?study={study_uid}"})
    with ReviewServer(ledger.database, linked) as review_server:
        assert 'href="https://viewer.example/?study=1.2.3"' in review_server.reader().get(f"/scans/{scan_id}").text


def test_a_verdict_is_recorded_with_the_prediction_on_the_page_and_leads_to_the_next(
    review_server: ReviewServer, ledger: LedgerDriver, settings: Settings
) -> None:
    first, second = lay(settings, ledger, "1.png", 0.9, 1), lay(settings, ledger, "2.png", 0.8, 2)
    reader = review_server.reader()
    page = reader.get(f"/scans/{first}").text
    prediction = re.search(r'name="prediction" value="(\d+)"', page)
    assert prediction
    review = re.fullmatch(
        rf"/scans/{second}\?saved=(\d+)",
        judge(reader, first, "no_pneumonia", comment=" left\r\nbase\x00 ", prediction=prediction[1]),
    )
    assert review
    (row,) = ledger.database.read(lambda c: verdicts.review_history(c, first))
    assert (row["verdict"], row["reviewer"], row["comment"]) == ("no_pneumonia", "rita", "left\nbase")
    assert (row["id"], row["prediction_id"]) == (int(review[1]), int(prediction[1]))
    assert acts(ledger, first)[0] == ("rita", "verdict", "no_pneumonia")
    assert "Saved: <b>No pneumonia</b>" in reader.get(f"/scans/{second}?saved={review[1]}").text
    last = judge(reader, second)
    assert last.startswith(f"/scans/{second}?saved=")
    assert "last case" in reader.get(last).text


def test_an_image_left_for_later_is_not_offered_at_once(
    review_server: ReviewServer, ledger: LedgerDriver, settings: Settings
) -> None:
    first, second, third = (lay(settings, ledger, f"{n}.png", 0.9 - n / 10, n) for n in (1, 2, 3))
    reader = review_server.reader()
    skip = re.search(r'id="skip" href="([^"]+)"', reader.get(f"/scans/{first}").text)
    assert skip
    assert skip[1] == f"/scans/{second}?skipped={first}"
    assert judge(reader, second, skipped=str(first)).startswith(f"/scans/{third}?")


def test_a_verdict_is_taken_back(review_server: ReviewServer, ledger: LedgerDriver, settings: Settings) -> None:
    scan_id = lay(settings, ledger)
    reader = review_server.reader()
    review = judge(reader, scan_id).rpartition("=")[2]
    assert 'id="undo"' in reader.get(f"/scans/{scan_id}?saved={review}").text
    answer = reader.post(f"/scans/{scan_id}/undo", data={"review": review})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/scans/{scan_id}?undone={review}")
    assert said(ledger, scan_id) == [("rita", "pneumonia", False)]
    assert ledger.row(scan_id)["verdict"] is None
    page = reader.get(answer.headers["location"]).text
    assert "is taken back" in page
    assert 'id="undo"' not in page
    assert acts(ledger, scan_id)[1] == ("rita", "verdict_retracted", None)


def test_readers_do_not_overwrite_each_other_and_see_that_they_disagree(
    review_server: ReviewServer, ledger: LedgerDriver, settings: Settings
) -> None:
    scan_id = lay(settings, ledger)
    rita, bob = review_server.reader(), review_server.reader("bob")
    for reader in (rita, bob):
        reader.get(f"/scans/{scan_id}")
    judge(rita, scan_id, "pneumonia")
    after = judge(bob, scan_id, "no_pneumonia")
    assert said(ledger, scan_id) == [("rita", "pneumonia", True), ("bob", "no_pneumonia", True)]
    assert "rita says: Pneumonia" in bob.get(after).text
    assert "Readers disagree" in rita.get(f"/scans/{scan_id}").text
    (review, _) = ledger.database.read(lambda c: verdicts.review_history(c, scan_id))
    assert bob.post(f"/scans/{scan_id}/undo", data={"review": review["id"]}).status_code == 409
    assert said(ledger, scan_id)[0] == ("rita", "pneumonia", True)


def test_what_is_no_verdict_is_refused(review_server: ReviewServer, ledger: LedgerDriver, settings: Settings) -> None:
    scan_id = lay(settings, ledger)
    (waiting,) = ledger.add(file_version("waits.png"))
    reader = review_server.reader()
    for target, status, form in (
        (scan_id, 422, {"verdict": "ill"}),
        (scan_id, 422, {}),
        (scan_id, 422, {"verdict": "unsure", "comment": "x" * 2001}),
        (scan_id, 409, {"verdict": "unsure", "prediction": "99"}),
        (waiting, 409, {"verdict": "unsure"}),
        (99, 409, {"verdict": "unsure"}),
    ):
        assert reader.post(f"/scans/{target}/verdict", data=form).status_code == status
    assert said(ledger, scan_id) == []


def test_a_verdict_without_the_pages_token_is_refused(
    review_server: ReviewServer, ledger: LedgerDriver, settings: Settings
) -> None:
    scan_id = lay(settings, ledger)
    reader = review_server.reader()
    del reader.headers["X-CSRF-Token"]
    for form in ({"verdict": "unsure"}, {"verdict": "unsure", "csrf": "0" * 64}):
        assert reader.post(f"/scans/{scan_id}/verdict", data=form).status_code == 403
    token = re.search(r'name="csrf" value="([^"]+)"', reader.get(f"/scans/{scan_id}").text)
    assert token
    judge(reader, scan_id, csrf=token[1])
    assert len(said(ledger, scan_id)) == 1


def test_a_reviewed_image_is_kept(review_server: ReviewServer, ledger: LedgerDriver, settings: Settings) -> None:
    scan_id = lay(settings, ledger)
    judge(review_server.reader(), scan_id)
    review_server.__exit__()  # what comes after an answer is done by then
    assert image_store.load_image(settings.data_dir, ledger.row(scan_id)["sha256"]) is not None


def test_a_comment_is_text(review_server: ReviewServer, ledger: LedgerDriver, settings: Settings) -> None:
    scan_id = lay(settings, ledger, "<img src=x>.png")
    reader = review_server.reader()
    page = reader.get(judge(reader, scan_id, "unsure", comment="<script>alert(1)</script>")).text
    assert "<script>alert" not in page
    assert "<img src=x>" not in page
    assert "&lt;script&gt;" in page


def test_of_an_erased_image_the_page_shows_that_it_was_erased_and_no_more(
    review_server: ReviewServer, ledger: LedgerDriver, settings: Settings
) -> None:
    """Its file is still in the inbox, and its picture has been rendered before."""
    scan_id = lay(settings, ledger)
    reader = review_server.reader()
    judge(reader, scan_id, comment="coughs")
    assert reader.get(f"/images/{scan_id}.png").status_code == 200
    found = ledger.database.read(lambda c: erasure.find_erasure_scope(c, settings, scan_ids=[scan_id]))
    assert erasure.erase_scope(ledger.database, found, "admin") == 1

    page = reader.get(f"/scans/{scan_id}")
    assert page.status_code == 200
    assert "was erased on request" in page.text
    assert not [trace for trace in ("DOE_JANE", "coughs") if trace in page.text]
    assert reader.get(f"/images/{scan_id}.png").status_code == 404
    assert reader.get(f"/api/scans/{scan_id}").status_code == 200
    assert reader.get("/").status_code == 200
    for address in ("/all", "/unscored", "/flagged"):
        assert "DOE_JANE" not in reader.get(address).text
