"""A copy of a model to try things on."""

import copy


def independent_copy(model, user):
    """The model with weights in arrays of its own, no history, and, if it is compiled, an optimizer
    that starts anew. TypeError in the name of `user` if something in it cannot be copied."""
    left_out = [model.history, *(parameter.owner for parameter in model.weights)]
    memo = {id(one): _Nothing() for one in left_out if one is not None}
    if model.optimizer is not None:
        memo[id(model.optimizer)] = fresh_optimizer(model.optimizer)
    try:
        made = copy.deepcopy(model, memo)
    except TypeError as error:  # a lock, an open file: what a layer of the user's may hold
        raise TypeError(
            f"{user} runs a copy of {model.name!r}, which cannot be copied: {error}"
        ) from error
    for parameter in made.weights:
        parameter.owner = None
    made.history = None
    return made


def fresh_optimizer(optimizer):
    """One with the same settings, before its first step."""
    return type(optimizer).from_config(optimizer.get_config())


class _Nothing:
    """Stands for what a copy has no use for: the optimizer's buffers, the history."""
