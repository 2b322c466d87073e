"""Recipes: grids of trainings and evaluations as data (``read_recipe``, ``run_cells``, ``grids_of``)."""

from ccvae_eval.recipes.recipe import Experiment, Recipe, RecipeCell, TableSpec, builtin_recipes, cells_of, read_recipe
from ccvae_eval.recipes.tables import grids_of
from ccvae_eval.recipes.work import CellOutcome, PreparedRecipe, result_of, run_cells

__all__ = [
    "CellOutcome",
    "Experiment",
    "PreparedRecipe",
    "Recipe",
    "RecipeCell",
    "TableSpec",
    "builtin_recipes",
    "cells_of",
    "grids_of",
    "read_recipe",
    "result_of",
    "run_cells",
]
