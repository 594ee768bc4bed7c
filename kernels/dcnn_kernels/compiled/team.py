"""How threads take parts of a loop without Python: handing one over takes less than a microsecond while they are awake.

A team's state is a few words that all its threads see. One of them is the ticket: which loop it is, in how many parts, and the
first that nobody has taken. To take a part is to raise the ticket by one, which fails, and is tried again, where another thread
was faster; who has succeeded knows that the loop can't end before, and that what was read of it belongs together.
"""

from __future__ import annotations

import inspect
import platform
from collections.abc import Callable
from types import FunctionType

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from .jit import OPTIONS, compiled

#: The state's words, 64 bytes apart where other threads write them: (loop's number, parts, next part), 32, 16 and 16 bits.
TICKET = 0
#: What the loop is: a function's address, that of its arguments, and the range's length.
FUNCTION, ARGUMENTS, COUNT = 8, 9, 10
#: Parts that have ended, and whether one of them failed.
DONE, FAILED = 16, 17
WORDS = 24
#: The most parts of a loop.
MOST = (1 << 16) - 1

X86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")

_WORD = ir.IntType(64)
_PART = ir.FunctionType(ir.IntType(32), [_WORD, _WORD, _WORD, ir.IntType(8).as_pointer()])


def state() -> npt.NDArray[np.int64]:
    """A team's state: no loop."""
    return np.zeros(WORDS, np.int64)


def parted(loop: Callable[..., None]) -> Callable[..., None]:
    """Compiles a loop that a team's threads take parts of.

    Args:
        loop: ``loop(first, last, *arguments)`` works on a part of a range. If its third parameter is called ``memory``, it is
            given that row of a matrix, the first of ``arguments``, that is the thread's own.

    Returns:
        ``run(state, count, parts, *arguments)``, which works on ``range(count)`` together with those who :func:`serve` the state,
        and returns when all parts have ended.
    """
    works = list(inspect.signature(loop).parameters)[2] == "memory"
    names = {
        "loop": numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)(loop),
        "publish": _publish_with_memory if works else _publish,
    }
    code, like = _run.__code__, loop.__code__
    # Numba keeps what it has compiled by a function's name and place.
    code = code.replace(co_filename=like.co_filename, co_firstlineno=like.co_firstlineno, co_name=loop.__name__)
    run = FunctionType(code, {**globals(), **names}, loop.__name__)
    run.__qualname__, run.__module__ = loop.__qualname__, loop.__module__
    return compiled(run)


def _run(state, count, parts, *arguments):
    publish(loop, state, count, parts, arguments)  # noqa: F821  # the loop's own
    while take_part(state, 0):
        pass
    while word_of(state, DONE) < parts:
        pause()


@compiled
def serve(state, who, patience):
    """Takes parts of whatever loops a team gets, until there has been none for a while.

    Args:
        state: The team's.
        who: The thread's number in the team; 0 is the one whose loop it is.
        patience: How often to look for a part in vain.
    """
    idle = 0
    while idle < patience:
        if take_part(state, who):
            idle = 0
        else:
            pause()
            idle += 1


def _publisher(works):
    """Makes what lets a team have a loop, whose arguments stay where they are until the function that calls it returns.

    Args:
        works: Whether the first argument is a matrix, of which the loop is given the thread's own row.
    """

    @intrinsic
    def publish(typing, loop, state, count, parts, arguments):
        given = list(arguments)
        if works:
            given[0] = types.Array(given[0].dtype, 1, "C")
        called = loop.get_call_type(typing, (types.int64, types.int64, *given), {})

        def generate(context, builder, signature, values):
            result = loop.dispatcher.get_compile_result(called)._asdict()
            context.active_code_library.add_linking_library(result["library"])
            part = ir.Function(builder.module, _PART, builder.module.get_unique_name("part"))
            part.linkage = "internal"
            inner = ir.IRBuilder(part.append_basic_block())
            first, last, who, address = part.args
            pointer = inner.bitcast(address, context.get_value_type(arguments).as_pointer())
            taken = cgutils.unpack_tuple(inner, inner.load(pointer))
            taken = [_borrowed(context, inner, kind, value) for kind, value in zip(arguments, taken, strict=True)]
            if works:
                taken[0] = _row(context, inner, arguments[0], taken[0], given[0], who)
            function = context.declare_function(builder.module, result["fndesc"])
            status, _ = context.call_conv.call_function(inner, function, types.none, called.args, [first, last, *taken])
            inner.ret(inner.zext(status.is_error, ir.IntType(32)))

            def write(place, value):
                builder.store_atomic(value, _word_at(context, builder, state, values[1], place), "monotonic", 8)

            write(FUNCTION, builder.ptrtoint(part, _WORD))
            write(ARGUMENTS, builder.ptrtoint(cgutils.alloca_once_value(builder, values[4]), _WORD))
            write(COUNT, values[2])
            write(DONE, _WORD(0))
            ticket = _word_at(context, builder, state, values[1], TICKET)
            number = builder.add(builder.lshr(builder.load(ticket), _WORD(32)), _WORD(1))
            new = builder.or_(builder.shl(number, _WORD(32)), builder.shl(values[3], _WORD(16)))
            builder.store_atomic(new, ticket, "release", 8)
            return context.get_dummy_value()

        return types.void(loop, state, types.int64, types.int64, arguments), generate

    return publish


_publish, _publish_with_memory = _publisher(False), _publisher(True)


def _borrowed(context, builder, kind, value):
    """An argument whose arrays aren't counted: threads that count references to one array wait for each other."""
    if isinstance(kind, types.BaseTuple):
        parts = cgutils.unpack_tuple(builder, value)
        parts = [_borrowed(context, builder, *part) for part in zip(kind, parts, strict=True)]
        return context.make_tuple(builder, kind, parts)
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo, array.parent = (ir.Constant(pointer.type, None) for pointer in (array.meminfo, array.parent))
    return array._getvalue()


def _row(context, builder, matrix, value, kind, number):
    """A row of a contiguous matrix."""
    rows = context.make_array(matrix)(context, builder, value)
    row = context.make_array(kind)(context, builder)
    width = builder.extract_value(rows.shape, 1)
    data = builder.gep(rows.data, [builder.mul(number, width)])
    populate_array(row, data, [width], [rows.itemsize], rows.itemsize, None)
    return row._getvalue()


@intrinsic
def take_part(typing, state, who):
    """Works on a part, and tells whether there was one."""

    def generate(context, builder, signature, values):
        def at(place):
            return _word_at(context, builder, state, values[0], place)

        look, claim, work, leave = (builder.append_basic_block(name) for name in ("look", "claim", "work", "leave"))
        builder.branch(look)

        builder.position_at_end(look)
        ticket = builder.load_atomic(at(TICKET), "acquire", 8)
        number, parts = builder.and_(ticket, _WORD(MOST)), builder.and_(builder.lshr(ticket, _WORD(16)), _WORD(MOST))
        builder.cbranch(builder.icmp_unsigned("<", number, parts), claim, leave)

        builder.position_at_end(claim)
        function, given, count = (builder.load_atomic(at(place), "monotonic", 8) for place in (FUNCTION, ARGUMENTS, COUNT))
        raised = builder.cmpxchg(at(TICKET), ticket, builder.add(ticket, _WORD(1)), "acq_rel", "monotonic")
        builder.cbranch(builder.extract_value(raised, 1), work, look)

        builder.position_at_end(work)
        first, last = (builder.udiv(builder.mul(count, edge), parts) for edge in (number, builder.add(number, _WORD(1))))
        function = builder.inttoptr(function, _PART.as_pointer())
        failed = builder.call(function, [first, last, values[1], builder.inttoptr(given, ir.IntType(8).as_pointer())])
        builder.atomic_rmw("or", at(FAILED), builder.zext(failed, _WORD), "monotonic")
        builder.atomic_rmw("add", at(DONE), _WORD(1), "release")
        builder.branch(leave)

        builder.position_at_end(leave)
        took = builder.phi(ir.IntType(1))
        took.add_incoming(ir.IntType(1)(0), look)
        took.add_incoming(ir.IntType(1)(1), work)
        return took

    return types.boolean(state, types.int64), generate


@intrinsic
def word_of(typing, state, place):
    """A word of the state as another thread has left it, and all that it wrote before."""

    def generate(context, builder, signature, values):
        pointer = builder.gep(context.make_array(state)(context, builder, values[0]).data, [values[1]])
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(state, types.int64), generate


@intrinsic
def pause(typing):
    """Leaves the core's resources to others for a moment."""

    def generate(context, builder, signature, values):
        if X86:
            pausing = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, pausing, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


def _word_at(context, builder, state, value, place):
    return builder.gep(context.make_array(state)(context, builder, value).data, [_WORD(place)])
