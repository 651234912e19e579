"""Trimtab: declare what should exist; it is built, shipped, kept so, and every change is explained."""

__version__ = "0.1.0"
