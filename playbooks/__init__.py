"""The playbook language and the shipped library of playbooks.

`load` reads playbooks, `library` returns the shipped ones, `playbooks.planning.plan` decides with them,
`playbooks.lint.lint` says what is wrong with a text.
"""

from playbooks.loading import library, load

__all__ = ["library", "load"]
