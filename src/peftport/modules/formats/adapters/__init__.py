"""Folders as the library adapters writes them: settings, places of tensors, tensors."""
