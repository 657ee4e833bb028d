"""What the parity tests share: data, closeness, and our configs in Keras's words."""

import numpy as np


def numbers(*shape, seed=0, low=None, high=None, dtype=np.float32):
    """Normal numbers, or uniform ones in [low, high); the same for the same arguments."""
    generator = np.random.default_rng(seed)
    if low is None:
        return generator.normal(size=shape).astype(dtype)
    return generator.uniform(low, high, shape).astype(dtype)


def close(ours, theirs, tolerance=1e-5, what=""):
    """Equal shapes, and equal up to `tolerance` relative to the largest number in the array.

    Both libraries sum in float32 and in different orders: an error is relative to the terms of
    the sum, not to a result that happens to be near 0.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, f"{what}: shapes {ours.shape} and {theirs.shape}"
    finite = theirs[np.isfinite(theirs)]
    scale = float(np.abs(finite).max(initial=0))
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale, err_msg=what)


def as_keras(config):
    """A config of ours with the module names that Keras's files have."""
    if isinstance(config, dict):
        config = {key: as_keras(value) for key, value in config.items()}
        if "class_name" in config and not config["module"].startswith("keras"):
            config["module"] = f"keras.{config['module']}"
        return config
    return [as_keras(one) for one in config] if isinstance(config, list | tuple) else config


def plain(config):
    """A config without what says the same in other words: tuples, module names, type policies."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return config["config"]["name"]
        if "class_name" in config:
            return {"class_name": config["class_name"], "config": plain(config["config"])}
        return {key: plain(value) for key, value in config.items()}
    if hasattr(config, "tolist"):  # an array or a number of one of the libraries
        config = config.tolist()
    return [plain(one) for one in config] if isinstance(config, list | tuple) else config


def disagreements(ours, theirs):
    """What our config says and theirs does not say alike; Keras may say more, or leave out None."""
    ours, theirs = plain(ours), plain(theirs)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = {}
        for key, value in ours.items():
            if key == "dtype" and value is None:
                continue  # the usual one
            if key in theirs:
                below = disagreements(value, theirs[key])
            else:
                below = None if value is None else (value, "absent")
            if below:
                found[key] = below
        return found
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        below = [disagreements(*pair) for pair in zip(ours, theirs, strict=True)]
        return (ours, theirs) if any(below) else None
    if isinstance(ours, float) and isinstance(theirs, float):  # Keras keeps some in float32
        return None if np.isclose(ours, theirs, rtol=1e-6, atol=0) else (ours, theirs)
    return None if ours == theirs else (ours, theirs)
