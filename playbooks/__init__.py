"""The playbook language and the shipped library of playbooks."""
