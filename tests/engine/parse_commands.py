"""Says of each command whether its program's parser takes it; runs in the engine image.

Standard input is a JSON object, name to command line, each of which begins with ``vllm serve`` or
with ``lmcache server``. Standard output is one of the same names, to what is wrong, empty for
nothing.
"""

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Callable

from lmcache.cli.commands.server import ServerCommand
from lmcache.v1.distributed.config import parse_args_to_config
from lmcache.v1.multiprocess.config import parse_args_to_mp_server_config
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import validate_api_server_args
from vllm.utils.argparse_utils import FlexibleArgumentParser


def parsers() -> dict[str, Callable[[list[str]], None]]:
    """Return what judges the arguments of each program."""
    vllm = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
    lmcache = argparse.ArgumentParser(prog="lmcache server")
    ServerCommand().add_arguments(lmcache)

    def judge_vllm(words: list[str]) -> None:
        arguments = vllm.parse_args(words)
        validate_parsed_serve_args(arguments)
        validate_api_server_args(arguments)

    def judge_lmcache(words: list[str]) -> None:
        arguments = lmcache.parse_args(words)
        parse_args_to_mp_server_config(arguments)
        parse_args_to_config(arguments)

    return {"vllm": judge_vllm, "lmcache": judge_lmcache}


def refusal(judge: Callable[[list[str]], None], words: list[str]) -> str:
    """Return why a program does not take its arguments; empty where it does."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            judge(words)
    except SystemExit:
        return said.getvalue()
    except (KeyError, TypeError, ValueError) as error:
        return repr(error)
    return ""


def main() -> None:
    """Judge the commands."""
    commands = json.load(sys.stdin)
    judges = parsers()
    found = {name: refusal(judges[argv[0]], argv[2:]) for name, argv in commands.items()}
    print(json.dumps(found))


main()
