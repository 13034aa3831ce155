"""The formats of module folders: peftport's own and those of PEFT and adapters. `modules.folders` chooses one."""
