"""``python -m peftport``."""

from peftport.cli import main

if __name__ == "__main__":
    main()
