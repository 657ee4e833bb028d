"""What can be said about data before and while a network learns: verdicts with a figure and advice.

findings.py holds the verdicts and their table, arrays.py looks at arrays alone, networks.py at what
a model makes of them. The checks that train copies of a model are in training_check.py of the
package, those during `fit` in callbacks.
"""

from minicnn.checks.findings import Finding, Report

__all__ = ["Finding", "Report"]
