"""Grids of trainings and evaluations as data: ``read_recipe``, ``work`` on its cells, ``grids_of`` the results."""

from ccvae_eval.recipes.recipe import Experiment, Recipe, RecipeCell, TableSpec, cells_of, read_recipe, shipped_recipes
from ccvae_eval.recipes.tables import grids_of
from ccvae_eval.recipes.work import Done, Work, result_of, work

__all__ = [
    "Done",
    "Experiment",
    "Recipe",
    "RecipeCell",
    "TableSpec",
    "Work",
    "cells_of",
    "grids_of",
    "read_recipe",
    "result_of",
    "shipped_recipes",
    "work",
]
