"""Folders that name splits, wrap others, or are classes: whatever way they are nested."""

import pytest

from spikedata.corpora.places import find_places, named_split


def told(*paths):
    """Split and class of each path."""
    places = find_places(path.split("/") for path in paths)
    return [(p.split, p.folders[0] if p.folders else None) for p in places.of.values()]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("videos_train", "train"),
        ("train_256", "train"),
        ("kinetics400_val", "validation"),
        ("TestSet", "test"),
        ("UCF101-test", "test"),
        ("valid2", "validation"),
        ("dev", "validation"),
        ("trainval", None),
        ("train_val", None),
        ("strain", None),
        ("contest", None),
        ("run", None),
    ],
)
def test_a_name_holds_a_split_as_a_word(name, split):
    found = named_split(name)
    assert (found[0] if found else None) == split


def test_split_folders_stand_above_the_class_or_in_it():
    assert told("train/run/a.mp4", "test/run/b.mp4") == [("train", "run"), ("test", "run")]
    assert told("run/train/a.mp4", "run/test/b.mp4") == [("train", "run"), ("test", "run")]
    assert told("run/train/a.mp4", "wave/train/b.mp4") == [("train", "run"), ("train", "wave")]


def test_prefixes_and_suffixes_are_understood():
    assert told("videos_train/run/a.mp4", "videos_val/run/b.mp4") == [
        ("train", "run"),
        ("validation", "run"),
    ]
    assert told("train_256/run/a.mp4", "test_256/run/b.mp4") == [("train", "run"), ("test", "run")]
    assert told("videos_train/run/a.mp4", "videos_train/wave/b.mp4") == [
        ("train", "run"),
        ("train", "wave"),
    ]


def test_classes_that_hold_such_words_stay_classes():
    assert told("test_drive/a.mp4", "train_ride/b.mp4") == [
        (None, "test_drive"),
        (None, "train_ride"),
    ]
    assert told("training/a.mp4", "walking/b.mp4") == [(None, "training"), (None, "walking")]
    assert told("test_drive/a.mp4", "test_drive/b.mp4") == [(None, "test_drive")] * 2


def test_other_folders_beside_two_splits_are_classes_of_their_own():
    assert told("train/run/a.mp4", "test/run/b.mp4", "extra/run/c.mp4") == [
        ("train", "run"),
        ("test", "run"),
        (None, "extra"),
    ]


def test_a_folder_that_holds_all_others_is_no_class():
    assert told("UCF-101/run/a.mp4", "UCF-101/wave/b.mp4") == [(None, "run"), (None, "wave")]
    assert told("set/videos/train/run/a.mp4", "set/videos/test/run/b.mp4") == [
        ("train", "run"),
        ("test", "run"),
    ]
    assert told("train/videos/run/a.mp4", "test/videos/wave/b.mp4") == [
        ("train", "run"),
        ("test", "wave"),
    ]
    assert told("run/a.mp4", "run/b.mp4") == [(None, "run")] * 2
    assert find_places([("UCF-101", "run", "a.mp4"), ("UCF-101", "wave", "b.mp4")]).notes


def test_a_lone_split_folder_is_a_split():
    assert told("train/a.mp4", "train/b.mp4") == [("train", None)] * 2
    assert told("train/run/a.mp4", "train/wave/b.mp4") == [("train", "run"), ("train", "wave")]


def test_files_beside_a_wrapper_do_not_make_it_a_class():
    assert told("UCF-101/run/a.mp4", "UCF-101/wave/b.mp4", "loose.mp4") == [
        (None, "run"),
        (None, "wave"),
        (None, None),
    ]
    assert told("run/day/a.mp4", "run/b.mp4") == [(None, "run")] * 2


@pytest.mark.parametrize(
    ("paths", "note"),
    [
        (
            ["test_drive/one/a.mp4", "test_drive/two/b.mp4"],
            "folder 'test_drive' stands alone and holds only folders: split test, no class",
        ),
        (
            ["train/run/a.mp4", "eval/run/b.mp4"],
            "folder 'train' is called as a split and taken as a class: "
            "no folder beside it names another split",
        ),
    ],
)
def test_what_may_be_meant_otherwise_is_told(paths, note):
    assert find_places(path.split("/") for path in paths).notes == [note]
