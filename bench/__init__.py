"""Measuring: questions put to servers, with the plain C program that each figure is held against."""
