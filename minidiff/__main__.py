"""`python -m minidiff train ...` and `python -m minidiff sample ...`"""
from minidiff.cli import main

if __name__ == "__main__": raise SystemExit(main())
