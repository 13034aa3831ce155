"""The formats of module folders: peftport's own, PEFT's and that of adapters. One is chosen in `modules.folders`."""
