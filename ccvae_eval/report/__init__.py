"""Renderings of runs and calibrations: functions from results to text, tables and figures."""
