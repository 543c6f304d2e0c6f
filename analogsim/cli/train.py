"""`analogsim train`: one training into one folder, resumed after a kill."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from ..errors import CheckpointError, DataError
from ..machine import choose_device
from ..profile import HardwareProfile
from ..storage.files import lock
from ..training.run_file import ABOUT, WEIGHTS, Hardware, Run, weights_file
from .base import COLLAPSED, EXIT_CODES, note, out, plain, say
from .options import Device, Percentile, RangesOption, TestSubset, Threads, check_ranges, method_of, on_hardware
from .values import key_values, use_threads

EPILOG = (
    "[bold]Examples:[/]\n\n"
    "analogsim train models.lenet:LeNet5 digits --out runs/plain\n\n"
    "analogsim train models.lenet:LeNet5 digits --sigma 1 --epochs 40 --out runs/noisy\n\n"
    "analogsim train models.lenet:LeNet5 npz:images.npz --arg pool=average --train-subset 5000\n\n"
    "analogsim train torchvision.models:resnet18 cifar10 --arg num_classes=10\n\n"
    "analogsim train models.lenet:LeNet5 digits --from runs/plain --profile 8bit --learn-ranges --out runs/aware\n\n"
    "With --profile the network is trained on simulated hardware: ranges are calibrated first, gradients pass its "
    "converters straight through, and cells are drawn anew in every step; the test accuracy is that of chip --seed. "
    "`analogsim sweep`, `budget`, `cost` and `search` then take the run's own hardware.\n\n"
    "The folder gets model.safetensors, run.json (network, data, settings), history.jsonl, history.csv and, while it "
    "trains, checkpoint.pt after every epoch: started again, the same command goes on from there.\n\n"
    f"{EXIT_CODES}"
)


def train(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Import path of the network, module:name.")],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="digits, cifar10, cifar10:ROOT, npz:PATH or folder:PATH.")
    ],
    arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Constructor argument; may be given several times. `classes` and `channels` are taken from the data "
            "where the constructor has them. Default: its own.",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(metavar="N", min=1, help="Passes over the training images.")] = 20,
    lr: Annotated[float, typer.Option(metavar="RATE", help="Adam's rate; a cosine takes it to 0.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images a step.")] = 128,
    sigma: Annotated[
        float, typer.Option(metavar="SIGMA", min=0, help="Train under noise N(0, σ²) at every site.")
    ] = 0.0,
    ramp_epochs: Annotated[
        int, typer.Option(metavar="N", min=0, help="Epochs over which σ rises linearly to its value.")
    ] = 0,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Start from a finished run's weights. Default: random ones. Its constructor arguments are kept "
            "unless --arg gives others.",
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="Train on this hardware (shipped profile, YAML or JSON). Default: none."
        ),
    ] = None,
    calibration: Annotated[
        int, typer.Option(metavar="N", min=1, help="--profile: training images that the ranges are taken from.")
    ] = 1024,
    ranges: RangesOption = None,
    percentile: Percentile = None,
    learn_ranges: Annotated[
        bool, typer.Option("--learn-ranges", help="--profile: train the layers' input ranges, too.")
    ] = False,
    range_lr: Annotated[
        float | None,
        typer.Option(metavar="RATE", min=1e-12, help="--learn-ranges: Adam's rate for them. Default: 30 times --lr."),
    ] = None,
    clip_weights: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=1e-3,
            help="Clip weights to N standard deviations of their layer's, every step. Default: no clipping.",
        ),
    ] = None,
    stop_on_collapse: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Stop after N epochs in a row no better than guessing. Default: train on."
        ),
    ] = None,
    train_subset: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Train on N images only, drawn at random. Default: all.")
    ] = None,
    test_subset: TestSubset = None,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Of initial weights, order of images, augmentation and noise.")
    ] = 0,
    device: Device = "auto",
    threads: Threads = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Of the run. Default: in runs/, named by network, data, hardware, σ and seed.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on with what the folder holds, or start anew over it.")
    ] = True,
) -> None:
    """Train a network on images, under noise or on simulated hardware if asked, by Adam with a cosine schedule."""
    args = key_values(arg or [])
    check_ranges(ranges, percentile, profile)
    if learn_ranges and profile is None:
        raise typer.BadParameter(
            "there are no ranges without hardware: give --profile too", param_hint="--learn-ranges"
        )
    if range_lr is not None and not learn_ranges:
        raise typer.BadParameter("no range is learned: give --learn-ranges too", param_hint="--range-lr")
    file = None if start is None else weights_file(start)
    folder = folder or Path("runs") / default_name(model, data, sigma, seed, profile, clip_weights)
    if file is not None and file.resolve().parent == folder.resolve():
        raise typer.BadParameter(f"{folder}: is the run to start from; give another --out", param_hint="--from")

    import torch

    from ..convert import to_digital
    from ..program import program
    from ..ranges.learn import learn_ranges as learn
    from ..storage.files import write_text
    from ..training.data import load_data
    from ..training.network import build, check_fit, find, with_data
    from ..training.train import TrainSpec
    from ..training.train import train as run_training

    spec = TrainSpec(
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        sigma=sigma,
        ramp_epochs=ramp_epochs,
        clip_weights=clip_weights,
        stop_on_collapse=stop_on_collapse,
        seed=seed,
    )
    use_threads(threads)
    where = choose_device(device)
    factory = find(model)
    images = load_data(data).subset(train_subset, test_subset)
    before = None if file is None else Run.load(file)
    if before is not None and before.qat is not None and profile is not None:
        raise typer.BadParameter(
            f"{file} has quantizers, which are trained digitally; leave out --profile, or start from a network without",
            param_hint="--from",
        )
    args = before.args | args if before else args
    args = with_data(factory, args, classes=len(images.classes), channels=images.train_x.shape[1])
    torch.manual_seed(seed)
    if before is None or file is None:
        network = build(factory, args)
    else:
        network = before.model_copy(update={"args": args}).network(file, model)
        network = to_digital(network) if before.hardware else network
    check_fit(network, images)
    hardware = None
    if profile is not None:
        declared = HardwareProfile.load(profile)
        method = method_of(ranges, percentile)
        network = on_hardware(network, declared, images.train_sample(calibration), percentile, method)
        program(network, seed)
        if learn_ranges:
            learn(network)
        hardware = Hardware(
            profile=declared.model_dump(mode="json"),
            ranges=method,
            percentile=percentile,
            calibration=calibration,
            learn_ranges=learn_ranges,
            range_lr=range_lr,
        )

    about = Run(
        model=model,
        args=args,
        data=data,
        train_subset=train_subset,
        test_subset=test_subset,
        start=None if file is None else str(file),
        start_crc32=None if before is None else before.weights.crc32,
        hardware=hardware,
        qat=before and before.qat,
        spec=spec.model_dump(),
        version=__version__,
        label=images.label,
    )
    with alone(folder):
        prepare(folder, about, resume)
        if (folder / WEIGHTS).exists():
            report(Run.load(folder / WEIGHTS))
            note(f"{plain(folder)}: trained already, nothing was done; --fresh trains anew")
            return
        try:
            result = run_training(network, images, spec, out=folder, device=where, resume=resume, range_lr=range_lr)
        except KeyboardInterrupt as stop:
            history = folder / "history.jsonl"
            done = history.read_bytes().count(b"\n") if history.exists() else 0
            stop.add_note(f" after epoch {done} of {epochs}; the same command goes on from there ({folder})")
            raise

        about = about.model_copy(update={"test_accuracy": result.accuracy, "status": result.status})
        write_text(folder / "history.csv", result.to_frame().to_csv(index=False))
        about.save(folder)
        # Last: its being there means that the run is finished.
        about.save_weights(result.model.cpu(), folder)
        note(f"written: {plain(folder / WEIGHTS)}; next: analogsim sweep {plain(folder)}")
        report(about)


def report(run: Run) -> None:
    """Print a finished training's result; one that only guesses ends the program with its own exit code."""
    how = "without noise" if run.hardware is None else f"on {run.hardware.profile['name']}, one chip"
    out().print(f"test accuracy {run.test_accuracy:.4f} ({plain(run.label)}, {plain(how)})")
    if run.status == "collapsed":
        say("[bold red]collapsed:[/] no better than guessing; try a lower --lr or --sigma, or --ramp-epochs")
        raise typer.Exit(COLLAPSED)


def default_name(
    model: str, data: str, sigma: float, seed: int, profile: str | None = None, clip: float | None = None
) -> str:
    """Return a run's folder name, such as lenet5-digits-sigma0.5-seed0."""
    kind, _, path = data.partition(":")
    noise = (f"-sigma{sigma:g}" if sigma else "") + ("" if clip is None else f"-clip{clip:g}")
    hardware = "" if profile is None else f"-{Path(profile).stem}"
    return f"{model.split(':')[-1].lower()}-{Path(path).stem or kind}{hardware}{noise}-seed{seed}"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make a run's folder, and keep other trainings out of it.

    Raises
    ------
    CheckpointError
        Another training is at work in it.
    DataError
        It cannot be written.
    """
    from filelock import Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock(folder / "lock", 0).acquire()  # the name that a study's job has
    except Timeout:
        raise CheckpointError(f"{folder}: another training is at work there; wait, or use another --out") from None
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror}") from None
    with held:
        yield


def prepare(folder: Path, about: Run, resume: bool) -> None:
    """Make the run's folder ready: with this training's `run.json`, and nothing of another training.

    Raises
    ------
    CheckpointError
        It holds another training, or damaged files.
    """
    from ..training.checkpoint import differences

    try:
        if not resume:
            # Else a kill in the first epoch would leave the old training to be taken for the new one.
            for name in (WEIGHTS, "checkpoint.pt", ABOUT, "history.jsonl", "history.csv"):
                (folder / name).unlink(missing_ok=True)
        if (folder / ABOUT).exists():
            if other := differences(Run.load_about(folder).settings, about.settings, None):
                raise CheckpointError(
                    f"{folder}: holds another training: {other}; use another --out, or --fresh to overwrite it"
                )
        elif any((folder / name).exists() for name in (WEIGHTS, "checkpoint.pt")):
            raise CheckpointError(f"{folder}: holds a network without {ABOUT}; use another --out, or --fresh")
        else:
            about.save(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror}") from None
