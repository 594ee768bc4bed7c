"""Loops for the CPU, compiled by Numba: faster forms of the references, where NumPy bounds the job.

A module here bears the name of a module of ``reference`` and has all its primitives, with the same signatures. Importing one
imports Numba, from the extra ``cpu``; what is compiled is kept on disk for the next process.
"""
