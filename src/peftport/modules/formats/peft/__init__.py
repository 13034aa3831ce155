"""The LoRA format of the library PEFT.

`config` reads the settings and `settings` writes them, `targets` finds the matrices they select, `names` parses the
names of tensors, and `lora` and `write` read and write a whole folder.
"""
