"""Clips and their ids, which become path names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.clip import Clip, check_clip_id, check_distinct_ids


@pytest.mark.parametrize(
    "clip_id",
    ["", ".", "..", ".hidden", "a/b", "a\\b", "../up", "a\nb", "a\0b", "C:x", "x ", "x.", "e\u0301",
     "\u202egpj.exe", "x" * 201],
)  # fmt: skip
def test_ids_that_could_leave_their_folder_or_clash_are_refused(clip_id):
    with pytest.raises(ValueError, match="clip id"):
        Clip(id=clip_id)


@pytest.mark.parametrize(
    "clip_id", ["v_PullUps_g01_c01", "(HQ)_#437_kick_ball&x", "手を振る", "a.b"]
)
def test_ordinary_names_are_ids(clip_id):
    assert check_clip_id(clip_id) == clip_id


def test_ids_that_differ_only_in_case_are_refused():
    with pytest.raises(ValueError, match="'Wave' and 'wave' would be one file"):
        check_distinct_ids(["Wave", "jump", "wave"])
    with pytest.raises(ValueError, match="'wave' and 'wave' would be one file"):
        check_distinct_ids(["wave", "jump", "wave"])
    check_distinct_ids(["wave", "jump"])


@pytest.mark.parametrize("split", ["../../../x/here", "training", "", "Train"])
def test_a_split_is_one_of_three(split):
    with pytest.raises(ValueError, match="is none of train, validation, test"):
        Clip(id="c", split=split)


@given(
    st.builds(
        Clip,
        id=st.just("c"),
        label=st.none() | st.text(),
        captions=st.lists(st.text(), max_size=3).map(tuple),
        split=st.sampled_from([None, "train", "test"]),
        group=st.none() | st.text(),
        licence=st.none() | st.text(),
        source=st.dictionaries(st.text(), st.integers() | st.text()),
    )
)
def test_a_clip_survives_its_dictionary(clip):
    assert Clip.from_dict(clip.to_dict()) == clip
