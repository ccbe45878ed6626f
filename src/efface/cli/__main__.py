"""`python -m efface.cli`: an older spelling of `python -m efface`."""

from efface.cli import main

if __name__ == "__main__":
    main()
