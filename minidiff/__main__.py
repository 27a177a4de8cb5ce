"""`python -m minidiff train ...`, `python -m minidiff sample ...` and `python -m minidiff play ...`"""
from minidiff.cli import main
from minidiff.play import play_command

if __name__ == "__main__": raise SystemExit(main(play=play_command))
