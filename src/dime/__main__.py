"""`python -m dime` is the command `dime`, also where it is not installed."""

from dime.cli.main import entry

if __name__ == "__main__":
    entry()
