"""The audit log: what the agent did, why, and how it ended, in a file that shows when somebody changed it.

`AuditLog` is the one writer; `read` and `verify` need nothing but the file.
"""

from agent.audit.chain import Record
from agent.audit.log import AuditLog
from agent.audit.reading import Verification, read, verify

__all__ = ["AuditLog", "Record", "Verification", "read", "verify"]
