"""`python -m efface`: the command line, where the `efface` script is not on the path."""

from efface.cli import main

if __name__ == "__main__":
    main()
