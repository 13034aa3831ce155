"""LoRA folders as the library PEFT writes them: settings, target modules, tensors."""
