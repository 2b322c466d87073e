"""Recipes: grids of trainings and evaluations as data (``recipe``), their results (``work``) and their ``tables``."""
