"""Conformance tests of data sets: images depend on their id alone, labels have their kind, splits are disjoint."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.errors import LabelMismatchError, UsageError, require
from ccvae_eval.core.types import Ids
from ccvae_eval.data.interface import (
    SPLITS,
    DataSet,
    HasCounterfactuals,
    HasFactors,
    HasRedraws,
    HasRegions,
    HasVariety,
    Renders,
)
from ccvae_eval.model.interface import supports, type_name

IMAGES = 6
UNKNOWN_OPTION = "no_such_option"


def check_data_set(data: DataSet) -> None:
    """Tests one data set on a few of its images.

    Args:
        data: any data set with at least two images.

    Raises:
        ContractBroken: a test fails; the message names the data set and the requirement.
    """
    who = type_name(data)
    require(supports(data, DataSet), who, "a data set must have every member of ccvae_eval.data.interface.DataSet")
    require(len(data) > 1, who, "a data set must have at least two images for this test")
    require(re.fullmatch(r"[0-9a-f]{8,}", data.digest) is not None, who, "digest must be hexadecimal")
    require(len(data.input_shape) in (1, 3), who, "input_shape must be (C, H, W) or (D,)")
    ids = np.unique(np.linspace(0, len(data) - 1, IMAGES).astype(np.int64))
    _check_batch(data, ids, who)
    _check_splits(data, who)
    _check_extras(data, ids, who)
    try:
        type(data).from_spec(None, {UNKNOWN_OPTION: "1"})
    except UsageError:
        return
    except Exception as error:
        text = f"an unknown option of the spec must raise a UsageError, got {type(error).__name__}: {error}"
        require(False, who, text)
    require(False, who, "an unknown option of the spec must raise a UsageError")


def require_shape(found: Tensor, shape: tuple[int, ...], who: str, what: str) -> None:
    require(tuple(found.shape) == shape, who, f"{what} must have shape {shape}, got {tuple(found.shape)}")


def require_numbers(numbers: Tensor, shape: tuple[int, ...], who: str, what: str) -> None:
    """Requires finite float32 numbers of a shape."""
    require_shape(numbers, shape, who, what)
    require(numbers.dtype == torch.float32, who, f"{what} must be float32, got {numbers.dtype}")
    require(bool(torch.isfinite(numbers).all()), who, f"{what} must be finite")


def require_images(images: Tensor, shape: tuple[int, ...], who: str, what: str) -> None:
    """Requires images in [0, 1], shape (N, C, H, W), or points, shape (N, D)."""
    require_numbers(images, shape, who, what)
    if len(shape) == 4:
        require(bool((images >= 0).all() and (images <= 1).all()), who, f"{what} must be in [0, 1]")


def _check_batch(data: DataSet, ids: Ids, who: str) -> None:
    batch = data.batch(ids)
    require_images(batch.images, (len(ids), *data.input_shape), who, "batch(ids).images")
    require(bool(np.array_equal(batch.ids, ids)), who, "batch(ids).ids must be the requested ids, in that order")
    require(batch.labels.dtype == torch.float32, who, "labels must be float32")
    try:
        data.schema.validate(batch.labels, who)
    except LabelMismatchError as error:
        require(False, who, f"labels must be values of their kind: {error}")
    labels = torch.from_numpy(np.asarray(data.labels_of(ids)))
    same = torch.equal(labels.nan_to_num(-1), batch.labels.nan_to_num(-1))
    require(bool(same), who, "labels_of(ids) must equal batch(ids).labels")
    reversed_batch = data.batch(ids[::-1].copy())
    require(bool(torch.equal(reversed_batch.images.flip(0), batch.images)), who, "an image must depend on its id alone")
    single = data.batch(ids[-1:])
    require(bool(torch.equal(single.images, batch.images[-1:])), who, "an image must not depend on its batch")
    require(len(data.batch(ids[:0])) == 0, who, "a batch of no ids must be empty")


def _check_splits(data: DataSet, who: str) -> None:
    seen: set[int] = set()
    for name in SPLITS:
        ids = data.split(name)
        require(bool((np.diff(ids) > 0).all()), who, f"split {name!r} must be ascending, without repetition")
        inside = not len(ids) or (ids[0] >= 0 and ids[-1] < len(data))
        require(bool(inside), who, f"split {name!r} must contain only ids of this data set")
        shared = seen.intersection(map(int, ids))
        text = f"splits must be disjoint, image {min(shared, default=0)} is in {name!r} and in another split"
        require(not shared, who, text)
        seen |= set(map(int, ids))
    require(bool(len(data.split("test"))), who, "split 'test' must not be empty")


def _check_extras(data: DataSet, ids: Ids, who: str) -> None:
    if supports(data, HasFactors):
        table = (len(ids), len(data.factor_names))
        require(np.asarray(data.factors(ids)).shape == table, who, f"factors must have shape {table}")
    if supports(data, Renders) and not np.isnan(labels := data.labels_of(ids)).any():
        same = torch.equal(data.render(data.factors(ids), labels), data.batch(ids).images)
        require(bool(same), who, "render must reproduce an image from its own factors and labels")
    for label in data.schema:
        if supports(data, HasRegions):
            _check_region(data, ids, label.name, data.input_shape, who)
        value, shape = np.ones(len(ids), np.float32), (len(ids), *data.input_shape)
        if label.kind == "continuous":
            known = data.labels_of(ids)[:, data.schema.index(label.name)]
            if np.isnan(known).all():
                continue
            value = np.where(np.isnan(known), np.nanmedian(known), known).astype(np.float32)
        if supports(data, HasCounterfactuals):
            require_images(data.with_attribute(ids, label.name, value), shape, who, "with_attribute")
        if supports(data, HasRedraws):
            redrawn = data.redraw(ids, label.name, value, 0)
            require_images(redrawn, shape, who, "redraw")
            same = torch.equal(redrawn, data.redraw(ids, label.name, value, 0))
            require(bool(same), who, "redraw must return the same images for the same number")
        if supports(data, HasVariety):
            numbers = (len(ids), len(data.variety_names(label.name)))
            variety = data.variety(ids, label.name)
            text = f"variety of {label.name!r} must have shape {numbers}, got {variety.shape}"
            require(variety.shape == numbers, who, text)
            own = data.with_variety(ids, {}, {label.name: variety})
            same = torch.equal(own, data.batch(ids).images)
            require(bool(same), who, "with_variety must reproduce an image from its own variety")


def _check_region(data: HasRegions, ids: Ids, label: str, shape: tuple[int, ...], who: str) -> None:
    found = data.region(ids, label)
    if found is None:
        return
    expected = (len(ids), *shape[1:])
    require(found.shape == expected, who, f"region of {label!r} must have shape {expected}, got {found.shape}")
    require(found.dtype == np.bool_, who, f"region of {label!r} must be boolean")
    require(bool(data.region_source), who, "region_source must name the source of the regions")
