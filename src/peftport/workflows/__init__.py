"""What people do with modules, one file a job: train, evaluate, port, check, compare, distill, pretrain further.

The Python interface and the command line are two faces of what is here.
"""
