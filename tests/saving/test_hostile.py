"""Files written to do harm: what they may name, how much they may ask for, what runs."""

import ast
import copy
import json
import os
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from small_files import numbers, tiny_model

import minicnn
from minicnn import layers, saving
from minicnn.configurable import Table
from minicnn.errors import FormatError
from minicnn.saving import bounded_json, translation, weights
from minicnn.saving.names import check_name

# -- classes ---------------------------------------------------------------------------------------

HOSTILE = [
    (module, name)
    for module, names in {
        "os": ["system", "popen", "remove"],
        "builtins": ["eval", "exec", "open", "__import__", "getattr", "print"],
        "subprocess": ["Popen", "run"],
        "shutil": ["rmtree"],
        "pickle": ["loads", "Unpickler"],
        "numpy": ["load", "ndarray"],
        "minicnn.saving": ["load_model", "save_model"],
        "minicnn": ["Sequential", "Model", "Conv2D"],
        "minicnn.layers.convolution": ["Conv2D"],
        "layers": ["Conv2D"],
        "keras": ["Conv2D", "Model", "config", "Layer"],
        "keras.layers": [
            "Lambda",
            "TFSMLayer",
            "TorchModuleWrapper",
            "Layer",
            "Sequential",
            "Model",
        ],
        "keras.src.layers": ["Lambda", "Dense"],
        "keras.utils": ["get_file"],
        "keras.config": ["enable_unsafe_deserialization"],
        "keras.saving": ["load_model", "register_keras_serializable"],
        "keras.models": ["load_model"],
        "keras.ops": ["relu"],
        "keras.losses": ["Conv2D"],
        "": ["Conv2D"],
    }.items()
    for name in names
] + [(None, "Dense"), (3, "Dense"), (["keras.layers"], "Dense"), ("keras.layers", "../Dense")]


@pytest.mark.parametrize(("module", "name"), HOSTILE)
def test_classes_outside_the_tables(module, name, parts, tmp_path):
    before = set(sys.modules)
    entry = parts.layer("out")
    entry.update(module=module, class_name=name)
    parts.write(tmp_path / "m.keras")
    if (module, name) == ("keras", "Model"):
        message = "list of layers"  # a model may stand there, but this is the config of a Dense
    else:
        message = "unknown class"
    with pytest.raises(FormatError, match=message) as caught:
        minicnn.load_model(tmp_path / "m.keras", safe_mode=False)
    assert message != "unknown class" or name in str(caught.value)
    assert set(sys.modules) == before


def test_no_public_name_is_a_class_that_files_reach():
    """Everything that `minicnn` and its rooms export, named in a file, gives nothing but parts."""
    builder = translation.Builder("file")
    rooms = [minicnn, *(vars(minicnn)[n] for n in minicnn.__all__ if _is_room(n))]
    known = {name for table in Table.all.values() for name in table.classes}
    for room in rooms:
        for name in vars(room):
            for module in ("keras", "keras.layers", "keras.losses", room.__name__):
                if name in known | {"Functional"} or name.startswith("_"):
                    continue
                with pytest.raises(FormatError, match="unknown class"):
                    builder.build({"module": module, "class_name": name, "config": {}})


def _is_room(name):
    return type(getattr(minicnn, name)).__name__ in ("module", "_Config")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"class_name": "__lambda__", "config": {"value": "4wAAAA=="}},
            "unknown class '__lambda__'",
        ),
        ({"class_name": "__bytes__", "config": {"value": "gASV"}}, "unknown class '__bytes__'"),
        ({"class_name": "__typespec__", "config": []}, "unknown class '__typespec__'"),
        (
            {"module": "os", "class_name": "function", "config": "system"},
            "unknown class 'system' of module 'os'",
        ),
        (
            {"module": "builtins", "class_name": "function", "config": "eval"},
            "Unknown activation 'eval'",
        ),
        (
            {"module": "builtins", "class_name": "function", "config": ["eval"]},
            "unknown class",
        ),
        ("eval", "Unknown activation 'eval'"),
        ("os.system", "Unknown activation 'os.system'"),
        ({"class_name": ["Dense"], "config": {}}, "class_name is"),
        ({"class_name": "DTypePolicy", "config": {"name": "mixed_float16"}}, "type policy"),
        ({"class_name": "__numpy__", "config": {"value": [1], "dtype": "object"}}, "an array of"),
    ],
)
def test_values_that_hold_code(entry, message, parts, tmp_path):
    parts.layer("out")["config"]["activation"] = entry
    parts.write(tmp_path / "m.keras")
    with pytest.raises(FormatError, match=message):
        minicnn.load_model(tmp_path / "m.keras", safe_mode=False)


def test_lambda_layers_are_refused_by_name(parts, tmp_path):
    parts.layer("flat").update(class_name="Lambda", config={"name": "flat", "function": "x"})
    parts.write(tmp_path / "m.keras")
    with pytest.raises(FormatError, match="unknown class 'Lambda' of module 'keras.layers'"):
        minicnn.load_model(tmp_path / "m.keras", safe_mode=False)


@pytest.mark.parametrize("registered", ["Custom>Dense", "os>system", "Dense2", 3, ["Dense"]])
def test_registered_names_are_those_of_this_program(registered, parts, tmp_path):
    parts.layer("out")["registered_name"] = registered
    parts.write(tmp_path / "m.keras")
    with pytest.raises(FormatError, match="unknown class 'Dense'"):
        minicnn.load_model(tmp_path / "m.keras")


def test_compile_config_is_bound_to_its_tables(parts, tmp_path):
    parts.config["compile_config"] = {
        "optimizer": {"module": "keras.optimizers", "class_name": "SGD", "config": {"lr": 1}},
        "loss": "mse",
    }
    for change, message in (
        ({}, "SGD takes no argument 'lr'"),
        ({"optimizer": "rmsprop", "loss": "system"}, "Unknown loss 'system'"),
        ({"optimizer": "rmsprop", "callback": "x"}, "unknown argument 'callback'"),
        ({"optimizer": {"module": "os", "class_name": "SGD", "config": {}}}, "unknown class 'SGD'"),
        ({"optimizer": 3}, "unknown argument|3 is no optimizer"),
    ):
        parts.config["compile_config"].update(change)
        parts.write(tmp_path / "m.keras")
        with pytest.raises(FormatError, match=message):
            minicnn.load_model(tmp_path / "m.keras")
    assert minicnn.load_model(tmp_path / "m.keras", compile=False).compiled is None


def test_the_package_has_no_way_to_run_what_a_file_says():
    """No pickle, marshal, eval, exec, or import by a computed name anywhere in the package."""
    package = Path(minicnn.__file__).parent
    banned_modules = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy"}
    banned_calls = {"eval", "exec", "compile", "__import__"}
    # Kernels are generated and cached in ops/fast, from constants; no model file gets there.
    for path in [p for p in package.rglob("*.py") if "ops/fast" not in p.as_posix()]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not {n.split(".")[0] for n in names} & banned_modules, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in banned_calls, (path, node.lineno)
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", path
    for path in (package / "saving").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "importlib" not in text and "extractall" not in text, path


def test_loading_opens_one_file_and_nothing_else(tiny_bytes, tmp_path):
    """Under an audit hook: no other file, no socket, no process, no import, no code object."""
    (tmp_path / "m.keras").write_bytes(tiny_bytes)
    program = f"""
        import sys
        import minicnn
        path = {str(tmp_path / "m.keras")!r}
        minicnn.load_model(path)  # what is loaded when first needed
        events = []
        sys.addaudithook(lambda event, arguments: events.append((event, arguments)))
        minicnn.load_model(path)
        kinds = ("open", "socket", "subprocess", "import", "exec", "compile", "os.", "ctypes")
        seen = [(e, a[:1]) for e, a in events if e.startswith(kinds)]
        assert seen[0] == ("open", (path,)), seen
        assert [a for e, a in seen[1:]] == [(3,)], seen  # the same file, by its descriptor
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


# -- sizes -----------------------------------------------------------------------------------------


def bomb(parts, path, **changes):
    parts.layer("out")["config"].update(changes)
    parts.write(path)


@pytest.mark.parametrize("units", [2, 25_000, 2**40, 2**62])
def test_config_bombs_are_refused_before_anything_is_allocated(units, parts, tmp_path):
    bomb(parts, tmp_path / "m.keras", units=units)
    tracemalloc.start()
    with pytest.raises(FormatError, match="more numbers than the|has shape"):
        minicnn.load_model(tmp_path / "m.keras")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("units", [0, -1, True, 2.5, "3", None, [3], 10**19])
def test_sizes_that_are_none(units, parts, tmp_path):
    bomb(parts, tmp_path / "m.keras", units=units)
    with pytest.raises(FormatError):
        minicnn.load_model(tmp_path / "m.keras")


@pytest.mark.parametrize(
    "shape",
    [
        [None, 2**31, 2**31, 2**31],
        [None, -4, 4, 1],
        [None, 0, 4, 1],
        [None, 4.5, 4, 1],
        [None, True, 4, 1],
        [None, "4", 4, 1],
        [None, 4, 4],
        [None] + [4] * 200,
        "none",
        None,
    ],
)
def test_input_shapes_that_lie(shape, parts, tmp_path):
    for entry in parts.config["config"]["layers"]:
        if entry["class_name"] == "InputLayer":
            entry["config"]["batch_shape"] = shape
    parts.write(tmp_path / "m.keras")
    with pytest.raises(FormatError):
        minicnn.load_model(tmp_path / "m.keras")


def test_the_measured_bomb_in_little_memory(tmp_path):
    """Dense(25,000) twice on a file of some kB: 2.5 GB elsewhere, here less than 512 MB in all."""
    model = tiny_model()
    model.save(tmp_path / "m.keras")
    program = f"""
        import resource
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import minicnn
        from small_files import Parts
        path = {str(tmp_path / "m.keras")!r}
        parts = Parts(path)
        dense = parts.layer("out")
        dense["config"]["units"] = 25_000
        again = {{**dense, "config": {{**dense["config"], "name": "again"}}}}
        parts.config["config"]["layers"].append(again)
        parts.write(path)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), used + (256 << 20)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            minicnn.load_model(path)
        except minicnn.errors.FormatError as error:
            assert "more numbers than" in str(error), error
        else:
            raise SystemExit("loaded")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


def test_too_many_layers(parts, tmp_path):
    one = parts.layer("flat")
    chain = parts.config["config"]["layers"]
    for i in range(translation.MOST_LAYERS):
        chain.append({**one, "config": {**one["config"], "name": f"flat{i}"}})
    parts.write(tmp_path / "m.keras")
    with pytest.raises(FormatError, match="a model of 5005 layers, allowed are 5000"):
        minicnn.load_model(tmp_path / "m.keras")


def test_weights_and_config_must_agree(tiny, parts, tmp_path):
    parts.config["config"]["layers"].pop()
    parts.write(tmp_path / "m.keras")
    with pytest.raises(FormatError, match=r"/layers/dense/vars/0 \(9, 1\) has no place"):
        minicnn.load_model(tmp_path / "m.keras")


# -- JSON ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"class_name": "a", "class_name": "b"}', "the key 'class_name' comes twice"),
        (b'{"config": {"units": 1, "units": 2}}', "the key 'units' comes twice"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 256 levels deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested more than 256 levels deep"),
        (b"[" + b"0," * 1_500_000 + b"0]", "more than 1000000 items"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": Infinity}', "Infinity is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "a number out of range"),
        (b'{"a": 0.' + b"1" * 5000 + b"}", "a number out of range"),
        (b'{"a": ' + b"9" * 20 + b"}", "an integer of 20 digits"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "an integer of 100000 digits"),
        (b'{"a": "\\ud800"}', "half a surrogate pair"),
        (b'{"\\udfff": 1}', "half a surrogate pair"),
        (b'{"a": "' + b"x" * 70_000 + b'"}', "a string of 70000 characters"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a": "\n"}', "Invalid control character"),
        (b'{"a": 1', "byte 7"),
        (b'{"a": 1}}', "Extra data"),
        (b"", "byte 0"),
        (b"[1]", "expected a JSON object"),
        (b"null", "expected a JSON object"),
    ],
)
def test_json_of_bad_intent(text, message, parts, tmp_path):
    parts.write(tmp_path / "m.keras", text)
    with pytest.raises(FormatError, match=message) as caught:
        minicnn.load_model(tmp_path / "m.keras")
    assert "config.json" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_json_is_read_under_a_deep_stack_limit():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        with pytest.raises(FormatError, match="levels deep"):
            bounded_json.loads(b"[" * 500_000, "x")
    finally:
        sys.setrecursionlimit(limit)
    value = {"a": [1, 2.5, "[[[[{{{{", None, True, '\\"['], "ä": {"b": -(10**18)}}
    assert bounded_json.loads(json.dumps(value).encode(), "x") == value


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"class_name": "Dense", "module": "keras.layers", "config": {"units": 1}},
        {"class_name": "Sequential", "module": "keras", "config": {}},
        {"class_name": "Sequential", "module": "keras", "config": {"layers": 3}},
        {"class_name": "Sequential", "module": "keras", "config": {"layers": [3]}},
        {"class_name": "Sequential", "module": "keras", "config": {"layers": [{}]}},
        {"class_name": "Sequential", "module": "keras", "config": None},
        {"class_name": "Sequential", "module": "keras", "config": [], "code": "x"},
        {"class_name": "L2", "module": "keras.regularizers", "config": {}},
    ],
)
def test_configs_of_no_model(config, parts, tmp_path):
    parts.write(tmp_path / "m.keras", json.dumps(config).encode())
    with pytest.raises(FormatError):
        minicnn.load_model(tmp_path / "m.keras")


def test_graphs_with_cycles_gaps_and_strangers():
    x = minicnn.Input((3,), name="x")
    h = layers.Dense(3, name="a")(x)
    model = minicnn.Model(x, layers.Dense(3, name="b")(h))
    good = saving.serialize_keras_object(model)
    saving.deserialize_keras_object(good)

    def history(entry, value):
        entry["inbound_nodes"][0]["args"][0]["config"]["keras_history"] = value

    for value, message in (
        (["b", 0, 0], "a cycle or a gap"),
        (["nobody", 0, 0], "a cycle or a gap"),
        (["x", 7, 0], "a cycle or a gap"),
        (["x", 0, 5], "there is no tensor"),
        (["x", -1, 0], "expected \\[layer, call, output\\]"),
        (["x", 0], "expected \\[layer, call, output\\]"),
        ([["x"], 0, 0], "expected \\[layer, call, output\\]"),
        (["x", True, 0], "expected \\[layer, call, output\\]"),
    ):
        bad = copy.deepcopy(good)
        history(bad["config"]["layers"][1], value)
        with pytest.raises(FormatError, match=message):
            saving.deserialize_keras_object(bad)
    for key, value in (
        ("output_layers", ["b", 3, 0]),
        ("output_layers", []),
        ("layers", good["config"]["layers"] * 2),
    ):
        bad = copy.deepcopy(good)
        bad["config"][key] = value
        with pytest.raises(FormatError):
            saving.deserialize_keras_object(bad)
    bad = copy.deepcopy(good)
    bad["config"]["layers"][1]["inbound_nodes"][0]["kwargs"] = {"out": "x"}
    with pytest.raises(FormatError, match="argument 'out', which is not supported"):
        saving.deserialize_keras_object(bad)


# -- names -----------------------------------------------------------------------------------------

BAD_NAMES = {
    "": "not empty",
    ".": "it means a folder",
    "..": "it means a folder",
    "a/b": "'/' separates folders",
    "../../etc/passwd": "'/' separates folders",
    "a\\b": "separates folders",
    "a\x00b": "control character",
    "a\nb": "control character",
    "x" * 10_000: "it has 10000 bytes, allowed are 255",
    "e\u0301": "normal form NFC",
}


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name[:20]))
def test_bad_names_are_refused_on_save_and_load(name, tiny, parts, tmp_path):
    with pytest.raises(FormatError, match=BAD_NAMES[name]):
        check_name(name, "a layer", FormatError)
    parts.layer("flat")["config"]["name"] = name
    parts.write(tmp_path / "m.keras")
    with pytest.raises(FormatError, match=BAD_NAMES[name]) as caught:
        minicnn.load_model(tmp_path / "m.keras")
    assert len(str(caught.value)) < 500
    first = tiny.inputs[0].node.layer
    for part in (tiny.layers[1], tiny, first):
        kept, part.name = part.name, name
        with pytest.raises(ValueError, match=BAD_NAMES[name]):
            tiny.save(tmp_path / "s.keras")
        if part is not first:  # an Input has no weights: files of weights do not know its name
            with pytest.raises(ValueError, match=BAD_NAMES[name]):
                tiny.save_weights(tmp_path / "s.weights.h5")
        part.name = kept
    assert sorted(os.listdir(tmp_path)) == ["m.keras", "parts.keras"]


@pytest.mark.parametrize("name", ["con", "AUX", "nul.txt", "com1", "LPT9"])
def test_names_that_windows_reserves_are_warned_about(name, tiny, tmp_path):
    tiny.layers[0].name = name  # legal in Keras, and never a file name here
    with pytest.warns(UserWarning, match="which Windows reserves"):
        tiny.save(tmp_path / "m.keras")
    with pytest.warns(UserWarning, match="which Windows reserves"):
        assert minicnn.load_model(tmp_path / "m.keras").layers[0].name == name


def test_two_layers_of_one_name(parts, tmp_path):
    parts.layer("flat")["config"]["name"] = "norm"
    parts.write(tmp_path / "m.keras")
    with pytest.raises(FormatError, match="already has a layer named 'norm'"):
        minicnn.load_model(tmp_path / "m.keras")


# -- HDF5 ------------------------------------------------------------------------------------------


def soft(file, folder):
    file["layers/dense/vars/0"] = h5py.SoftLink("/layers/conv2d/vars/0")


def external_link(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.zeros((9, 1))
    file["layers/dense/vars/0"] = h5py.ExternalLink("other.h5", "x")


def external_data(file, folder):
    (folder / "secret").write_bytes(bytes(36))
    where = [(str(folder / "secret"), 0, 36)]
    file.create_dataset("layers/dense/vars/0", (9, 1), "f4", external=where)


def virtual(file, folder):
    layout = h5py.VirtualLayout((9, 1), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (9, 1))
    file.create_virtual_dataset("layers/dense/vars/0", layout)


def huge_fill(file, folder):
    file.create_dataset("layers/dense/vars/0", (2**20, 2**20), "f4", chunks=(1024, 1024))


def huge_unallocated(file, folder):
    file.create_dataset("layers/dense/vars/0", (2**20, 2**10), "f4")


def compressed(file, folder):
    file.create_dataset("layers/dense/vars/0", data=np.zeros((9, 1), "f4"), compression="gzip")


def strings(file, folder):
    file.create_dataset("layers/dense/vars/0", data=["a"] * 9)


def references(file, folder):
    file.create_dataset("layers/dense/vars/0", (9, 1), h5py.ref_dtype)


def opaque(file, folder):
    file.create_dataset("layers/dense/vars/0", data=np.zeros((9, 1), "V4"))


def compound(file, folder):
    file.create_dataset("layers/dense/vars/0", data=np.zeros((9, 1), [("a", "f4")]))


def no_space(file, folder):
    file.create_dataset("layers/dense/vars/0", data=h5py.Empty("f4"))


def named_type(file, folder):
    file["layers/dense/vars/0"] = np.dtype("f4")


def group_for_dataset(file, folder):
    file.create_group("layers/dense/vars/0")


def loop(file, folder):
    file["layers/dense/again"] = file["layers"]


def second_name(file, folder):
    file["layers/dense/vars/0"] = file["layers/batch_normalization/vars/0"]


def deep(file, folder):
    file.create_group("layers/dense" + "/a" * 200)


H5_ATTACKS = {
    soft: "a SoftLink, expected data in this file",
    external_link: "a ExternalLink, expected data in this file",
    external_data: "its data lies in another file",
    virtual: "a virtual dataset",
    huge_fill: "declares shape .* bytes, but only 0 are stored",
    huge_unallocated: "declares shape .* bytes, but only 0 are stored",
    compressed: "is compressed, expected plain data",
    strings: "holds object, expected numbers",
    references: "holds object, expected numbers",
    opaque: "holds .V4, expected numbers",
    compound: "holds .*, expected numbers",
    no_space: "has no shape",
    named_type: "a Datatype, expected a group or a dataset",
    group_for_dataset: "is not in the file|more numbers than",
    loop: "a second name of the same object",
    second_name: "a second name of the same object",
    deep: "nested more than 64 levels deep",
}


@pytest.mark.parametrize("attack", H5_ATTACKS, ids=lambda attack: attack.__name__)
def test_hdf5_files_of_bad_intent(attack, parts, tmp_path):
    path = tmp_path / "w.weights.h5"
    path.write_bytes(parts.members["model.weights.h5"])
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars/0"]
        del file[weights.DIGEST]
        attack(file, tmp_path)
    data = path.read_bytes().replace(weights._MARK, bytes(len(weights._MARK)))
    path.write_bytes(data)
    model = tiny_model()
    before = model.get_weights()
    tracemalloc.start()
    with pytest.raises(ValueError, match=H5_ATTACKS[attack]):
        model.load_weights(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    parts.members["model.weights.h5"] = data
    parts.write(tmp_path / "m.keras")
    with pytest.raises(FormatError, match=H5_ATTACKS[attack]):
        minicnn.load_model(tmp_path / "m.keras")


def test_a_file_far_larger_than_the_model_is_not_read(tiny, tmp_path):
    path = tmp_path / "sparse.weights.h5"
    with open(path, "wb") as file:
        file.write(b"\x89HDF\r\n\x1a\n")
        file.truncate(1 << 40)
    with pytest.raises(FormatError, match="has 1099511627776 bytes, far more than the model's"):
        tiny.load_weights(path)


def test_numbers_of_other_types_arrive(tiny, tmp_path):
    """Big-endian, half and double precision, any order in memory: the nearest float32."""
    path = tmp_path / "w.weights.h5"
    for dtype in (">f4", "<f8", "f2", "<i4"):
        tiny.save_weights(path)
        value = np.asfortranarray(np.arange(9).reshape(9, 1)).astype(dtype)
        with h5py.File(path, "r+") as file:
            del file["layers/dense/vars/0"], file[weights.DIGEST]
            file["layers/dense/vars/0"] = value
        path.write_bytes(path.read_bytes().replace(weights._MARK, bytes(len(weights._MARK))))
        tiny.load_weights(path)
        kernel = tiny.layers[-1].kernel.value
        assert kernel.dtype == np.float32
        np.testing.assert_array_equal(kernel, value.astype(np.float32))
    assert np.isfinite(tiny.predict(numbers(2, 4, 4, 1), verbose=0)).all()
