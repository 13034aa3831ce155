"""Files and ledgers that are whole or not there, whatever happens while they are written."""
