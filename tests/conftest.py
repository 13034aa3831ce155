"""One torch thread: pico hosts are too small to share out, and two processes then fill two cores."""

import torch

torch.set_num_threads(1)
