"""Kernels compiled as one piece: what a kernel calls is linked into it, not compiled by itself.

Numba makes machine code of every function it meets: of each function that a kernel calls, and of
the body of a parallel loop three times over (the body and two wrappers), each time with all that
is called in it. Only the code of the whole kernel is ever run. Here everything that is compiled on
the way is a `Part`: type-checked, to be linked, but neither optimised nor made into machine code,
since the optimisation of the whole kernel goes through all its functions anyway. Compiling the
kernels of the first training step of the CIFAR-10 network took 15 seconds of one core without the
parts' machine code and 35 with it (Sapphire Rapids); later, with more kernels, 32 without their
optimisation and 46 with it (Zen 4). The steps that follow are as fast either way.

Parts belong to a thread that holds Numba's compiler lock; other kernels of the same process, the
user's, are compiled as ever.
"""

import contextlib

from llvmlite import binding
from numba.core import codegen, compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.core.environment import lookup_environment
from numba.core.registry import CPUDispatcher


class Part(codegen.JITCodeLibrary):
    """Code that waits to be linked into a kernel."""

    def _optimize_final_module(self):
        """Not by itself: the optimisation of the kernel goes through all its functions anyway."""

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name):
        self._ensure_finalized()
        return 0  # Numba's word for: this library does not define it

    def serialize_using_object_code(self):
        return self.serialize_using_bitcode()

    @classmethod
    def _unserialize(cls, code, state):
        name, kind, content = state
        if kind == "object":
            code._library_class = Whole
            try:
                return Whole._unserialize(code, state)
            finally:
                code._library_class = cls
        part = cls(code, name)
        part._final_module = binding.parse_bitcode(content)
        part._finalize_final_module()
        return part


class Whole(codegen.JITCodeLibrary):
    """A kernel with all that it calls."""

    def _finalize_final_module(self):
        # Names of inner functions hold addresses of the process that compiled them, and kernels
        # compiled by several processes meet in one: nothing but the entry is visible.
        for function in self._final_module.functions:
            if function.linkage in (binding.Linkage.linkonce_odr, binding.Linkage.weak_odr):
                function.linkage = binding.Linkage.internal
        super()._finalize_final_module()


class Compiler(compiler.Compiler):
    """Numba's compiler; the outermost function gets a library of machine code."""

    def __init__(self, typing_context, target_context, library, args, result, flags, local):
        code = target_context.codegen()
        if code._library_class is not Part:
            raise RuntimeError("kernels are compiled by `Dispatcher.compile`")
        if library is None and code.outermost is not None:
            library = Whole(code, code.outermost)
            library.enable_object_caching()
            code.outermost = None
        elif library is None:
            flags.no_cpython_wrapper = True  # Python does not call a part
        super().__init__(typing_context, target_context, library, args, result, flags, local)


class Dispatcher(CPUDispatcher):
    """A compiled function: whole where Python calls it, a part where a kernel does."""

    def __init__(self, function, options):
        super().__init__(function, {}, {"nopython": True, "boundscheck": None, **options},
                         pipeline_class=Compiler)  # fmt: skip

    def compile(self, sig):
        with global_compiler_lock:
            code = self.targetctx.codegen()
            if code._library_class is Part:
                return super().compile(sig)
            known = self.overloads.get(tuple(sig))
            if known is not None and isinstance(known.library, Part):
                del self.overloads[tuple(sig)]  # now Python calls it, too
            with _parts(code, self.py_func.__qualname__):
                return super().compile(sig)

    def add_overload(self, cres):
        if isinstance(cres.library, Part):
            self.overloads[tuple(cres.signature.args)] = cres
            return
        for variable in cres.library._final_module.global_variables:
            environment = lookup_environment(variable.name)
            if environment is not None:
                cres.codegen.set_env(variable.name, environment)
        super().add_overload(cres)


@contextlib.contextmanager
def _parts(code, name):
    """Whatever is compiled meanwhile becomes a part of the kernel of this name."""
    ordinary, set_environment = code._library_class, code.set_env

    def set_known(variable, environment):
        """The variables of a part have no address yet."""
        if code._engine.get_global_value_address(variable):
            set_environment(variable, environment)

    code._library_class, code.set_env, code.outermost = Part, set_known, name
    try:
        yield
    finally:
        code._library_class = ordinary
        del code.set_env, code.outermost


def is_part(target_context):
    """Whether what is being compiled is called by a kernel."""
    return getattr(target_context.codegen(), "outermost", None) is None
