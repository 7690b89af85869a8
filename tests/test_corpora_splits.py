"""Folders against official lists and group numbers: who wins, and that it is told."""

import pytest

from spikedata import find_corpus


@pytest.fixture
def root(tmp_path):
    """A folder with none beside it, where official lists would be looked for."""
    return tmp_path / "corpus"


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def splits(corpus):
    return {item.clip.id: (item.clip.label, item.clip.split) for item in corpus.clips}


def test_folders_of_ucf101_win_where_there_are_no_lists(root):
    make(
        root,
        "UCF101_subset/train/Basketball/v_Basketball_g02_c01.avi",  # a test group of split 1
        "UCF101_subset/val/Basketball/v_Basketball_g20_c01.avi",
        "UCF101_subset/test/Basketball/v_Basketball_g21_c01.avi",  # a train group
    )
    corpus = find_corpus(root)
    assert (corpus.name, splits(corpus)) == (
        "ucf101",
        {
            "v_Basketball_g02_c01": ("Basketball", "train"),
            "v_Basketball_g20_c01": ("Basketball", "validation"),
            "v_Basketball_g21_c01": ("Basketball", "test"),
        },
    )
    (note,) = [note for note in corpus.notes if "another split" in note]
    assert note.startswith("3 files in a folder of another split than the group numbers say")


def test_official_lists_win_over_folders_and_that_is_told(root):
    make(
        root,
        "train/Basketball/v_Basketball_g01_c01.avi",
        "test/Basketball/v_Basketball_g09_c01.avi",
    )
    (root / "trainlist01.txt").write_text("Basketball/v_Basketball_g09_c01.avi 1\n")
    (root / "testlist01.txt").write_text("Basketball/v_Basketball_g01_c01.avi\n")
    corpus = find_corpus(root)
    assert [item.clip.split for item in corpus.clips] == ["test", "train"]
    assert any("2 files" in note and "the official lists count" in note for note in corpus.notes)


def test_folders_of_hmdb51_count_where_there_are_no_lists(root):
    stem = "Movie_wave_u_cm_np1_fr_goo_{}"
    make(root, f"train/wave/{stem.format(0)}.avi", f"test/wave/{stem.format(1)}.avi")
    corpus = find_corpus(root)
    assert corpus.name == "hmdb51"
    assert [item.clip.split for item in corpus.clips] == ["train", "test"]


@pytest.mark.parametrize("columns", ["", ',"split": "validation"'])
def test_a_metadata_file_s_split_wins_over_the_folder(root, columns):
    make(root, "videos_train/a.mp4", "videos_test/b.mp4")
    lines = [
        f'{{"file_name": "videos_{s}/{n}.mp4"{columns}}}\n'
        for s, n in (("train", "a"), ("test", "b"))
    ]
    (root / "metadata.jsonl").write_text("".join(lines))
    want = ["validation"] * 2 if columns else ["test", "train"]
    corpus = find_corpus(root)
    assert [item.clip.split for item in corpus.clips] == want
    assert any("another split" in note for note in corpus.notes) is bool(columns)


def test_classes_named_by_folders_are_normalised_and_safe(root):
    make(root, "e\u0301te\u0301/a.mp4", "\u00e9t\u00e9/b.mp4", "ru\u202en/c.mp4", "wa\x07ve/d.mp4")
    corpus = find_corpus(root)
    assert corpus.class_names == ("ru_n", "wa_ve", "\u00e9t\u00e9")
    (note,) = [note for note in corpus.notes if "class" in note]
    assert note == "2 names of classes hold characters that are not shown, now _: ru_n, wa_ve"


def test_files_of_classes_that_were_not_chosen_are_no_failures(root):
    make(root, "run/a.mp4", "run/a.mkv", "jump/b.mp4")
    assert len(find_corpus(root).left_out) == 1
    assert find_corpus(root, classes=["jump"]).left_out == ()


def test_folders_of_pictures_with_dots_are_found_in_the_lists(root):
    stem = "A.B_wave_u_cm_np1_fr_goo_0"
    make(root, f"wave/{stem}/1.png", f"wave/{stem}/2.png")
    (root / "wave_test_split1.txt").write_text(f"{stem}.avi 1\n")
    corpus = find_corpus(root)
    assert [item.clip.split for item in corpus.clips] == ["train"]
    assert corpus.notes == ()
