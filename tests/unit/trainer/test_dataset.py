import hashlib
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support import dicom_files

from pneumowatch.errors import TrainingError
from pneumowatch.imaging.reader import read_pixels
from pneumowatch.settings import Settings
from trainer import dataset
from trainer.dataset import SPLITS, PatientIdRule, patient_of, split_of

SIDE = 8
PATIENTS = st.one_of(
    st.integers(0, 9999).map("person{}".format),
    st.integers(0, 9999).map("IM-{:04}".format),
    st.integers(0, 9999).map("NORMAL2-IM-{:04}".format),
)
ENDINGS = {"person": "_{0}_{1}.jpeg", "IM": "-{1:04}.jpeg", "NORMAL2": "-{1:04}-{2:04}.jpeg"}


def name_of(patient: str, kind: str, number: int, part: int) -> str:
    ending = next(ending for start, ending in ENDINGS.items() if patient.startswith(start))
    return patient + ending.format(kind, number, part)


def image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 40), np.uint8)).save(path, "PNG")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    image(tmp_path / "NORMAL" / "IM-0115-0001.jpeg", 1)
    image(tmp_path / "NORMAL" / "NORMAL2-IM-0383-0001-0002.jpeg", 2)
    image(tmp_path / "PNEUMONIA" / "person63_bacteria_306.jpeg", 3)
    image(tmp_path / "PNEUMONIA" / "person63_virus_307.jpeg", 4)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("person63_bacteria_306.jpeg", "person63"),
        ("person63_virus_7.jpeg", "person63"),
        ("person630_virus_7.jpeg", "person630"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("IM-0115-0001-0002.jpeg", "IM-0115"),
        ("NORMAL2-IM-0383-0001-0002.jpeg", "NORMAL2-IM-0383"),
        ("someone else.png", "someone else"),
        ("person.png", "person"),
    ],
)
def test_the_patient_is_read_from_the_name(name: str, patient: str) -> None:
    assert patient_of(name) == patient


@pytest.mark.parametrize("patient", ["person63", "IM-0115", "NORMAL2-IM-0383"])
def test_the_split_follows_the_hash(patient: str) -> None:
    number = int(hashlib.sha256(b"pneumowatch-1:" + patient.encode()).hexdigest(), 16) % 10
    assert split_of(patient) == {0: "test", 1: "validation"}.get(number, "train")


@given(
    PATIENTS, st.lists(st.tuples(st.sampled_from(["virus", "bacteria"]), st.integers(0, 9999), st.integers(0, 9999)))
)
def test_all_images_of_a_patient_are_in_one_split(patient: str, images: list[tuple[str, int, int]]) -> None:
    names = [name_of(patient, *parts) for parts in images]
    assert {patient_of(name) for name in names} <= {patient}
    assert {split_of(patient_of(name)) for name in names} <= {split_of(patient)}


@given(st.lists(st.tuples(PATIENTS, st.integers(0, 99)), max_size=60))
def test_no_patient_is_in_two_splits(images: list[tuple[str, int]]) -> None:
    splits = defaultdict(set)
    for patient, number in images:
        splits[patient].add(split_of(patient_of(name_of(patient, "virus", number, 1))))
    assert all(len(seen) == 1 and seen <= set(SPLITS) for seen in splits.values())


def test_about_a_tenth_is_for_the_test_and_a_tenth_for_validation() -> None:
    splits = [split_of(f"person{number}") for number in range(3000)]
    assert 250 < splits.count("test") < 350
    assert 250 < splits.count("validation") < 350


def test_images_are_read_as_everywhere_else(folder: Path) -> None:
    read = dataset.read_dataset(folder, SIDE)
    assert [(one.patient, one.label) for one in read.images] == [
        ("IM-0115", 0), ("NORMAL2-IM-0383", 0), ("person63", 1), ("person63", 1),
    ]  # fmt: skip
    data = (folder / "NORMAL" / "IM-0115-0001.jpeg").read_bytes()
    assert np.array_equal(read.images[0].pixels, read_pixels(data, SIDE))
    assert read.images[0].sha256 == hashlib.sha256(data).hexdigest()
    assert read.left_out == ()


def test_examples_and_counts_agree(folder: Path) -> None:
    read = dataset.read_dataset(folder, SIDE)
    split = split_of("person63")
    examples = read.examples(split)
    ill = examples.patients == "person63"
    assert examples.pixels.shape == (len(examples), SIDE, SIDE, 1)
    assert examples.pixels.dtype == np.uint8
    assert examples.labels[ill].tolist() == [1, 1]
    assert read.counts()[split]["PNEUMONIA"] == {"images": 2, "patients": 1}
    assert sum(of["images"] for classes in read.counts().values() for of in classes.values()) == 4


def test_a_split_without_images_has_arrays_of_the_right_shape(folder: Path) -> None:
    empty = next(split for split in SPLITS if not dataset.read_dataset(folder, SIDE).examples(split))
    assert dataset.read_dataset(folder, SIDE).examples(empty).pixels.shape == (0, SIDE, SIDE, 1)


def test_what_cannot_be_read_is_left_out_and_named(folder: Path) -> None:
    before = dataset.read_dataset(folder, SIDE)
    (folder / "NORMAL" / "IM-0001-0001.jpeg").write_bytes(b"")
    (folder / "NORMAL" / "IM-0002-0001.jpeg").write_text("no image")
    (folder / "NORMAL" / ".DS_Store").write_text("the set's archive has these")
    read = dataset.read_dataset(folder, SIDE)
    assert [(one.path.name, one.reason) for one in read.left_out] == [
        ("IM-0001-0001.jpeg", "empty"), ("IM-0002-0001.jpeg", "unsupported"),
    ]  # fmt: skip
    assert len(read.images) == 4
    assert read.fingerprint == before.fingerprint


def test_the_fingerprint_is_of_contents_and_labels(folder: Path) -> None:
    before = dataset.read_dataset(folder, SIDE).fingerprint
    (folder / "NORMAL" / "IM-0115-0001.jpeg").rename(folder / "NORMAL" / "zzz.png")
    assert dataset.read_dataset(folder, SIDE).fingerprint == before
    (folder / "NORMAL" / "zzz.png").rename(folder / "PNEUMONIA" / "zzz.png")
    assert dataset.read_dataset(folder, SIDE).fingerprint != before


def test_a_missing_or_empty_class_is_an_error(folder: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be read"):
        dataset.read_dataset(folder / "NORMAL", SIDE)
    for path in (folder / "PNEUMONIA").iterdir():
        path.write_bytes(b"")
    with pytest.raises(TrainingError, match="no image that can be read"):
        dataset.read_dataset(folder, SIDE)


@pytest.mark.parametrize(
    "names",
    [
        ("NORMAL_ALL/IM-0001-0001.jpeg", "PNEUMONIA_ALL/person1_virus_1.jpeg"),
        ("train/NORMAL/IM-0001-0001.jpeg", "test/PNEUMONIA/person1_virus_1.jpeg", "val/NORMAL/IM-0003-0001.jpeg"),
        ("NORMAL/IM-0001-0001.jpeg", "PNEUMONIA/person1_virus_1.jpeg"),
    ],
)
def test_the_seeds_layouts_are_read_and_their_own_split_is_not(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        image(tmp_path / name, number)
    read = dataset.read_dataset(tmp_path, SIDE)
    assert {one.path for one in read.images} == {tmp_path / name for name in names}
    assert all((one.label == 1) == ("PNEUMONIA" in str(one.path)) for one in read.images)
    assert read.splits == tuple(split_of(one.patient) for one in read.images)


def test_one_class_is_enough_where_nothing_is_learned(folder: Path) -> None:
    (folder / "NORMAL").rename(folder / "elsewhere")
    assert [one.label for one in dataset.read_dataset(folder, SIDE, require_both_classes=False).images] == [1, 1]
    with pytest.raises(TrainingError, match="cannot be read"):
        dataset.read_dataset(folder, SIDE)


@pytest.mark.parametrize(
    ("pattern", "patient"), [(r"site-(\d+)", "17"), (r"site-\d+", "site-17"), (r"nobody", "b_site-17_x")]
)
def test_the_patient_is_found_by_any_pattern(pattern: str, patient: str) -> None:
    assert patient_of("b_site-17_x.png", re.compile(pattern)) == patient


def test_the_patient_of_a_dicom_image_is_in_its_header(folder: Path) -> None:
    values = np.random.default_rng(9).integers(0, 256, (40, 40)).astype(np.uint8)
    for number, patient in enumerate(("P1", "P1", "P2")):
        path = folder / "NORMAL" / f"IM-{number:04}-0001.dcm"
        path.write_bytes(dicom_files.make_dicom(np.roll(values, 7 * number, 0), PatientID=patient))
    told = [one.patient for one in dataset.read_dataset(folder, SIDE).images if one.path and one.path.suffix == ".dcm"]
    other = [one.patient for one in dataset.read_dataset(folder, SIDE, PatientIdRule(key=b"k" * 32)).images[:3]]
    assert told[0] == told[1] != told[2]
    assert "P1" not in told
    assert not set(told) & set(other)


def card_of(read: dataset.Dataset) -> dict[str, Any]:
    return {"data": {"patients": read.patient_rule.card_entry(read.keyed)}}


def test_the_splits_of_a_models_patients_outlive_a_sites_own_pattern(tmp_path: Path) -> None:
    """A site's pattern may match the Kermany set's names, or none of them: its patients keep their ids."""
    settings = Settings(data_dir=tmp_path)
    for pattern in (r"^([A-Z]+_[A-Z]+)_", r"^(.+?)-", r"."):
        naming = PatientIdRule.from_card({}, settings, pattern)
        for name in ("person12_virus_3.jpeg", "IM-0115-0001.jpeg", "NORMAL2-IM-1427-0001.jpeg"):
            assert naming.patient(name) == patient_of(name), pattern
    assert PatientIdRule.from_card({}, settings, r"^([A-Z]+_[A-Z]+)_").patient("DOE_JOHN_1.png") == "DOE_JOHN"
    assert PatientIdRule.from_settings(settings, r"^(\w+?)_").patient("person12_virus_3.jpeg") == "person12"
    assert PatientIdRule.from_settings(settings, r"nobody").patient("IM-0115-0001.jpeg") == "IM-0115", (
        "where it matches none"
    )


def test_patients_told_apart_otherwise_than_for_the_training(folder: Path) -> None:
    image(folder / "NORMAL" / "DOE_JOHN_1.jpeg", 11)
    plain = dataset.read_dataset(folder, SIDE)
    site = dataset.read_dataset(
        folder, SIDE, PatientIdRule((re.compile(r"^([A-Z]+_[A-Z]+)_"), *plain.patient_rule.patterns))
    )
    assert not plain.split_mismatch({})
    assert not plain.split_mismatch(card_of(plain))
    assert not site.split_mismatch({}), "a model of the Kermany set knows nothing of the site's images"
    assert site.split_mismatch(card_of(plain)), "it may have learned from the patient's other images"
    assert not site.split_mismatch(card_of(site))
    assert dataset.read_dataset(folder, SIDE, PatientIdRule((re.compile("nobody"),))).split_mismatch({})


def test_a_card_whose_pattern_is_none_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for patterns in (["("], [7]):
        with pytest.raises(TrainingError, match="not a regular expression"):
            PatientIdRule.from_card({"data": {"patients": {"patterns": patterns}}}, Settings(data_dir=tmp_path))


def test_patients_under_another_key_than_for_the_training(folder: Path) -> None:
    values = np.random.default_rng(9).integers(0, 256, (40, 40)).astype(np.uint8)
    (folder / "NORMAL" / "a.dcm").write_bytes(dicom_files.make_dicom(values, PatientID="P1"))
    own, other = (dataset.read_dataset(folder, SIDE, PatientIdRule(key=letter * 32)) for letter in (b"k", b"l"))
    assert own.keyed
    assert not own.split_mismatch(card_of(own))
    assert own.split_mismatch(card_of(other))
    (folder / "NORMAL" / "a.dcm").unlink()
    without = dataset.read_dataset(folder, SIDE, PatientIdRule(key=b"l" * 32))
    assert not without.split_mismatch(card_of(own)), "no patient is told by a header"
    assert card_of(without)["data"]["patients"]["key"] is None


def test_copies_under_two_names_stand_in_one_split_the_furthest_held_out(folder: Path) -> None:
    of = {split: next(f"person{n}" for n in range(99) if split_of(f"person{n}") == split) for split in SPLITS}
    for split in SPLITS:
        image(folder / "PNEUMONIA" / f"{of[split]}_virus_1.jpeg", 11)
    image(folder / "PNEUMONIA" / f"{of['train']}_virus_2.jpeg", 12)  # another image of one of them comes along
    read = dataset.read_dataset(folder, SIDE)
    found = {one.path.name: split for one, split in zip(read.images, read.splits, strict=True) if one.path}
    assert {found[f"{of[split]}_virus_1.jpeg"] for split in SPLITS} == {"test"}
    assert found[f"{of['train']}_virus_2.jpeg"] == "test"
    assert read.duplicates() == {"exact": 2, "near": 0, "across_patients": 2, "across_classes": 0}


def test_images_from_elsewhere_stand_beside_those_of_a_folder(folder: Path) -> None:
    read = dataset.read_dataset(folder, SIDE)
    pixels = np.random.default_rng(5).integers(0, 256, (SIDE, SIDE), np.uint8)
    other = dataset.Dataset((dataset.LabelledImage("a", 1, "0" * 64, pixels),), (), SIDE)
    both = read + other
    assert len(both.examples("all")) == 5
    assert both.fingerprint != read.fingerprint
    with pytest.raises(TrainingError, match="together"):
        read + dataset.Dataset((), (), SIDE + 1)


def test_the_originals_are_found_in_their_small_form_and_no_other_patient_is(images: Path) -> None:
    small, large = (dataset.read_dataset(images / name, 64) for name in ("kermany-224", "originals"))
    both = small + large
    assert small.duplicates() == {"exact": 25, "near": 0, "across_patients": 0, "across_classes": 0}
    assert both.duplicates()["across_patients"] == 0
    count = len(small.images)
    names = [one.path.stem for one in both.images if one.path]
    crossing = {b: names[a] for a, b in both.duplicate_pairs.near if a < count <= b}
    assert set(crossing) == set(range(count, count + 300))
    assert all(
        {names[a] for a, other in both.duplicate_pairs.near if other == b} >= {names[b]} for b in list(crossing)[:50]
    )


def test_real_images_have_no_patient_twice(images: Path) -> None:
    names = [path.name for path in (images / "kermany-224").glob("*/*")]
    patients = defaultdict(set)
    for name in names:
        patients[split_of(patient_of(name))].add(patient_of(name))
    assert len(names) == 4693
    assert not patients["train"] & patients["test"]
    assert not patients["train"] & patients["validation"]
    assert not patients["test"] & patients["validation"]
    assert all(patient_of(name) != Path(name).stem for name in names)
