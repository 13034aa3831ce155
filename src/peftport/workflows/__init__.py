"""The jobs that users start, one file for each: train, evaluate, port, check, compare, distill, update a host.

Each job takes a request (`requests`) and returns a result. The Python interface and the command line both call these
functions and contain no logic of their own.
"""
