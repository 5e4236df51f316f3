"""The canary controller: drives declared canaries step by step, on the always-valid verdict of `models.canary`.

Level-triggered: every tick re-reads what is declared, what was decided and what is laid, and closes the difference. It acts
only through leased, fenced overlays that set weights; people's hands, blind telemetry and a lost fence make it hold.
"""
