"""Errors name arguments in Python where a command names options."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature

import ccvae_eval
from ccvae_eval.cli.options import Common
from ccvae_eval.core.errors import ARGUMENTS, python_words

PARAMETERS = {*signature(ccvae_eval.evaluate).parameters, *signature(ccvae_eval.load).parameters}


def test_options_stand_for_arguments_that_exist() -> None:
    assert set(ARGUMENTS.values()) <= PARAMETERS


def test_every_option_that_is_named_like_its_argument_is_known() -> None:
    alike = {field.name for field in fields(Common)} & PARAMETERS
    assert {f"--{name.replace('_', '-')}" for name in alike} <= set(ARGUMENTS)
    assert python_words("--precision bf16 is not --precision-of") == "precision='bf16' is not --precision-of"
