"""Recipes that come with spikedata, read as package data."""
