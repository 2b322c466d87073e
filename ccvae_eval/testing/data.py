"""The contract of data sets: an image is a function of its id, labels keep their kind, splits are disjoint."""

from __future__ import annotations

import re

import numpy as np
import torch

from ccvae_eval.core.errors import LabelMismatchError, UsageError, require
from ccvae_eval.core.types import Ids, Images
from ccvae_eval.data.interface import (
    SPLITS,
    DataSet,
    HasCounterfactuals,
    HasFactors,
    HasRedraws,
    HasRegions,
    HasVariety,
)

SOME = 6
"""Images looked at; a contract is about their form, not about their number."""

UNKNOWN_OPTION = "no_such_option"


def check_data_set(data: DataSet) -> None:
    """Checks one data set on a few of its images; returns if it keeps the contract.

    Args:
        data: any data set with at least two images.

    Raises:
        ContractBroken: naming the data set and what it does not keep.
    """
    who = type(data).__name__
    require(isinstance(data, DataSet), who, "a data set has every member of ccvae_eval.data.interface.DataSet")
    require(len(data) > 1, who, "the check needs at least two images")
    require(re.fullmatch(r"[0-9a-f]{8,}", data.digest) is not None, who, "digest is hexadecimal")
    require(len(data.input_shape) in (1, 3), who, "input_shape is (C, H, W) or (D,)")
    ids = np.unique(np.linspace(0, len(data) - 1, SOME).astype(np.int64))
    _check_batch(data, ids, who)
    _check_splits(data, who)
    _check_extras(data, ids, who)
    try:
        type(data).from_spec(None, {UNKNOWN_OPTION: "1"})
    except UsageError:
        return
    except Exception as error:
        require(False, who, f"an unknown option of the spec is a UsageError, not {type(error).__name__}: {error}")
    require(False, who, "an unknown option of the spec is a UsageError, not ignored")


def _check_images(images: Images, count: int, data: DataSet, who: str, what: str) -> None:
    shape = (count, *data.input_shape)
    require(tuple(images.shape) == shape, who, f"{what} has shape {shape}, not {tuple(images.shape)}")
    require(images.dtype == torch.float32, who, f"{what} is float32, not {images.dtype}")
    require(bool(torch.isfinite(images).all()), who, f"{what} is finite")
    if len(data.input_shape) == 3:
        require(bool((images >= 0).all() and (images <= 1).all()), who, f"{what} is in [0, 1]")


def _check_batch(data: DataSet, ids: Ids, who: str) -> None:
    batch = data.batch(ids)
    _check_images(batch.images, len(ids), data, who, "batch")
    require(bool(np.array_equal(batch.ids, ids)), who, "batch names the ids it was asked for, in that order")
    require(batch.labels.dtype == torch.float32, who, "labels are float32")
    try:
        data.schema.validate(batch.labels, who)
    except LabelMismatchError as error:
        require(False, who, f"labels keep their kind: {error}")
    alone = torch.from_numpy(np.asarray(data.labels_of(ids)))
    require(bool(torch.equal(alone.nan_to_num(-1), batch.labels.nan_to_num(-1))), who, "labels_of agrees with batch")
    again = data.batch(ids[::-1].copy())
    require(bool(torch.equal(again.images.flip(0), batch.images)), who, "an image depends on its id alone")
    one = data.batch(ids[-1:])
    require(bool(torch.equal(one.images, batch.images[-1:])), who, "an image does not depend on its batch")
    require(len(data.batch(ids[:0])) == 0, who, "a batch of no ids is empty")


def _check_splits(data: DataSet, who: str) -> None:
    seen: set[int] = set()
    for name in SPLITS:
        ids = data.split(name)
        require(bool((np.diff(ids) > 0).all()), who, f"split {name!r} is ascending, without repetition")
        inside = not len(ids) or (ids[0] >= 0 and ids[-1] < len(data))
        require(bool(inside), who, f"split {name!r} has ids of this data set")
        shared = seen.intersection(map(int, ids))
        require(not shared, who, f"splits are disjoint, image {min(shared, default=0)} is in {name!r} and another")
        seen |= set(map(int, ids))
    require(bool(len(data.split("test"))), who, "split 'test' is not empty")


def _check_extras(data: DataSet, ids: Ids, who: str) -> None:
    if isinstance(data, HasFactors):
        shape = (len(ids), len(data.factor_names))
        require(np.asarray(data.factors(ids)).shape == shape, who, f"factors have shape {shape}")
    for label in data.schema:
        if isinstance(data, HasRegions):
            _check_region(data, ids, label.name, data.input_shape, who)
        if label.kind == "continuous":
            continue
        value = np.ones(len(ids), np.float32)
        if isinstance(data, HasCounterfactuals):
            _check_images(data.with_attribute(ids, label.name, value), len(ids), data, who, "with_attribute")
        if isinstance(data, HasRedraws):
            drawn = data.redraw(ids, label.name, value, 0)
            _check_images(drawn, len(ids), data, who, "redraw")
            require(bool(torch.equal(drawn, data.redraw(ids, label.name, value, 0))), who, "a redraw keeps its number")
        if isinstance(data, HasVariety):
            shape = (len(ids), len(data.variety_names(label.name)))
            variety = data.variety(ids, label.name)
            require(variety.shape == shape, who, f"variety of {label.name!r} has shape {shape}, not {variety.shape}")
            own = data.with_variety(ids, {}, {label.name: variety})
            require(bool(torch.equal(own, data.batch(ids).images)), who, "an image's own variety gives the image back")


def _check_region(data: HasRegions, ids: Ids, label: str, shape: tuple[int, ...], who: str) -> None:
    found = data.region(ids, label)
    if found is None:
        return
    expected = (len(ids), *shape[1:])
    require(found.shape == expected, who, f"region of {label!r} has shape {expected}, not {found.shape}")
    require(found.dtype == np.bool_, who, f"region of {label!r} is boolean")
    require(bool(data.region_source), who, "region_source says where regions come from")
