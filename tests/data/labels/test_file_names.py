"""Labels in the names of image files and of their folders."""

from __future__ import annotations

import numpy as np
import pytest

from ccvae_eval.core.errors import DataError, UsageError
from ccvae_eval.data.labels.file_names import labels_from_folders, labels_from_names

UTK = (
    "26_0_2_2017.jpg",
    "61_1_2016.jpg",
    "5_0_4_2017.jpg.chip.jpg",
    "39_1__2017.jpg",
    "116_1_0_2017.jpg",
    "26_1_1_1.jpg",
)


@pytest.mark.parametrize("root", ["", "photos/", "a/b/"])
def test_the_folder_is_the_class(root):
    names = [f"{root}{kind}/{i}.png" for kind in ("cat", "dog", "eel") for i in range(2)]
    found = labels_from_folders(names, "x")
    assert found.files == tuple(names)
    assert found.schema["class"].classes == ("cat", "dog", "eel")
    assert found.labels[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert found.splits is None


def test_numbered_classes_are_sorted_by_number_and_two_stay_categorical():
    found = labels_from_folders(["10/a.png", "2/b.png", "0/sub/c.png"], "x")
    assert found.schema["class"].classes == ("0", "2", "10")
    assert found.labels[:, 0].tolist() == [2, 1, 0]
    assert labels_from_folders(["0/a.png", "1/b.png"], "x").schema["class"].kind == "categorical"


def test_outer_folders_may_be_the_splits():
    names = ["root/train/cat/1.png", "root/val/dog/1.png", "root/Test/cat/2.png"]
    found = labels_from_folders(names, "x")
    assert found.splits == ("train", "val", "Test")
    assert found.labels[:, 0].tolist() == [0, 1, 0]


def test_images_outside_of_the_classes_are_left_out():
    assert labels_from_folders(["0.png", "cat/1.png", "dog/2.png"], "x").files == ("cat/1.png", "dog/2.png")


@pytest.mark.parametrize(
    "names",
    [[], ["0.png", "1.png"], ["cat/1.png"], ["a/cat/1.png"], ["train/1.png", "test/2.png"], ["cat/1.png", "2.png"]],
)
def test_other_names_are_not_classes(names):
    assert labels_from_folders(names, "x") is None


def test_wrong_requests_and_too_many_classes():
    with pytest.raises(UsageError, match="the file names have no label 'clas'"):
        labels_from_folders(["cat/1.png", "dog/2.png"], "x", ["clas"])
    with pytest.raises(DataError, match="folders of 257 classes"):
        labels_from_folders([f"{i}/1.png" for i in range(257)], "x")


def test_labels_in_names():
    found = labels_from_names(UTK, "age_gender_race_*", "x")
    assert found.schema.names == ("age", "gender", "race")
    assert [label.kind for label in found.schema] == ["categorical", "binary", "categorical"]
    assert found.schema["age"].classes == ("5", "26", "39", "61", "116")
    assert found.schema["race"].classes == ("0", "1", "2", "4")
    wanted = [[1, 0, 2], [3, 1, np.nan], [0, 0, 3], [2, 1, np.nan], [4, 1, 0], [1, 1, 1]]
    np.testing.assert_array_equal(found.labels, wanted)
    some = labels_from_names(UTK, "age_gender_race_*", "x", ["race", "age"])
    np.testing.assert_array_equal(some.labels, np.array(wanted)[:, [2, 0]])


def test_a_third_number_makes_classes_of_a_binary_label():
    found = labels_from_names([*UTK, "61_3_20170109150557335.jpg"], "age_gender_race_*", "x")
    assert found.schema["gender"].classes == ("0", "1", "3")
    np.testing.assert_array_equal(found.labels[-1], [3, 2, np.nan])


def test_many_numbers_are_continuous():
    found = labels_from_names([f"{age}-m.png" for age in range(1, 30)], "age-*", "x")
    assert found.schema["age"].kind == "continuous"
    assert found.labels[:, 0].tolist() == list(range(1, 30))


def test_other_separators_words_and_parts_without_a_label():
    found = labels_from_names(["d/x.red.0.png", "d/y.blue.1.png", "d/z..0.png"], "*.color.on", "x")
    assert found.schema["color"].classes == ("blue", "red")
    np.testing.assert_array_equal(found.labels, [[1, 0], [0, 1], [np.nan, 0]])
    assert labels_from_names(["red.png", "blue.png"], "color", "x").labels.tolist() == [[1], [0]]


@pytest.mark.parametrize("pattern", ["*", "a_a_*", "a_b-c", "_a", "a__b", ""])
def test_malformed_patterns_are_refused(pattern):
    with pytest.raises(UsageError, match="names must be different names of labels"):
        labels_from_names(UTK, pattern, "x")


def test_names_that_do_not_fit_are_named():
    with pytest.raises(
        DataError, match=r"26_0_2_2017.jpg: the name has 4 parts, the pattern 2\nEnd the pattern with _"
    ):
        labels_from_names(UTK, "age_gender", "x")
    with pytest.raises(UsageError, match="no label 'sex'"):
        labels_from_names(UTK, "age_gender_*", "x", ["sex"])
