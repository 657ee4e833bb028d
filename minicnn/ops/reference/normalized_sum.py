"""A sum of two terms, one of them or both normalized on the way: the end of a residual block.

y = f(z1 + z2)      dx = f'(y) (sum of dys), the same for both terms
"""

from minicnn.ops.reference.elementwise import activate_grad, add
from minicnn.ops.reference.normalization import as_rows, batch_norm_inference
from minicnn.ops.reference.output import deliver


def add_normalized(terms, activation=None, out=None):
    """The sum of two terms: arrays (..., c), or what `batch_norm_train` would make of them, as
    (x, gamma, beta, mean, variance, epsilon); at least one is of that kind.

    `activation`, a rectifier ("relu",) or ("leaky_relu", slope), is applied to the sum.
    """
    values = [batch_norm_inference(*term) if isinstance(term, tuple) else term for term in terms]
    return add(values, activation, out)


def add_normalized_grad(dys, y, activation, terms, out=None):
    """dx of both terms of y = add_normalized(terms, activation), and for each the sums (2, c) that
    `batch_norm_train_grad` takes in place of its first pass; dys: the gradients of those that read
    y. None for a term that was not normalized."""
    dx = add(dys) if activation is None else activate_grad(add(dys), y, activation)
    return deliver(dx, y.dtype, out), *(_sums(dx, term) for term in terms)


def _sums(dx, term):
    """The sums over all pixels of dx and of dx (x - mean), if the term is normalized."""
    if not isinstance(term, tuple):
        return None
    x, _, _, mean, *_ = term
    rows = as_rows(dx)
    return rows.sum(axis=0), (rows * (as_rows(x) - mean)).sum(axis=0)
