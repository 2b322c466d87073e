"""The validation split, the labelled images and p(y)."""

from __future__ import annotations

import numpy as np
import pytest

from ccvae_eval.core.errors import DataError, LabelMismatchError, UsageError
from ccvae_eval.model.interface import Label, LabelSchema
from ccvae_eval.training.settings import TrainingSettings
from ccvae_eval.training.supervision import Supervision, refuse_constant_labels, supervise
from tests.support.clouds import SCHEMA, Clouds


def supervision_of(data: Clouds | None = None, **options: float) -> Supervision:
    return supervise(data or Clouds(), SCHEMA, TrainingSettings(**options))  # type: ignore[arg-type]


def test_the_parts_of_the_train_split_are_disjoint_and_complete() -> None:
    found = supervision_of(validation=0.2)
    assert len(found.validation) == 20
    assert sorted([*found.train, *found.validation]) == list(range(100))
    assert not len(supervision_of(validation=0).validation)
    assert len(supervision_of(validation=0.001).validation) == 1


@pytest.mark.parametrize(("rate", "count"), [(0.0, 0), (0.001, 1), (0.2, 19), (1.0, 95)])
def test_a_rate_labels_its_share_of_images(rate: float, count: int) -> None:
    found = supervision_of(rate=rate)
    assert found.labelled.sum() == count
    labels = found.labels[found.labelled]
    assert np.array_equal(labels, Clouds().labels_of(found.train[found.labelled]))
    assert np.isnan(found.labels[~found.labelled]).all()


def test_labelled_images_are_nested_over_rates_and_differ_between_seeds() -> None:
    low, high, other = supervision_of(rate=0.1), supervision_of(rate=0.5), supervision_of(rate=0.1, seed=1)
    assert bool((high.labelled | ~low.labelled).all())
    assert set(other.train[other.labelled]) != set(low.train[low.labelled])
    assert low.digest != high.digest
    assert low.digest == supervision_of(rate=0.1).digest


def test_label_prior_is_the_frequency_among_labelled_images() -> None:
    found = supervision_of(rate=0.3)
    labels = found.labels[found.labelled]
    assert found.label_prior[0][1] == pytest.approx(labels[:, 0].mean())
    assert found.label_prior[1] == pytest.approx([(labels[:, 1] == k).mean() for k in range(3)])
    assert supervision_of(rate=0).label_prior == ((0.5, 0.5), pytest.approx((1 / 3, 1 / 3, 1 / 3)))


def test_missing_labels_do_not_enter_the_label_prior() -> None:
    labels = Clouds().labels.copy()
    labels[::2, 0] = np.nan
    found = supervision_of(Clouds(labels=labels))
    seen = found.labels[~np.isnan(found.labels[:, 0]), 0]
    assert found.label_prior[0][1] == pytest.approx(seen.mean())
    assert found.labelled.all(), "the other label is known"


def test_label_noise_replaces_its_share_by_other_classes() -> None:
    data = Clouds(4010)
    clean, noisy = supervision_of(data), supervision_of(data, label_noise=0.2)
    for column, classes in enumerate((2, 3)):
        wrong = clean.labels[:, column] != noisy.labels[:, column]
        assert wrong.mean() == pytest.approx(0.2, abs=4 * (0.16 / len(wrong)) ** 0.5)
        assert set(np.unique(noisy.labels[:, column])) == set(range(classes))
    everything = supervision_of(data, label_noise=1.0)
    assert (everything.labels != clean.labels).all()
    assert np.isnan(supervision_of(data, label_noise=0.5, rate=0.1).labels).any()


def test_a_subset_of_labels_selects_its_columns() -> None:
    schema = LabelSchema((SCHEMA["Height"],))
    found = supervise(Clouds(), schema, TrainingSettings())
    assert np.array_equal(found.labels[:, 0], Clouds().labels_of(found.train)[:, 1])


def test_labels_that_do_not_match_the_data_are_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean 'Right'"):
        supervise(Clouds(), LabelSchema((Label("Rihgt"),)), TrainingSettings())
    with pytest.raises(LabelMismatchError, match="Height"):
        supervise(Clouds(), LabelSchema((Label("Height"),)), TrainingSettings())


def test_an_empty_training_part_is_refused() -> None:
    with pytest.raises(DataError, match="0 images in the train split"):
        supervision_of(Clouds(5))
    with pytest.raises(DataError, match="1 images in the train split, 1 of them for validation"):
        supervision_of(Clouds(11))


@pytest.mark.parametrize(("values", "message"), [(1.0, "'Right' is 1 in all 95"), (np.nan, "'Right' is missing")])
def test_a_constant_label_is_refused(values: float, message: str) -> None:
    labels = Clouds().labels.copy()
    labels[:, 0] = values
    with pytest.raises(DataError, match=message):
        refuse_constant_labels(supervision_of(Clouds(labels=labels)))
    refuse_constant_labels(supervision_of())


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"batch": 0},
        {"rate": 1.5},
        {"rate": float("nan")},
        {"label_noise": -0.1},
        {"learning_rate": 0.0},
        {"validation": 1.0},
        {"average": 1.0},
        {"patience": 3, "validation": 0.0},
        {"minutes": -1.0},
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        TrainingSettings(**options)  # type: ignore[arg-type]
