"""`python -m daskgmm` is `daskgmm`."""

from daskgmm.cli.commands import main

if __name__ == "__main__":
    main()
