"""Predictors that a model has to beat, given the same inputs. ``predictors.py`` has them by name: begin there."""
