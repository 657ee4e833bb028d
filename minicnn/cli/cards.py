"""What a model file says of the pictures it is for: `model.notes`, written by `minicnn train`."""

from minicnn.cli import fail
from minicnn.data.pictures import Preparation
from minicnn.errors import FormatError
from minicnn.saving import load_model

KEY = "pictures"


def write(model, class_names, preparation, trained):
    """Put class names, preparation and what is known of the training into the model's notes."""
    model.notes = {
        KEY: {
            "class_names": list(class_names),
            "preparation": as_dict(preparation),
            "training": trained,
        }
    }


def as_dict(preparation):
    """As it stands in a file."""
    return {
        "size": list(preparation.size),
        "color_mode": preparation.color_mode,
        "interpolation": preparation.interpolation,
        "crop_to_aspect_ratio": preparation.crop_to_aspect_ratio,
    }


def open_model(path):
    """The model of a file, with what its shape has to fulfil checked."""
    if not path.exists():
        fail(f"{path}: there is no such file")
    try:
        model = load_model(path)
    except FormatError as error:
        fail(f"{error}" if str(path) in str(error) else f"{path}: {error}")
    return model


def card_of(model, path):
    """(class names, preparation, what is known of the training) by the notes; None without any."""
    card = (model.notes or {}).get(KEY)
    if card is None:
        return None
    try:
        names = [str(name) for name in card["class_names"]]
        preparation = Preparation(
            card["preparation"]["size"],
            card["preparation"]["color_mode"],
            card["preparation"]["interpolation"],
            bool(card["preparation"]["crop_to_aspect_ratio"]),
        )
        trained = dict(card.get("training") or {})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        fail(f"{path}: its notes on pictures are not as minicnn train writes them ({error!r})")
    return names, preparation, trained


def read(model, path):
    """(class names, preparation) of a model of pictures; without a card what its shapes say."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        fail(f"{path} has {len(model.inputs)} inputs, {len(model.outputs)} outputs, not one each")
    shape, output = model.inputs[0].shape, model.outputs[0].shape
    if len(shape) != 4 or shape[3] not in (1, 3, 4) or None in shape[1:3]:
        fail(f"{path} takes inputs of shape {shape[1:]}: not pictures of one size")
    if len(output) != 2:
        fail(f"{path} gives {output[1:]} for a picture, not a number for each class")
    color = {1: "grayscale", 3: "rgb", 4: "rgba"}[shape[3]]
    outputs = max(2, output[1])
    card = card_of(model, path)
    if card is None:
        return None, Preparation(tuple(shape[1:3]), color)
    names, preparation, _ = card
    if preparation.shape != tuple(shape[1:]) or len(names) != outputs:
        fail(
            f"{path}: its notes tell of {len(names)} classes and pictures of {preparation.size}, "
            f"the network has {outputs} outputs and takes {shape[1:]}"
        )
    return names, preparation
