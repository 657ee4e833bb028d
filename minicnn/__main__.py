"""python -m minicnn: the command line."""

from minicnn.cli import main

if __name__ == "__main__":
    main()
