"""The audit log: what the agent did, why, and how it ended, in files that show when somebody changed them.

`AuditLog` is the one writer; `read`, `find` and `verify` need nothing but the files.
"""

from agent.audit.chain import Record
from agent.audit.log import AuditLog, Keeping
from agent.audit.proof import Fault, Verification, verify
from agent.audit.reading import find, read

__all__ = ["AuditLog", "Fault", "Keeping", "Record", "Verification", "find", "read", "verify"]
