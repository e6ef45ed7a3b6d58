"""Says of each command whether vLLM's own argument parser takes it; runs where vLLM is installed.

Standard input is a JSON object, name to command line, each of which begins with ``vllm serve``.
Standard output is one of the same names, to what is wrong, empty for nothing.
"""

import contextlib
import io
import json
import sys

from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import validate_api_server_args
from vllm.utils.argparse_utils import FlexibleArgumentParser


def refusal(parser: FlexibleArgumentParser, argv: list[str]) -> str:
    """Return why vLLM does not take a command; empty where it does."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            arguments = parser.parse_args(argv[2:])
            validate_parsed_serve_args(arguments)
            validate_api_server_args(arguments)
    except SystemExit:
        return said.getvalue()
    except (KeyError, TypeError, ValueError) as error:
        return repr(error)
    return ""


def main() -> None:
    """Judge the commands."""
    commands = json.load(sys.stdin)
    parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
    print(json.dumps({name: refusal(parser, argv) for name, argv in commands.items()}))


main()
