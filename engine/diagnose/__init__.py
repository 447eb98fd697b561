"""Measuring and checking a bundle on this machine."""
