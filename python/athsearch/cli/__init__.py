"""The command line: each command parses, calls the library, prints. Here they are found and their errors are caught."""

from __future__ import annotations

import importlib
import io
import sys
import warnings

import click

from ..errors import AthsearchError

# Each in a module of its name, imported when the command is used, for some need torch.
_COMMANDS = (
    *("demo", "train", "index", "query", "evaluate", "info", "verify", "repair", "delete", "compact", "export"),
    *("audit", "bench", "device"),
)
# Package -> what to install for it.
_EXTRA = {
    "torch": "train",
    "matplotlib": "train",
    "faiss": "faiss",
    "pyarrow": "parquet",
    "pydicom": "dicom",
    "nibabel": "nifti",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f".{cmd_name}", __name__), cmd_name)
        return command


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="athsearch")
def commands() -> None:
    """Case-based medical image retrieval: given this image, show me the most similar past cases.

    Train a hashing network on labelled images, turn whole archives into short binary codes, and search them exactly by
    Hamming distance. Start with `athsearch demo`; every command has --help with an example.

    Exit status: 0 done, 1 a clear one-line error, 2 wrong usage.
    """


def main() -> None:
    """Runs the command line and exits."""
    warnings.filterwarnings("ignore", module="torch")  # its advice to programmers means nothing to users
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="backslashreplace")  # no answer is lost to a character that a terminal lacks
    sys.exit(_run())


def _run() -> int:
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return _run_command()


def _run_command() -> int:
    try:
        commands(prog_name="athsearch", standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted")
    except AthsearchError as error:
        return _fail(str(error))
    except BrokenPipeError:
        return 1  # whoever read our output has gone; nobody is there to be told
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        return _fail(f"this command needs {package}: pip install 'athsearch[{_EXTRA[package]}]'")
    return 0


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line, without the place in the code that means nothing to users."""
    click.echo(f"warning: {' '.join(str(message).split())}", err=True)


def _fail(message: str) -> int:
    one_line = " ".join(message.split())
    click.echo(f"athsearch: {one_line}", err=True)
    return 1
