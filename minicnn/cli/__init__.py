"""The command line: minicnn train, evaluate, predict, info.

Exit codes: 0 all is well; 1 the data, the pictures or the model file are at fault (one line on
standard error says how); 2 the command was not understood; 130 interrupted by Ctrl-C.
Results go to standard output, everything else to standard error.
"""

import sys
import warnings
from pathlib import Path

import click

EXIT_FAULT, EXIT_INTERRUPTED = 1, 130


class Group(click.Group):
    """Commands whose foreseeable errors are one line on standard error and exit code 1."""

    def invoke(self, context):
        with warnings.catch_warnings():
            # An option -W or PYTHONWARNINGS counts; without one every message is shown once.
            if not sys.warnoptions:
                warnings.simplefilter("default")
            warnings.showwarning = _show_warning
            try:
                return super().invoke(context)
            except KeyboardInterrupt:
                say("interrupted")
                raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
            except BrokenPipeError:
                raise  # whoever read our output has gone: click ends quietly
            except (OSError, ValueError, MemoryError) as error:
                if context.params.get("traceback"):
                    raise
                fail(_in_a_line(error))


def say(text=""):
    """A line for the person at the terminal, on standard error."""
    click.echo(text, err=True)


def fail(message):
    """End with one line and exit code 1."""
    raise _Fault(message)


class _Fault(click.ClickException):
    exit_code = EXIT_FAULT

    def show(self, file=None):
        say(f"minicnn: error: {self.message}")


def _in_a_line(error):
    if isinstance(error, MemoryError):
        return f"not enough memory ({error}): a smaller --size or --batch-size"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def _show_warning(message, category, filename, lineno, file=None, line=None):
    text = " ".join(str(message).split()).replace("fit(class_weight=...)", "--balance")
    say(f"minicnn: warning: {text.removeprefix('CheckTraining: ')}")


def _version(context, parameter, value):
    if value and not context.resilient_parsing:
        from minicnn import __version__

        click.echo(f"minicnn {__version__}")
        context.exit()


@click.group(
    cls=Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Show the version and exit.",
)
@click.option("--traceback", is_flag=True, help="Show where in the program an error arose.")
def main(traceback):
    """Teach a network to tell pictures apart, from folders of them.

    \b
    minicnn train photos/ --out model.keras      photos/cat/*.jpg, photos/dog/*.jpg ...
    minicnn evaluate model.keras more_photos/
    minicnn predict model.keras one.jpg two.png
    minicnn info model.keras

    Exit codes: 0 all is well, 1 the data, the pictures or the model file are at fault, 2 the
    command was not understood, 130 interrupted.
    """


# What several commands take.
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(path_type=Path)
MODEL = click.argument("model", metavar="MODEL", type=FILE)
REPORT = click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write a report there: text, figures (JSON), confusion matrix, worst mistakes and, of a "
    "training, curves (PNG).",
)
AS_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Figures as JSON on standard output, in place of text."
)
DAMAGED = click.option(
    "--damaged",
    type=click.Choice(["skip", "refuse"]),
    default="skip",
    help="Pictures that cannot be read: list and leave out, or end with exit code 1.",
)
BATCH = click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Pictures at a time.  [default: 32, in training by their number]",
)


def _size(context, parameter, value):
    """64 or 218x178 (height x width) -> (height, width)."""
    if value is None:
        return None  # train decides
    parts = value.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdigit() and int(part) >= 8 for part in parts):
        raise click.BadParameter(
            f"{value!r} is no size: a number of pixels such as 64, or HEIGHTxWIDTH such as "
            "218x178, 8 at least"
        )
    return int(parts[0]), int(parts[-1])


@main.command()
@click.argument("directory", metavar="DIR", type=FOLDER)
@click.option("--out", "-o", type=FILE, required=True, help="The model file to write, NAME.keras.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option(
    "--size",
    callback=_size,
    metavar="PIXELS",
    help="Input size, 64 or 218x178 (height x width).  [default: by size and number of pictures]",
)
@click.option(
    "--color",
    type=click.Choice(["auto", "rgb", "grayscale"]),
    default="auto",
    help="auto: grayscale if all pictures are.",
)
@click.option(
    "--split",
    type=(click.FloatRange(0, 1), click.FloatRange(0, 1)),
    default=(0.15, 0.15),
    metavar="VALIDATION TEST",
    help="Shares that are held out of one folder per class.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    default=100,
    help="Passes over the training pictures, at most.",
)
@click.option(
    "--patience",
    type=click.IntRange(1),
    default=12,
    help="Stop after so many epochs without a better validation loss.",
)
@BATCH
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    default=1e-3,
    help="Of Adam; halved when validation stops improving.",
)
@click.option(
    "--augment/--no-augment",
    default=None,
    help="Move, turn, zoom and mirror pictures in training.  [default: with up to 20000 pictures]",
)
@click.option(
    "--flip/--no-flip",
    default=True,
    help="Whether a mirrored picture is of the same class; not so for letters and digits.",
)
@click.option("--balance", is_flag=True, help="Let every class count the same in training.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    help="Of the split and of all that is random in training.",
)
@click.option(
    "--memory",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    metavar="GB",
    help="Beyond it pictures are read again in every epoch.",
)
@REPORT
@AS_JSON
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@DAMAGED
def train(directory, **options):
    """Train a network on the pictures in DIR and write it to a model file.

    DIR holds a folder of pictures for each class; they are split into training, validation and
    test, the same way for the same --seed, copies and look-alikes together. Or it holds train/,
    validation/ (or val/) and, if you like, test/, each with a folder per class.

    The best model so far is in the file after every epoch; Ctrl-C ends training and keeps it.
    """
    from minicnn.cli.training import train_on_folder

    train_on_folder(directory, **options)


@main.command()
@MODEL
@click.argument("directory", metavar="DIR", type=FOLDER)
@BATCH
@REPORT
@AS_JSON
@DAMAGED
def evaluate(model, directory, **options):
    """Measure MODEL on the pictures in DIR, a folder per class (or its test/, if it has one)."""
    from minicnn.cli.using import evaluate_on_folder

    evaluate_on_folder(model, directory, **options)


@main.command()
@MODEL
@click.argument("pictures", metavar="PICTURE...", type=FILE, nargs=-1, required=True)
@BATCH
@AS_JSON
def predict(model, pictures, **options):
    """Say of each PICTURE what MODEL takes it for: a line with file, class and probability.

    A folder stands for the pictures in it. Pictures that cannot be read are named on standard
    error, and the exit code is 1.
    """
    from minicnn.cli.using import predict_pictures

    predict_pictures(model, pictures, **options)


@main.command()
@MODEL
@AS_JSON
def info(model, as_json):
    """What MODEL is: layers, input, classes, parameters, size, and how it was trained."""
    from minicnn.cli.using import describe

    describe(model, as_json)
